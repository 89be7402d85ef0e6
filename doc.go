// Package mainstay is the vocabulary of an event-driven message processing backbone: the message and its
// envelope, the handler that a consumer runs on it, and the kinds of error by which a handler says what is to
// happen next.
//
// # Guarantees
//
//   - A message that was appended to the outbox in a committed transaction is in the log for ever after, under one
//     (topic, lane, sequence); sequences are dense, so a consumer can prove that it missed none.
//   - A message takes effect at most once per consumer: the consumer's place moves in the effect's own
//     transaction. Unless it is dead-lettered, it also takes effect at least once.
//   - Messages with the same key are handled in commit order by each consumer.
//
// # What is not promised
//
// Delivery is at-least-once: a broker may carry a message twice, late, or never, and a consumer copes with all of
// it. Messages with different keys have no order.
//
// The package imports the standard library only. Writing to the outbox is in package outbox, sagas are in package
// saga, running handlers is in package worker.
package mainstay
