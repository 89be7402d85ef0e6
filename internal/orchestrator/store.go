package orchestrator

import (
	"context"
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/saga"
)

// Row is a saga instance as the database keeps it.
type Row struct {
	saga.Instance
	Key  string
	Lane int
	// Due is when a Tick is wanted at the latest, zero for never. It may be earlier than State.Due: a transition does
	// not move it on, only a Tick that came too early does.
	Due time.Time
	// DueKept says that Due is what it was when the row was loaded: a store need not write it.
	DueKept bool
	// Ended is set when the status is completed or compensated.
	Ended time.Time
}

// History is one transition of an instance.
type History struct {
	SagaID    string
	Version   int64
	At        time.Time
	MessageID string
	Entry     string
	Sent      []string
}

// Store keeps instances. Its methods work inside the caller's transaction.
type Store interface {
	// Insert adds instances with their first history.
	Insert(ctx context.Context, tx mainstay.Tx, rows []*Row, hs []History) error
	// Load reads and locks instances, in the order of their ids; those that are not there are left out.
	Load(ctx context.Context, tx mainstay.Tx, ids []string) ([]*Row, error)
	// Save writes instances whose Version was raised by one since they were loaded, and history; the transaction
	// fails if one of them changed in between.
	Save(ctx context.Context, tx mainstay.Tx, rows []*Row, hs []History) error
	// Postpone writes the Due of instances, and nothing else of them.
	Postpone(ctx context.Context, tx mainstay.Tx, rows []*Row) error
	// Due reads the ids of instances of a definition, in the given lanes, whose time has come, the oldest first.
	Due(ctx context.Context, definition string, lanes []int, now time.Time, limit int) ([]string, error)
	// Urgent reads those of them that are not being compensated and were created at begun or before.
	Urgent(ctx context.Context, definition string, lanes []int, now, begun time.Time, limit int) ([]string, error)
}
