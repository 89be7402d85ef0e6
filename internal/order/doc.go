// Package order is the bounded context of orders: what a client may post, what it is told, and the saga that carries
// an order to its end.
//
// An order is accepted once per idempotency key and ends as confirmed, cancelled or, until a person has acted,
// needs_operator. Personal data (the payment token, the address) is taken in and never told again.
package order
