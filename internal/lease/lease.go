// Package lease shares lanes between processes: a lease is (name, lane), held by one holder for a time that the
// database measures, with an epoch that grows at every change of hands. Whoever writes under a lease checks its
// epoch in the same transaction, so that a holder that was paused past its time can do no harm.
//
// Any number of processes share the lanes of a name fairly, see Member: each takes its part and gives up what is more,
// so that the lanes of one that has gone are taken over, and one that comes gets some. None decides for others.
package lease

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"time"
)

// ErrFenced means that a lease is held by somebody else now, or by the same holder under a later epoch. What was to
// be written under it was not.
var ErrFenced = errors.New("lease: fenced, another holder has taken over")

// Lease is one lane held.
type Lease struct {
	Name  string
	Lane  int
	Epoch int64
	// Unclean says that the lease was taken over from a holder whose time ran out, rather than released.
	Unclean bool
	// From is that holder; "" where it was released.
	From string
}

// LogTaken says of which holders lanes were taken over that had not given them back: a line for each of them, however
// many lanes it is. What was free is everyday's sharing, and worth no line.
func LogTaken(ctx context.Context, log *slog.Logger, taken []Lease) {
	lanes := map[string][]int{}
	for _, l := range taken {
		if l.From != "" {
			lanes[l.From] = append(lanes[l.From], l.Lane)
		}
	}
	for _, from := range slices.Sorted(maps.Keys(lanes)) {
		log.InfoContext(ctx, "taken over from a process that is gone or silent",
			"lease", taken[0].Name, "lanes", len(lanes[from]), "from", from)
	}
}

// Store keeps leases. Times are the database's.
type Store interface {
	// Acquire takes those of the lanes that are free, expired, or the holder's own, each under a new epoch, and
	// answers with what it took. With force it takes all: for a process that knows that it is alone.
	Acquire(ctx context.Context, name string, lanes []int, holder string, ttl time.Duration, force bool) ([]Lease, error)
	// Renew extends leases and answers with those that are still held under their epoch.
	Renew(ctx context.Context, holder string, leases []Lease, ttl time.Duration) ([]Lease, error)
	// Release gives leases back; those that are no longer held are left alone.
	Release(ctx context.Context, holder string, leases []Lease) error
}

// Sharing keeps leases whose lanes are shared among members.
type Sharing interface {
	Store
	// Attend makes the holder known for ttl as one of those that share the lanes of name, and says how things stand.
	// One that has died does not count, as soon as the database knows; one that has merely fallen silent counts
	// until its time is over.
	Attend(ctx context.Context, name, holder string, ttl time.Duration) (Standing, error)
	// Leave ends that at once; it keeps no leases and gives none back.
	Leave(ctx context.Context, name, holder string) error
}

// Standing is how the lanes of a name are shared at a moment.
type Standing struct {
	// Members is how many holders attend, the one that asks included.
	Members int
	// Taken are the lanes that others hold.
	Taken []int
}
