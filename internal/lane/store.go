package lane

import (
	"context"
	"errors"
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/history"
	"github.com/mainstay-io/mainstay/internal/lease"
)

// ErrTransient marks a failure of the database, not of the work: a serialization failure, a deadlock, a lost
// connection, a transaction that did not get its turn. The unit did not commit (or, where the connection was lost
// during the commit, may have: its places tell), and is repeated; it counts for no message.
var ErrTransient = errors.New("the database could not take the transaction now")

// Place is the last sequence that a consumer has handled of one log.
type Place struct {
	mainstay.TopicLane
	Incarnation int64
	Sequence    int64
	MessageID   string
}

// ParkedState says what a parked message waits for.
type ParkedState string

// States of parked messages.
const (
	ParkedRetry  ParkedState = "retry"  // failed; tried again when due
	ParkedCall   ParkedState = "call"   // a remote call, made (again) when due
	ParkedQueued ParkedState = "queued" // waits behind the head of its key
	ParkedDead   ParkedState = "dead"   // a dead letter: only a person moves it
	ParkedReplay ParkedState = "replay" // a person has moved it, its attempts kept; tried at once
)

// Ref names a parked message: its place in the log, within one consumer.
type Ref struct {
	mainstay.TopicLane
	Sequence int64
}

// Parked is a message that was taken out of its lane into its key's own queue, which is ordered by Ref.Sequence.
type Parked struct {
	Ref
	Key   string
	State ParkedState
	// StepKey and Op name the saga's step, empty for a message that is no command.
	StepKey string
	Op      string
	// Attempts counts the runs so far that failed.
	Attempts int
	Due      time.Time
	Error    string
	// ParkedAt is since when it is parked; from its first failure on, since then. Repark with a zero value leaves it.
	ParkedAt time.Time
	// Message is nil in a listing without bodies.
	Message *mainstay.Message
}

// DeadLetter is what is recorded when a parked message's budget is spent, or when it failed terminally.
type DeadLetter struct {
	Ref
	Message  *mainstay.Message
	Kind     mainstay.Kind
	Error    string
	Attempts int
	At       time.Time
}

// Ends of a dead letter's case.
const (
	DeadResolved   = "resolved"   // replayed, and handled
	DeadSuperseded = "superseded" // its step's compensation has come
)

// Barrier is what a participant knows of one direction of a saga's step: its outcome, for ever the same.
type Barrier struct {
	StepKey   string
	Op        string
	Outcome   mainstay.Outcome
	Code      string
	Detail    string
	MessageID string
}

// Tx is the transaction of one unit of work. All methods but Barriers take effect when the unit commits, and in
// what order among each other does not matter, but for statements that were queued by the handler.
type Tx interface {
	mainstay.Tx
	// Flush runs what is queued so far, so that what follows sees it.
	Flush(ctx context.Context) error
	// Move moves the consumer's place of a log; the unit fails with lease.ErrFenced if it is not at from.
	Move(from, to Place)
	// Park inserts parked messages, Repark updates state, attempts, due time, error and ParkedAt, Unpark removes; one call for
	// a message in a unit. The unit fails with lease.ErrFenced if a message to change or remove is not parked: a
	// repetition of a unit that did commit must not have its effects again.
	Park(ps ...Parked)
	Repark(ps ...Parked)
	Unpark(refs ...Ref)
	// DeadLetter opens a case, or opens it again; EndDeadLetter ends it if there is an open one.
	DeadLetter(ds ...DeadLetter)
	EndDeadLetter(end string, refs ...Ref)
	// Barriers reads what is known of steps, in both directions; PutBarriers adds to it. A direction that is there
	// already fails the unit.
	Barriers(ctx context.Context, stepKeys []string) ([]Barrier, error)
	PutBarriers(bs ...Barrier)
	// PutCrash replaces what is known of a crash; one without a count that is not running is forgotten.
	PutCrash(c Crash)
}

// Unit says for whom a transaction is.
type Unit struct {
	Consumer string
	// Era is the database's when the lanes were read; another one fences the unit, as does a lost lease. It may be
	// empty.
	Era string
	// Leases are locked, and their epochs checked, before the first statement of the transaction; where there is none,
	// before it commits.
	Leases []lease.Lease
}

// Registration is a consumer as the database knows it.
type Registration struct {
	Consumer string
	Topics   []string
	// Elsewhere are those of the topics whose logs another database may have: what is at the broker under their names
	// is no stranger's then. It matters only as long as this database has not written to them.
	Elsewhere []string
	// Latest starts at the end of the logs, instead of at their beginning; it matters only the first time.
	Latest bool
}

// Store is what the engine needs of the consumer's database.
type Store interface {
	lease.Sharing
	// Register makes the consumer known, with a place in every lane of its topics.
	Register(ctx context.Context, r Registration) error
	// Begin puts places to where the consumer begins in logs of another database. A place that has begun, there or
	// because it was moved, stays; one that has not is registered with incarnation 0.
	Begin(ctx context.Context, consumer string, starts []Place) error
	// Seam is what the database says of its own history.
	Seam(ctx context.Context) (history.Seam, error)
	// Places reads the places of a consumer in the given lanes.
	Places(ctx context.Context, consumer string, lanes []int) ([]Place, error)
	// ParkedKeys lists what is parked in the given lanes, by key and sequence, without bodies.
	ParkedKeys(ctx context.Context, consumer string, lanes []int) ([]Parked, error)
	// LoadParked reads parked messages with their bodies; those that are gone are left out.
	LoadParked(ctx context.Context, consumer string, refs []Ref) ([]Parked, error)
	// Crashes reads what Tx.PutCrash has written for the given lanes.
	Crashes(ctx context.Context, consumer string, lanes []int) ([]Crash, error)
	// Heads and ReadLog read the log of the database itself: see relay.Store.
	Heads(ctx context.Context) (map[mainstay.TopicLane]int64, error)
	ReadLog(ctx context.Context, after map[mainstay.TopicLane]int64, limit int) ([]*mainstay.Message, error)
	// Lines reads how far the logs of topics have been handled in the given lanes; one that no consumer of the
	// database has is left out.
	Lines(ctx context.Context, topics []string, lanes []int) ([]Line, error)
	// Unit runs fn in one transaction under the unit's leases and commits it. lease.ErrFenced: a lease was lost.
	// ErrTransient: try again. fn's own error comes back as it is, a panic of fn as *mainstay.PanicError;
	// nothing was written then. It blocks until the database has answered.
	Unit(ctx context.Context, u Unit, fn func(ctx context.Context, tx Tx) error) error
}
