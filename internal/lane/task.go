package lane

import (
	"container/heap"
	"context"
	"sync"
	"time"

	"github.com/mainstay-io/mainstay"
)

// task is what a worker does in one go.
type task struct {
	lanes  []*laneState // marked busy
	items  []item
	gaps   []gap // logs that are to be read first
	parked []due // heads of queues to try now
	ended  []*finished
	alone  *single // nothing but this
}

func (t *task) empty() bool {
	return t.alone == nil && len(t.items) == 0 && len(t.gaps) == 0 && len(t.parked) == 0 && len(t.ended) == 0
}

// gap is a log of which messages have not arrived.
type gap struct {
	ls    *laneState
	topic string
}

// item is a message on its way through a unit: the next one of its log, or, with a row, the head of its key's queue.
type item struct {
	ls  *laneState
	m   *mainstay.Message
	row *Parked
	// early is the call that was made first, nil when none was.
	early *early
}

// work runs tasks until ctx ends.
func (r *run) work(ctx, work context.Context, all *sync.WaitGroup) {
	for ctx.Err() == nil {
		t, until := r.take()
		if !t.empty() {
			r.do(ctx, work, all, t)
			r.acquit(work, t)
			r.giveBack(t)
			continue
		}
		r.idle(ctx, until)
	}
}

// idle waits for a signal, or until the next parked message is due.
func (r *run) idle(ctx context.Context, until time.Time) {
	var timer <-chan time.Time
	if !until.IsZero() {
		t := time.NewTimer(max(0, until.Sub(r.e.cfg.Clock())))
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-ctx.Done():
	case <-r.wake:
	case <-timer:
	}
}

// take collects what there is to do in lanes that nobody works on, and marks them busy. When there is nothing it
// tells when to look again.
func (r *run) take() (*task, time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := &task{}
	if !r.wasAlone && r.takeAlone(t) {
		return t, time.Time{}
	}
	r.takeEnded(t)
	until := r.takeDue(t)
	for _, ls := range r.lanes {
		if r.taken(t, ls) || !ls.busy {
			r.takeMessages(t, ls)
		}
	}
	if t.empty() && r.takeAlone(t) {
		return t, until
	}
	r.wasAlone = false
	if !t.empty() && r.e.cfg.Pool > 1 {
		r.signal() // for the next worker of the pool
	}
	return t, until
}

func (r *run) taken(t *task, ls *laneState) bool {
	for _, l := range t.lanes {
		if l == ls {
			return true
		}
	}
	return false
}

// claim marks a lane busy for the task; false when another worker has it, or nothing may begin in it.
func (r *run) claim(t *task, ls *laneState) bool {
	return !ls.leaving && !ls.alone() && r.claimEnded(t, ls)
}

// claimEnded is claim for what has begun already, before the lane was given back or ran its messages alone.
func (r *run) claimEnded(t *task, ls *laneState) bool {
	if r.taken(t, ls) {
		return true
	}
	if ls.busy || ls.gone {
		return false
	}
	ls.busy = true
	t.lanes = append(t.lanes, ls)
	return true
}

func (r *run) takeEnded(t *task) {
	rest := r.ended[:0]
	for _, f := range r.ended {
		switch {
		case f.ls.gone:
		case len(t.ended) < r.e.cfg.Batch && r.claimEnded(t, f.ls):
			t.ended = append(t.ended, f)
		default:
			rest = append(rest, f)
		}
	}
	clear(r.ended[len(rest):])
	r.ended = rest
}

// takeDue takes the heads of queues whose time has come, and tells when the next one's will. A head whose lane is
// busy is set aside until the lane is given back, a call until its turn comes.
func (r *run) takeDue(t *task) (until time.Time) {
	now := r.e.cfg.Clock()
	for len(r.due) > 0 && !r.due[0].at.After(now) && len(t.parked) < r.e.cfg.Batch {
		d := heap.Pop(&r.due).(due) //nolint:errcheck // the heap holds nothing else
		switch {
		case !d.counts():
		case d.ls.deadly[d.q.rows[0].Ref] > 0:
			d.ls.setAside(d.q.rows[0].Ref)
			d.ls.late = append(d.ls.late, d)
		case r.isCall(&d.q.rows[0]):
			r.turns = append(r.turns, d)
		default:
			r.takeHead(t, d)
		}
	}
	if len(r.due) > 0 {
		until = r.due[0].at
	}
	r.takeTurns(t)
	return until
}

// takeTurns takes as many calls as may begin.
func (r *run) takeTurns(t *task) {
	for free := r.e.cfg.Calls - r.calls; free > 0 && len(r.turns) > 0; {
		d := r.turns[0]
		r.turns[0] = due{}
		r.turns = r.turns[1:]
		if d.counts() && r.takeHead(t, d) {
			free--
		}
	}
}

func (r *run) takeHead(t *task, d due) bool {
	if !r.claim(t, d.ls) {
		d.ls.late = append(d.ls.late, d)
		return false
	}
	d.q.pending = false
	t.parked = append(t.parked, d)
	return true
}

// isCall says that a parked message is a remote call to make.
func (r *run) isCall(p *Parked) bool {
	return p.State == ParkedCall && r.c.Participant != nil && r.c.Participant.Remote != nil
}

// takeMessages takes what has arrived in a lane, and notes where the log is to be read.
func (r *run) takeMessages(t *task, ls *laneState) {
	for topic := range ls.places {
		buf := ls.buf[topic]
		room := r.e.cfg.Batch - len(t.items)
		switch {
		case room <= 0:
			return
		case len(buf) == 0 && !ls.lacks[topic]:
			continue
		case !r.claim(t, ls):
			return
		}
		if len(buf) == 0 {
			ls.lacks[topic] = false
			t.gaps = append(t.gaps, gap{ls, topic})
			continue
		}
		n := min(len(buf), room)
		for _, m := range buf[:n] {
			t.items = append(t.items, item{ls: ls, m: m})
		}
		ls.buf[topic] = buf[n:]
	}
}

// giveBack ends a task. What it was to do and has not done is done again.
func (r *run) giveBack(t *task) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, f := range t.ended {
		if current(f) {
			q := f.ls.queues[f.row.key()]
			q.calling = false
			r.schedule(f.ls, q)
		}
	}
	for _, d := range t.parked {
		if d.ls.queues[d.q.key] == d.q {
			r.schedule(d.ls, d.q)
		}
	}
	for _, ls := range t.lanes {
		ls.busy = false
		if ls.leaving {
			r.e.look()
		}
		r.resume(ls)
		for topic := range ls.places {
			ls.settle(topic)
		}
	}
	r.signal()
}

// due is a key's queue whose head wants to be looked at.
type due struct {
	at time.Time
	ls *laneState
	q  *keyQueue
	n  int
}

// counts says that the entry still is the queue's own.
func (d due) counts() bool { return !d.ls.gone && d.q.pending && d.n == d.q.n }

// schedule sees to it that exactly one entry waits for the queue's head, if the head waits for a time; r.mu is held.
func (r *run) schedule(ls *laneState, q *keyQueue) {
	waits := len(q.rows) > 0 && !q.calling && q.rows[0].State != ParkedDead
	if waits && q.pending && q.at.Equal(q.rows[0].Due) {
		return
	}
	q.pending = waits
	q.n++
	if waits {
		q.at = q.rows[0].Due
		heap.Push(&r.due, due{q.at, ls, q, q.n})
	}
	if len(q.rows) == 0 {
		delete(ls.queues, q.key)
	}
}

type dueHeap []due
