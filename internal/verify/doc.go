// Package verify checks, in a database, that the promise was kept: nothing that was accepted is lost, doubled or left
// half done. It reads the tables themselves and shares no code with those who write them, so that one mistake cannot
// hide the other; only the order's saga definition is taken from its owner.
//
// # What it looks at
//
// Every check reads one snapshot, so that it is as true of a running system as of one that stands still. What is under
// way is told from what is wrong: an order that has not ended may hold stock and money, a message behind a consumer's
// place may have had no effect yet. Pending orders inside their deadline, open dead letters and orders that need an
// operator are counted, and are no violations.
//
// The payment gateway's store is another database. What is compared with it holds in whichever of the two is read
// later, and each comparison says which that is.
//
// # Not promised
//
// Messages older than the first that the outbox still has, and idempotency records past their retention, are beyond
// what can be checked. Checks read whole tables: on a large database they take as long as that takes, in constant
// memory.
package verify
