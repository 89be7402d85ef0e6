package lane

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/lease"
)

// A timer can end its process, too. Those that were due when a lane was taken from the dead may have been under way,
// like messages: they are noted with them, and when the lane's messages run alone they do, each behind a mark of its
// own. One that has ended as many processes as a message may is given up: its owner lets a person decide.

// timerTopic begins the name under which a timer's deaths are kept; no topic has such a name.
const timerTopic = "timer:"

func timerRef(lane int, id string) Ref {
	return Ref{TopicLane: mainstay.TopicLane{Topic: timerTopic + id, Lane: lane}, Sequence: 1}
}

func isTimer(ref Ref) bool { return strings.HasPrefix(ref.Topic, timerTopic) }

// dueTimers are the timers that may have been under way in lanes that were taken from the dead, by lane.
func (r *run) dueTimers(ctx context.Context, taken []lease.Lease, now time.Time) (map[int][]string, error) {
	due := map[int][]string{}
	for _, l := range taken {
		if r.c.Timers == nil || !l.Unclean {
			continue
		}
		ids, err := r.c.Timers.Due(ctx, []int{l.Lane}, now, timerBatch)
		if err != nil {
			return nil, err
		}
		due[l.Lane] = ids
	}
	return due, nil
}

// suspicious are the lanes of which timers may have ended the last holder.
func (r *run) suspicious() (found []*laneState) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, ls := range r.lanes {
		if ls.inFlight != nil && len(ls.inFlight.timers) > 0 && !ls.leaving {
			found = append(found, ls)
		}
	}
	return found
}

// fireSuspects forgets what is not due any more of the timers in flight, and fires the others one at a time where their
// lane runs alone; elsewhere they are fired with all others.
func (r *run) fireSuspects(ctx, work context.Context, t *timing, now time.Time) error {
	for _, ls := range r.suspicious() {
		due, err := r.c.Timers.Due(ctx, []int{ls.lease.Lane}, now, r.timerLimit(t))
		if err != nil {
			return err
		}
		r.mu.Lock()
		f, alone := ls.inFlight, ls.alone()
		maps.DeleteFunc(f.timers, func(id string, _ bool) bool {
			return !slices.Contains(due, id) || ls.deadly[timerRef(ls.lease.Lane, id)] > 0
		})
		ids := slices.SortedFunc(maps.Keys(f.timers), func(a, b string) int {
			return cmp.Compare(f.counts[timerRef(ls.lease.Lane, a)], f.counts[timerRef(ls.lease.Lane, b)])
		})
		r.mu.Unlock()
		for _, id := range ids {
			if !alone || ctx.Err() != nil {
				break
			}
			if err := r.fireOne(work, t, ls, id); err != nil {
				return err
			}
		}
		r.acquit(work, &task{lanes: []*laneState{ls}})
		r.signal()
	}
	return nil
}

// fireOne fires one timer with nothing beside it in this process, or gives it up when too many have ended under it.
func (r *run) fireOne(ctx context.Context, t *timing, ls *laneState, id string) error {
	r.e.gate.Lock()
	defer r.e.gate.Unlock()
	r.mu.Lock()
	mark := Crash{Ref: timerRef(ls.lease.Lane, id), Running: true}
	mark.Count = ls.inFlight.counts[mark.Ref]
	r.mu.Unlock()
	if !r.putMark(ctx, ls, mark) {
		return ErrTransient // it was logged
	}
	err := r.fireOrAbandon(ctx, t, ls, id, mark)
	mark.Running = false
	if r.holds(ls) {
		r.putMark(ctx, ls, mark)
	}
	if errors.Is(err, lease.ErrFenced) || errors.Is(err, ErrTransient) {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		ls.deadly[mark.Ref] = mark.Count
		r.e.cfg.Logger.ErrorContext(ctx, "a timer that ended processes is not fired any more, a person must look", "consumer", r.c.Name, "id", id, "err", err)
	}
	delete(ls.inFlight.timers, id)
	return nil
}

// fireOrAbandon fires a timer, or gives it up; one that has ended a process even then is left alone, with an error.
func (r *run) fireOrAbandon(ctx context.Context, t *timing, ls *laneState, id string, mark Crash) error {
	u := Unit{Consumer: r.c.Name, Era: ls.era, Leases: []lease.Lease{ls.lease}}
	switch deaths := aloneAfter + mark.Count; {
	case deaths < r.e.cfg.Retry.Crashes:
		return r.fireAll(ctx, u, []string{id}, t.lame)
	case deaths == r.e.cfg.Retry.Crashes:
		return r.abandon(ctx, u, id, &crashError{deaths})
	default:
		return &crashError{deaths}
	}
}

// abandon gives a timer up.
func (r *run) abandon(ctx context.Context, u Unit, id string, why error) error {
	err := r.e.cfg.Store.Unit(ctx, u, func(ctx context.Context, tx Tx) error { return r.c.Timers.Abandon(ctx, tx, id, why) })
	if err == nil {
		r.e.cfg.Logger.ErrorContext(ctx, "a timer was given up, a person must look", "consumer", r.c.Name, "id", id, "err", why)
	}
	return err
}

// timerLimit is how many due timers are to be read for a batch: those that are not fired now come along each time.
func (r *run) timerLimit(t *timing) int {
	limit := timerBatch + len(t.lame)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, ls := range r.lanes {
		limit += len(ls.deadly)
		if ls.alone() {
			limit += len(ls.inFlight.timers)
		}
	}
	return limit
}

// firesAlone says that a timer is one of those in flight of a lane that runs alone, or is not fired at all.
func (r *run) firesAlone(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, ls := range r.lanes {
		if ls.alone() && ls.inFlight.timers[id] || ls.deadly[timerRef(ls.lease.Lane, id)] > 0 {
			return true
		}
	}
	return false
}
