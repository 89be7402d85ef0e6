package lane

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/lease"
)

// A handler can end its whole process: os.Exit, a fault in a foreign library, all memory used up. Nobody is left to
// count that attempt, and the next holder of the lane would run into the same message for ever. So a holder that finds
// a lane whose last holder did not give it back notes it, with what was in flight: what followed the places, one batch
// at most, and the heads of queues that were due. All that may be a coincidence the first time, and nothing changes.
// When the second holder in a row has died before that was passed, the messages in flight run one at a time, with
// nothing beside them in the process, each behind a mark that is committed first. A process that ends then leaves the
// mark, which names the message; without one, no message is charged.
//
// A dead letter that came of it keeps its count. Replayed, it runs alone from the first, and the next process that it
// ends makes it a dead letter again.

// aloneAfter is how many holders in a row must have died in a lane before its messages in flight run alone.
const aloneAfter = 2

// Crash is what is known of processes that ended while they held a lane: with Ref.Sequence 0 how many in a row, else
// under how many of them the message was alone, and whether it is run alone now.
type Crash struct {
	Ref
	Count   int
	Running bool
}

// inFlight is what may have ended earlier holders of a lane; it is read and changed under the run's mutex.
type inFlight struct {
	count  int              // holders in a row that died
	until  map[string]int64 // the last sequence that may have been in flight, by topic
	heads  map[Ref]bool     // parked messages that may have been
	timers map[string]bool  // timers that were due
	counts map[Ref]int      // processes that ended while this message, or timer, ran alone
	// replayed says that one of the heads has ended processes before.
	replayed bool
}

func newInFlight() *inFlight {
	return &inFlight{until: map[string]int64{}, heads: map[Ref]bool{}, timers: map[string]bool{}, counts: map[Ref]int{}}
}

// alone says that what was in flight runs one at a time.
func (ls *laneState) alone() bool {
	return ls.inFlight != nil && (ls.inFlight.count >= aloneAfter || ls.inFlight.replayed)
}

// setAside makes a parked message that has ended processes run alone; r.mu is held.
func (ls *laneState) setAside(ref Ref) {
	if ls.inFlight == nil {
		ls.inFlight = newInFlight()
	}
	f := ls.inFlight
	f.heads[ref], f.counts[ref], f.replayed = true, ls.deadly[ref], true
}

// crashError is the cause of a dead letter that ended its processes.
type crashError struct{ deaths int }

func (e *crashError) Error() string {
	return fmt.Sprintf("%d processes in a row ended while they handled this message, the last of them while it ran alone; "+
		"look at how they ended (exit code, memory, stack) before it is replayed", e.deaths)
}

// examine finds out what was in flight in lanes that were just taken, and notes the death of their last holders.
func (r *run) examine(ctx context.Context, taken []lease.Lease, states map[int]*laneState) error {
	lanes := make([]int, len(taken))
	for i, l := range taken {
		lanes[i] = l.Lane
	}
	known, err := r.e.cfg.Store.Crashes(ctx, r.c.Name, lanes)
	if err != nil {
		return err
	}
	unclean := slices.ContainsFunc(taken, func(l lease.Lease) bool { return l.Unclean })
	if !unclean && len(known) == 0 {
		return nil
	}
	heads, err := r.e.cfg.Store.Heads(ctx)
	if err != nil {
		return err
	}
	now := r.e.cfg.Clock()
	timers, err := r.dueTimers(ctx, taken, now)
	if err != nil {
		return err
	}
	for _, l := range taken {
		ls := states[l.Lane]
		mine := slices.DeleteFunc(slices.Clone(known), func(c Crash) bool { return c.Lane != l.Lane })
		mine = slices.DeleteFunc(mine, func(c Crash) bool { return ls.knowDeadly(c, r.e.cfg.Retry.Crashes-aloneAfter) })
		if l.Unclean || len(mine) > 0 {
			ls.suspect(mine, heads, timers[l.Lane], int64(r.e.cfg.Batch), now)
		}
	}
	if err := r.note(ctx, taken, states); err != nil {
		return err
	}
	for _, ls := range states {
		if ls.inFlight != nil && ls.inFlight.count == 0 {
			ls.inFlight = nil
		}
	}
	return nil
}

