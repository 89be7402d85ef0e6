package lane

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/mainstay-io/mainstay/internal/lease"
)

const (
	// timerBatch is the most timers that fire in one transaction.
	timerBatch = 256
	// lamePause is how long a timer that cannot be fired is left alone.
	lamePause = time.Minute
)

// timers fires what becomes due, until ctx ends.
func (r *run) timers(ctx, work context.Context) {
	lame := map[string]time.Time{} // what could not be fired, and when it is tried again
	for wait(ctx, r.e.cfg.TimerPoll) {
		for r.fire(ctx, work, lame) {
		}
	}
}

// fire fires one batch; true when there may be more.
func (r *run) fire(ctx, work context.Context, lame map[string]time.Time) bool {
	leases := r.leases()
	if len(leases) == 0 || ctx.Err() != nil {
		return false
	}
	sortLeases(leases)
	lanes := make([]int, len(leases))
	for i, l := range leases {
		lanes[i] = l.Lane
	}
	now := r.e.cfg.Clock()
	maps.DeleteFunc(lame, func(_ string, until time.Time) bool { return !now.Before(until) })
	limit := timerBatch + len(lame)
	ids, err := r.c.Timers.Due(ctx, lanes, now, limit)
	more := len(ids) == limit
	ids = slices.DeleteFunc(ids, func(id string) bool { _, ok := lame[id]; return ok })
	if err == nil && len(ids) > 0 {
		r.e.gate.RLock()
		err = r.fireAll(work, Unit{Consumer: r.c.Name, Era: r.era(), Leases: leases}, ids, lame)
		r.e.gate.RUnlock()
	}
	switch {
	case err == nil:
		return more
	case ctx.Err() != nil, errors.Is(err, lease.ErrFenced), errors.Is(err, ErrTransient):
	default:
		r.e.cfg.Logger.ErrorContext(ctx, "timers could not be read, trying again", "consumer", r.c.Name, "err", err)
	}
	return false
}

// era is the oldest in which a lane was read.
func (r *run) era() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	oldest := ""
	for _, ls := range r.lanes {
		if oldest == "" || ls.era < oldest {
			oldest = ls.era
		}
	}
	return oldest
}

// fireAll fires timers in one transaction if it can be, and in ever smaller parts otherwise, so that one that fails
// delays no other. It answers with an error only when the database or the lease is the reason.
func (r *run) fireAll(ctx context.Context, u Unit, ids []string, lame map[string]time.Time) error {
	err := r.e.cfg.Store.Unit(ctx, u, func(ctx context.Context, tx Tx) error {
		return r.c.Timers.Fire(ctx, tx, slices.Clone(ids))
	})
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil, r.interrupted(ctx, err), errors.Is(err, lease.ErrFenced), errors.Is(err, ErrTransient):
		return err
	case len(ids) == 1:
		lame[ids[0]] = r.e.cfg.Clock().Add(lamePause)
		r.e.cfg.Logger.ErrorContext(ctx, "a timer could not be fired, it is tried again later", "consumer", r.c.Name,
			"id", ids[0], "err", err)
		return nil
	}
	if err := r.fireAll(ctx, u, ids[:len(ids)/2], lame); err != nil {
		return err
	}
	return r.fireAll(ctx, u, ids[len(ids)/2:], lame)
}
