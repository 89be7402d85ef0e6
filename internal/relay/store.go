package relay

import (
	"context"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/history"
	"github.com/mainstay-io/mainstay/internal/lease"
)

// Progress is how far a log was published: the highest sequence that the broker has acknowledged, and the log's last
// record at the broker, its position and the message in it. The two differ while the log is refilled.
type Progress struct {
	mainstay.TopicLane
	Incarnation    int64
	Sequence       int64
	MessageID      string
	BrokerPosition int64
}

// Refill is the second cursor of a log: everything behind Sequence, up to the last message published, is published
// once more. Reason is for an operator.
type Refill struct {
	mainstay.TopicLane
	Sequence int64
	Reason   string
}

// Advance moves a refill from one sequence to the next, or ends it.
type Advance struct {
	mainstay.TopicLane
	From, To int64
	Done     bool
}

// Save is what a round has changed: progress and refills, under the leases of their lanes. Era and Incarnation are the
// relay's idea of the database's history; the zero values are any.
type Save struct {
	Era         string
	Incarnation int64
	Leases      []lease.Lease
	Progress    []Progress
	Refills     []Advance
}

// Opening says which incarnation is to be opened: one above Seen, which is the current one, and above Above, the
// highest that the broker has seen. Logs are those that must have it, even if nothing was ever written to them.
type Opening struct {
	Seen, Above int64
	Logs        []mainstay.TopicLane
	Reason      string
}

// Store is what the relay needs of the database.
type Store interface {
	// Heads answers with the last sequence of every log, those without messages excepted.
	Heads(ctx context.Context) (map[mainstay.TopicLane]int64, error)
	// ReadLogIn reads messages of the given logs, each after the sequence given for it, in order within each log and
	// at most limit in all, taken from the logs in turn. What the process itself has just written comes from memory.
	// Each of them was read in this era, or it is lease.ErrFenced: after what was published in one era nothing of
	// another may follow before the two were compared.
	ReadLogIn(ctx context.Context, era string, after map[mainstay.TopicLane]int64, limit int) ([]*mainstay.Message, error)
	// Progress reads the progress of every log.
	Progress(ctx context.Context) ([]Progress, error)
	// SaveProgress writes progress, and moves refills, under the leases of their lanes; lease.ErrFenced when one of
	// them was lost, the era is over, or the incarnation is: then nothing is written. A refill that is not at From any more was taken back
	// meanwhile, and stays where it is.
	SaveProgress(ctx context.Context, s Save) error
	// Seam is what the database says of its own history.
	Seam(ctx context.Context) (history.Seam, error)
	// Logs names every log of this database that somebody writes or reads.
	Logs(ctx context.Context) ([]mainstay.TopicLane, error)
	// Compared notes that log and broker were compared in this era; in another one it does nothing.
	Compared(ctx context.Context, era string) error
	// OpenIncarnation lets every log go on in a new incarnation, behind what was published or handled of it. It does
	// nothing, and answers false, when Seen is not the current one any more.
	OpenIncarnation(ctx context.Context, o Opening) (opened bool, err error)
	// Refills reads the refills under way, of every log.
	Refills(ctx context.Context) ([]Refill, error)
	// StartRefill begins a refill, or takes the one that is under way back to the given sequence if it is beyond.
	StartRefill(ctx context.Context, f Refill) error
	// FirstRetained answers with the first sequence that is kept of every log of which messages were removed; of the
	// others it is 1.
	FirstRetained(ctx context.Context) (map[mainstay.TopicLane]int64, error)
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