// knowDeadly says that what is known is of a message that is parked and was tried before, a dead letter or one that is
// replayed, or of a timer that has ended more processes than its budget has, and keeps it.
func (ls *laneState) knowDeadly(c Crash, budget int) bool {
	if n := c.died(ls); isTimer(c.Ref) && n > budget {
		ls.deadly[c.Ref] = n
		return true
	}
	if p := ls.parked(c.Ref); p != nil && p.Attempts > 0 {
		ls.deadly[c.Ref] = c.died(ls)
		return true
	}
	return false
}

// parked is a parked message's row, nil when it is not parked.
func (ls *laneState) parked(ref Ref) *Parked {
	for _, q := range ls.queues {
		for i := range q.rows {
			if q.rows[i].Ref == ref {
				return &q.rows[i]
			}
		}
	}
	return nil
}

// died is the count, with the death of the lane's last holder if it ran the message alone.
func (c Crash) died(ls *laneState) int {
	if c.Running && ls.lease.Unclean {
		return c.Count + 1
	}
	return c.Count
}

// suspect notes what may have been in flight.
func (ls *laneState) suspect(known []Crash, heads map[mainstay.TopicLane]int64, timers []string, batch int64, now time.Time) {
	f := newInFlight()
	for _, id := range timers {
		f.timers[id] = true
	}
	for _, c := range known {
		if c.Sequence == 0 {
			f.count = c.Count
			continue
		}
		f.counts[c.Ref] = c.died(ls)
		if p, ok := ls.places[c.Topic]; ok && c.Sequence <= p.Sequence && ls.parked(c.Ref) == nil {
			f.counts[c.Ref] = 0 // somebody has removed it
		}
	}
	if ls.lease.Unclean {
		f.count++
	}
	for topic, p := range ls.places {
		if head := heads[p.TopicLane]; head > p.Sequence {
			f.until[topic] = min(head, p.Sequence+batch)
		}
	}
	for _, q := range ls.queues {
		if len(q.rows) > 0 && q.rows[0].State != ParkedDead && !q.rows[0].Due.After(now) {
			f.heads[q.rows[0].Ref] = true
		}
	}
	for ref := range f.heads {
		if n := ls.deadly[ref]; n > 0 {
			f.counts[ref] = n
		}
	}
	if len(f.until)+len(f.heads)+len(f.timers) == 0 { // whatever the last holder died of, it was no message of this lane
		f.count = 0
		for ref := range f.counts {
			f.counts[ref] = 0
		}
	}
	ls.inFlight = f
}

// note writes how many holders have died in each lane.
func (r *run) note(ctx context.Context, taken []lease.Lease, states map[int]*laneState) error {
	var cs []Crash
	for n, ls := range states {
		if ls.lease.Unclean {
			for ref, count := range ls.deadly {
				cs = append(cs, Crash{Ref: ref, Count: count})
			}
		}
		f := ls.inFlight
		if f == nil {
			continue
		}
		cs = append(cs, Crash{Ref: laneItself(n), Count: f.count})
		for ref, count := range f.counts {
			cs = append(cs, Crash{Ref: ref, Count: count})
		}
	}
	if len(cs) == 0 {
		return nil
	}
	return r.putCrashes(ctx, slices.Clone(taken), cs...)
}

func laneItself(n int) Ref { return Ref{TopicLane: mainstay.TopicLane{Lane: n}} }

