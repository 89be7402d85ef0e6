package relay

import (
	"context"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/lease"
)

// Progress is how far a log was published: the last sequence that the broker has acknowledged, its message, and
// where the broker keeps it.
type Progress struct {
	mainstay.TopicLane
	Incarnation    int64
	Sequence       int64
	MessageID      string
	BrokerPosition int64
}

// Store is what the relay needs of the database.
type Store interface {
	// Heads answers with the last sequence of every log, those without messages excepted.
	Heads(ctx context.Context) (map[mainstay.TopicLane]int64, error)
	// ReadLog reads messages of the given logs, each after the sequence given for it, in order within each log and
	// at most limit in all, taken from the logs in turn. What the process itself has just written comes from memory.
	ReadLog(ctx context.Context, after map[mainstay.TopicLane]int64, limit int) ([]*mainstay.Message, error)
	// Progress reads the progress of every log.
	Progress(ctx context.Context) ([]Progress, error)
	// SaveProgress writes progress under the leases of its lanes; lease.ErrFenced when one of them was lost: then
	// nothing is written. Progress goes back when a broker that lost messages is filled again.
	SaveProgress(ctx context.Context, leases []lease.Lease, ps []Progress) error
	// MinPlaces answers with the lowest place of any registered consumer by log: what nobody needs from the broker
	// any more. Logs without a consumer are left out.
	MinPlaces(ctx context.Context) (map[mainstay.TopicLane]int64, error)
	// DeadLetter records that the broker refuses m for ever. Repeated for the same message it changes nothing: a
	// refill meets the message again.
	DeadLetter(ctx context.Context, m *mainstay.Message, reason error) error
	// Wake gives a channel that has a value soon after the log grew; signals are coalesced and may be missed, so
	// polling remains the truth. Every call gives a channel of its own; stop ends it.
	Wake() (wake <-chan struct{}, stop func())
}
