// Package lane is the engine under every consumer. It reads lanes of topics, runs handlers on batches of messages,
// and keeps, in the consumer's own database and in the effect's own transaction, how far the consumer has come.
//
// # Guarantees
//
//   - One process at a time works on a lane of a consumer: the holder of its lease. Every transaction checks the
//     lease's epoch, and moves the place from exactly where the holder believes it to be.
//   - A message at or below the place is a duplicate and is skipped; the next one is handled; one beyond it is a
//     gap, and what is missing is read from the database.
//   - A message that fails is taken out of the lane into its key's queue (parked), and what comes later of the same
//     key waits behind it. Other keys go on. A message whose budget is spent, or that no repetition can help, is a
//     dead letter: recorded in the same transaction, still at the head of its key's queue.
//   - Commands of sagas pass a barrier: a repeated command gets the first one's reply, a compensation whose action
//     never came is recorded so that the action does nothing when it comes after all, and a compensation takes the
//     place of whatever is parked of its step.
//
// # Not promised
//
// Handlers may run more than once for a message, as long as no run has committed. A message's neighbours in a batch
// are whoever arrived with it.
//
// # Goroutines
//
// Run owns all goroutines: per lane one that reads the broker, per consumer a pool that runs units of work, and for
// remote handlers a bounded pool of calls. Nothing else calls a handler.
package lane