// nextInFlight gives a message that was in flight and has not been passed, the one under which the fewest processes ended;
// of a log only the first can be next. False when there is none; r.mu is held.
func (ls *laneState) nextInFlight() (ref Ref, count int, ok bool) {
	f := ls.inFlight
	consider := func(other Ref) {
		if !ok || f.counts[other] < count {
			ref, count, ok = other, f.counts[other], true
		}
	}
	for other := range f.heads {
		if ls.headOf(other) == nil {
			delete(f.heads, other)
			continue
		}
		consider(other)
	}
	for topic, until := range f.until {
		if p := ls.places[topic]; p.Sequence < until {
			consider(Ref{TopicLane: p.TopicLane, Sequence: p.Sequence + 1})
		}
	}
	return ref, count, ok
}

// headOf is the queue that has this message at its head; nil when none has.
func (ls *laneState) headOf(ref Ref) *keyQueue {
	for _, q := range ls.queues {
		if len(q.rows) > 0 && q.rows[0].Ref == ref && q.rows[0].State != ParkedDead {
			return q
		}
	}
	return nil
}

// takeAlone makes a task of one message in flight, of the lane whose next one is charged least; false when no lane
// runs its messages alone. A lane that has none left makes a task too, which ends it. r.mu is held.
func (r *run) takeAlone(t *task) bool {
	least := -1
	for _, ls := range r.lanes {
		if ls.busy || ls.leaving || !ls.alone() {
			continue
		}
		ref, count, ok := ls.nextInFlight()
		if !ok && len(ls.inFlight.timers) > 0 {
			continue // they are fired elsewhere
		}
		if least >= 0 && ok && count >= least {
			continue
		}
		least = count
		t.alone, t.lanes = &single{ref: ref, count: count, none: !ok}, []*laneState{ls}
	}
	if t.alone == nil {
		return false
	}
	t.lanes[0].busy, r.wasAlone = true, true
	return true
}

// single is the message that a task runs alone.
type single struct {
	ref   Ref
	count int  // processes that ended under it so far
	none  bool // there is nothing left to run
}

// doAlone runs one message with nothing beside it in this process, or makes it a dead letter when too many processes
// have ended under it.
func (r *run) doAlone(ctx, work context.Context, t *task) {
	if t.alone.none {
		return
	}
	it, ok := r.find(ctx, t)
	if !ok {
		wait(ctx, 200*time.Millisecond) // it could not be read, which was logged
		return
	}
	r.e.gate.Lock()
	defer r.e.gate.Unlock()
	if aloneAfter+t.alone.count >= r.e.cfg.Retry.Crashes {
		r.giveUp(work, r.fail(work, it, &crashError{aloneAfter + t.alone.count}))
		r.holdAgainst(it.ls, t.alone.ref)
		return
	}
	mark := Crash{Ref: t.alone.ref, Count: t.alone.count, Running: true}
	if !r.putMark(work, it.ls, mark) {
		return
	}
	r.runAlone(ctx, work, t, it)
	mark.Running = false
	if r.holds(it.ls) {
		r.putMark(work, it.ls, mark)
	}
}

// holdAgainst keeps the count of a message that has become a dead letter, so that one death more is enough when it is
// replayed.
func (r *run) holdAgainst(ls *laneState, ref Ref) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, q := range ls.queues {
		if len(q.rows) > 0 && q.rows[0].Ref == ref && q.rows[0].State == ParkedDead {
			ls.deadly[ref] = r.e.cfg.Retry.Crashes - aloneAfter - 1
		}
	}
}

// holds says that the lane is still this process's.
func (r *run) holds(ls *laneState) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !ls.gone
}

func (r *run) runAlone(ctx, work context.Context, t *task, it item) {
	if it.row == nil || !r.isCall(it.row) {
		r.handle(work, nil, []item{it})
		return
	}
	f := &finished{ls: it.ls, row: *it.row}
	t.ended = []*finished{f} // giveBack sees to it, should it not be settled
	r.mu.Lock()
	it.ls.queues[it.key()].calling = true
	r.calling(1)
	r.mu.Unlock()
	began := r.e.cfg.Clock()
	f.result, f.err = r.invoke(ctx, it.m)
	f.took = r.e.cfg.Clock().Sub(began)
	r.mu.Lock()
	r.calling(-1)
	r.mu.Unlock()
	if ctx.Err() == nil {
		r.handle(work, t.ended, nil)
	}
}

