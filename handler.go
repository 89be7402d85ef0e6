package mainstay

import (
	"context"
	"database/sql"
	"time"
)

// Dialect names the SQL that a transaction understands.
type Dialect string

// Dialects.
const (
	Postgres Dialect = "postgres"
	SQLite   Dialect = "sqlite"
)

// Tx is the transaction in which a handler's effects, its outgoing messages and the consumer's place commit
// together, or not at all. It is used by one goroutine, and is dead when the handler has returned.
//
// Statements begin with a tag, as in "/* inventory.reserve */ select ...", so that the database's own statistics
// name them. Placeholders are $1, $2, ... in both dialects.
type Tx interface {
	// Dialect says which SQL to use.
	Dialect() Dialect
	// Now is the transaction's one instant, to the microsecond, in UTC.
	Now() time.Time
	// ExecContext and QueryContext run a statement now. Rows must be closed before the next call.
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	// Queue runs a statement before the commit, after those queued before it, in as few round trips as the
	// database allows; its failure fails the transaction. Use it for writes whose result is not needed.
	Queue(query string, args ...any)
	// Send appends messages to the outbox, in this order, as the last thing before the commit.
	Send(msgs ...*Message)
	// OnCommit runs fn after the commit, if there is one, in this process only: for what may be missed, as a
	// wake-up may. fn must not block.
	OnCommit(fn func())
}

// Handler handles one message at a time.
type Handler interface {
	// Handle applies the message's effect in tx. The error's kind (see KindOf) says what happens next: nil moves
	// the consumer's place; a retryable error parks the message; a terminal one makes it a dead letter; of a
	// saga's command, a rejection is sent as the reply. It may be called again for a message whose transaction
	// did not commit, never for one that did.
	Handle(ctx context.Context, tx Tx, m *Message) error
}

// HandlerFunc is a function as a Handler.
type HandlerFunc func(ctx context.Context, tx Tx, m *Message) error

// Handle calls f.
func (f HandlerFunc) Handle(ctx context.Context, tx Tx, m *Message) error { return f(ctx, tx, m) }

// BatchHandler handles messages by the batch, which is what makes set-based statements possible.
type BatchHandler interface {
	// HandleBatch applies the effects of all messages, which are of several keys, in order within each key. It
	// answers with one error per message, or nil when all succeeded; what the messages with an error have written
	// must be nothing. The second result fails the transaction as a whole: it is rolled back and the messages
	// are tried in smaller batches, until those that cannot be handled stand alone.
	HandleBatch(ctx context.Context, tx Tx, ms []*Message) ([]error, error)
}

// Remote handles commands by a call to something outside the database, in three parts: the command is taken and
// recorded as a call, in a transaction; the call is made outside any transaction; its outcome is settled in a
// second transaction, together with the reply.
type Remote interface {
	// Call makes the call for m. It is repeated, with the same m, until its outcome is definite: nil (done, with
	// a result for Settle), or a Rejection (refused for good). Any other error means that nobody knows: it is
	// called again after a backoff, so every call must carry a key that makes its repetition harmless, derived
	// from m.StepKey. A terminal error ends the repetitions with a dead letter. It is called by many goroutines
	// at once; ctx has the call's own deadline.
	//
	// For a compensation (HeaderOp is OpUndo) the call must cancel by key: after it, the action of the same
	// StepKey has no effect, whether its call came before, comes later, or never.
	Call(ctx context.Context, m *Message) (result any, err error)
	// Settle writes the effects of finished calls in tx. Its error fails the transaction, which is repeated.
	Settle(ctx context.Context, tx Tx, done []Settlement) error
}

// Settlement is a finished call.
type Settlement struct {
	Message *Message
	// Result is what Call answered; nil when Rejection is set.
	Result any
	// Rejection is the callee's definite refusal, nil when the call was done.
	Rejection *Rejection
}
