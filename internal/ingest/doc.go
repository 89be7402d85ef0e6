// Package ingest accepts requests for good, once per idempotency key. It knows neither what is accepted (a WriteFunc
// stores it) nor how it came (HTTP is elsewhere).
//
// # Guarantees
//
//   - An answer without an error means that the item, its idempotency record and its outbox rows are committed in
//     one transaction.
//   - The same key with the same fingerprint gets the first answer again, byte for byte; with another fingerprint
//     it gets ErrKeyReused, and nothing changes.
//   - A caller never waits without bound: a full process answers ErrOverloaded at once, a key that is in flight
//     ErrInFlight after a short wait.
//
// # What is not promised
//
// An error other than ErrKeyReused and the item's own does not mean that nothing was written: a caller that left, or
// was told ErrUnavailable after an ambiguous commit, finds out by asking again with the same key.
//
// # Group commit
//
// Requests that arrive while a commit is under way are folded into the next one; an idle process commits at once.
// Within one process a key is in one group only, so groups that commit side by side never wait for each other's
// rows; across processes the order of the keys prevents deadlocks.
package ingest
