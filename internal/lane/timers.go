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

// timing is what the goroutine of the timers remembers.
type timing struct {
	patience
	lame map[string]time.Time // what could not be fired, and when it is tried again
}

// timers fires what becomes due, until ctx ends.
func (r *run) timers(ctx, work context.Context) {
	t := &timing{patience: patience{holds: map[int]*hold{}}, lame: map[string]time.Time{}}
	for wait(ctx, r.e.cfg.TimerPoll) {
		for r.fire(ctx, work, t) {
		}
	}
}

// fire fires a batch of what is due and has waited long enough; true when there may be more.
func (r *run) fire(ctx, work context.Context, t *timing) bool {
	leases := r.leases()
	if len(leases) == 0 || ctx.Err() != nil {
		return false
	}
	sortLeases(leases)
	now := r.e.cfg.Clock()
	maps.DeleteFunc(t.lame, func(_ string, until time.Time) bool { return !now.Before(until) })
	more, err := false, r.fireSuspects(ctx, work, t, now)
	if err == nil {
		more, err = r.fireDue(ctx, work, t, leases, now)
	}
	switch {
	case err == nil:
		return more
	case ctx.Err() != nil, errors.Is(err, lease.ErrFenced): // lanes that are lost are dropped when the leases are renewed
	case errors.Is(err, ErrTransient):
		r.e.cfg.Logger.WarnContext(ctx, "the database did not take timers, trying again", "consumer", r.c.Name, "err", err)
	default:
		r.e.cfg.Logger.ErrorContext(ctx, "timers could not be read, trying again", "consumer", r.c.Name, "err", err)
	}
	return false
}

// era is the one in which the lanes were read.
func (r *run) era() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	first, era := true, ""
	for _, ls := range r.lanes {
		if first {
			first, era = false, ls.era
		}
		era = oneEra(era, ls.era)
	}
	return era
}

func (r *run) fireDue(ctx, work context.Context, t *timing, leases []lease.Lease, now time.Time) (more bool, err error) {
	lanes := lanesOf(leases)
	if ids, err := r.c.Timers.Due(ctx, lanes, now, 1); err != nil || len(ids) == 0 {
		clear(t.holds)
		return false, err
	}
	ripe, err := r.ripe(ctx, &t.patience, lanes, now)
	if err != nil {
		return false, err
	}
	limit := r.timerLimit(t)
	for due, of := range ripe {
		lanes = slices.DeleteFunc(lanes, func(lane int) bool { return slices.Contains(of, lane) })
		ids, err := r.c.Timers.Due(ctx, of, due, limit)
		if err == nil {
			err = r.fireBatch(work, t, leases, of, ids)
		}
		if err != nil {
			return false, err
		}
		if len(ids) < limit {
			t.fired(of)
		}
		more = more || len(ids) == limit
	}
	if len(lanes) == 0 {
		return more, nil
	}
	ids, err := r.c.Timers.Urgent(ctx, lanes, now, limit)
	if err == nil {
		err = r.fireBatch(work, t, leases, lanes, ids)
	}
	return err == nil && (more || len(ids) == limit), err
}

// fireBatch fires those of the timers that are not lame, under the leases of their lanes.
func (r *run) fireBatch(ctx context.Context, t *timing, leases []lease.Lease, lanes []int, ids []string) error {
	ids = slices.DeleteFunc(ids, func(id string) bool { _, ok := t.lame[id]; return ok || r.firesAlone(id) })
	if len(ids) == 0 {
		return nil
	}
	leases = slices.DeleteFunc(slices.Clone(leases), func(l lease.Lease) bool { return !slices.Contains(lanes, l.Lane) })
	r.e.gate.RLock()
	defer r.e.gate.RUnlock()
	return r.fireAll(ctx, Unit{Consumer: r.c.Name, Era: r.era(), Leases: leases}, ids, t.lame)
}

func lanesOf(leases []lease.Lease) []int {
	lanes := make([]int, len(leases))
	for i, l := range leases {
		lanes[i] = l.Lane
	}
	return lanes
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