// find reads the message that is to run alone.
func (r *run) find(ctx context.Context, t *task) (item, bool) {
	ls, ref := t.lanes[0], t.alone.ref
	if q := ls.headOf(ref); q != nil {
		loaded, err := r.loadParked(ctx, []Ref{ref})
		r.mu.Lock()
		defer r.mu.Unlock()
		if q.rows[0].Message = loaded[ref]; q.rows[0].Message == nil {
			if err == nil {
				r.notParked(ctx, ls, ref)
			}
			return item{}, false
		}
		head := q.rows[0]
		return item{ls: ls, m: head.Message, row: &head}, true
	}
	items := r.next(r.readLog(ctx, []gap{{ls, ref.Topic}}, 1))
	if len(items) == 0 {
		return item{}, false
	}
	return items[0], true
}

// putCrashes writes what is known of crashes; doing it twice is the same as once.
func (r *run) putCrashes(ctx context.Context, leases []lease.Lease, cs ...Crash) error {
	sortLeases(leases)
	return r.e.retry(ctx, "noting what ended processes", func() error {
		return r.e.cfg.Store.Unit(ctx, Unit{Consumer: r.c.Name, Leases: leases}, func(_ context.Context, tx Tx) error {
			for _, c := range cs {
				tx.PutCrash(c)
			}
			return nil
		})
	})
}

// putMark is putCrashes for a lane that is held; false when that did not work, which is logged.
func (r *run) putMark(ctx context.Context, ls *laneState, cs ...Crash) bool {
	err := r.putCrashes(ctx, []lease.Lease{ls.lease}, cs...)
	if errors.Is(err, lease.ErrFenced) {
		r.drop(ls.lease.Lane, ls.lease.Epoch)
		r.e.look()
	}
	if err != nil && ctx.Err() == nil {
		r.e.cfg.Logger.WarnContext(ctx, "it could not be noted what ended processes", "consumer", r.c.Name, "lane", ls.lease.Lane, "err", err)
		wait(ctx, 200*time.Millisecond)
	}
	return err == nil
}

// acquit forgets the deaths in the task's lanes of which all that was in flight has been passed. What cannot be
// written now is written after the lane's next task.
func (r *run) acquit(ctx context.Context, t *task) {
	for _, ls := range t.lanes {
		r.mu.Lock()
		f := ls.inFlight
		passed := f != nil && !ls.gone
		if passed {
			_, _, more := ls.nextInFlight()
			passed = !more && len(f.timers) == 0
		}
		r.mu.Unlock()
		if !passed {
			continue
		}
		cs := []Crash{{Ref: laneItself(ls.lease.Lane)}}
		r.mu.Lock()
		for ref := range f.counts {
			cs = append(cs, Crash{Ref: ref, Count: ls.deadly[ref]})
		}
		r.mu.Unlock()
		if !r.putMark(ctx, ls, cs...) {
			continue
		}
		r.mu.Lock()
		ls.inFlight = nil
		r.resume(ls) // which the end of the lane's task does as well, but timers have none
		r.mu.Unlock()
	}
}

// passed notes that a unit has changed a queue: its head, as it was in flight, has been survived, and of what is parked
// no more nothing is kept; r.mu is held.
func (ls *laneState) passed(o *overlay) {
	for i := range o.was {
		ref := o.was[i].Ref
		if ls.inFlight != nil {
			delete(ls.inFlight.heads, ref)
		}
		if !o.has(func(p *Parked) bool { return p.Ref == ref }) {
			delete(ls.deadly, ref)
		}
	}
}
