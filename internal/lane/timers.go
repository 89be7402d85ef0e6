package lane

import (
	"context"
	"errors"

	"github.com/mainstay-io/mainstay/internal/lease"
)

// timerBatch is the most timers that fire in one transaction.
const timerBatch = 256

// timers fires what becomes due, until ctx ends.
func (r *run) timers(ctx, work context.Context) {
	for wait(ctx, r.e.cfg.TimerPoll) {
		for r.fire(ctx, work) {
		}
	}
}

// fire fires one batch; true when there may be more.
func (r *run) fire(ctx, work context.Context) bool {
	leases := r.leases()
	if len(leases) == 0 {
		return false
	}
	sortLeases(leases)
	lanes := make([]int, len(leases))
	for i, l := range leases {
		lanes[i] = l.Lane
	}
	ids, err := r.c.Timers.Due(ctx, lanes, r.e.cfg.Clock(), timerBatch)
	if err == nil && len(ids) > 0 {
		u := Unit{Consumer: r.c.Name, Leases: leases}
		err = r.e.cfg.Store.Unit(work, u, func(ctx context.Context, tx Tx) error { return r.c.Timers.Fire(ctx, tx, ids) })
	}
	switch {
	case err == nil:
		return len(ids) == timerBatch && ctx.Err() == nil
	case ctx.Err() != nil, errors.Is(err, lease.ErrFenced), errors.Is(err, ErrTransient):
		return false
	default:
		r.e.cfg.Logger.ErrorContext(ctx, "timers could not be fired, trying again", "consumer", r.c.Name, "err", err)
		return false
	}
}
