package lane

import "time"

// Outcomes of messages, as Hooks.Handled counts them.
const (
	HandledDone       = "done"
	HandledRejected   = "rejected"   // a business answer
	HandledDuplicate  = "duplicate"  // at or below the place
	HandledRepeated   = "repeated"   // the barrier repeated a reply
	HandledNull       = "null"       // a compensation without its action
	HandledHanging    = "hanging"    // an action after its compensation
	HandledSuperseded = "superseded" // a parked action whose compensation came
	HandledParked     = "parked"
	HandledCoalesced  = "coalesced" // the same command is parked already
	HandledDead       = "dead"
)

// Outcomes of calls, as Hooks.Called counts them.
const (
	CallDone     = "done"
	CallRejected = "rejected"
	CallUnknown  = "unknown"
	CallDropped  = "dropped" // superseded while it was under way
)

// Hooks observes an engine. Methods are called by several goroutines and must not block.
type Hooks interface {
	// Handled counts messages by outcome.
	Handled(consumer, outcome string, n int)
	// Batch is one committed transaction of n messages.
	Batch(consumer string, n int, d time.Duration)
	// Called is one remote call.
	Called(consumer, outcome string, d time.Duration)
	// Calling is how many remote calls are under way.
	Calling(consumer string, n int)
	// Gap counts messages that were read from the database because the broker did not deliver them.
	Gap(consumer string, n int)
}

type noHooks struct{}

func (noHooks) Handled(string, string, int)          {}
func (noHooks) Batch(string, int, time.Duration)     {}
func (noHooks) Called(string, string, time.Duration) {}
func (noHooks) Calling(string, int)                  {}
func (noHooks) Gap(string, int)                      {}
