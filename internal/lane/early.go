package lane

import (
	"context"
	"sync"
	"time"

	"github.com/mainstay-io/mainstay"
)

// A call is parked before it is made, so that whoever holds the lane after a crash knows of it, and so that one who has
// lost the lane, or his database its latest history, does not get as far as calling. A process that has the database
// and its log for itself needs no row for either: nobody else can have the lane, and as long as the place has not passed
// the command it comes again, and with it the call, by the same key, before all that follows it. So there a call is made
// first. What is answered at once is settled in the unit that moves the place; what is not is parked under way.

// soon is for how long a task waits for its calls before they are parked. While calls take longer, none is made first.
const soon = 10 * time.Millisecond

// early is a call that was made before it was parked.
type early struct {
	f *finished
	// answered says that it had come back in time; of the task's worker.
	answered bool
	// back says that it has come back, parked that its row is committed; guarded by the run's mutex.
	back, parked bool
}

// callFirst makes the calls of those commands that are the first of their steps, and waits until they are answered, but
// not for long. It holds no transaction.
func (r *run) callFirst(ctx context.Context, all *sync.WaitGroup, items []item) {
	if r.e.cfg.Known == nil || r.c.Participant == nil || r.c.Participant.Remote == nil {
		return
	}
	todo := r.firsts(ctx, r.callable(items))
	if len(todo) == 0 {
		return
	}
	came := make(chan struct{}, len(todo))
	r.mu.Lock()
	r.calling(len(todo))
	r.mu.Unlock()
	for _, it := range todo {
		it.early = &early{f: &finished{ls: it.ls}}
		all.Go(func() {
			r.callEarly(ctx, it.m, it.early)
			came <- struct{}{}
		})
	}
	inTime := await(ctx, came, len(todo))
	r.mu.Lock()
	defer r.mu.Unlock()
	if !inTime {
		r.usual = max(r.usual, 2*soon)
	}
	for _, it := range todo {
		it.early.answered = it.early.back
	}
}

// await waits for n values; false when they did not come soon, or ctx ended.
func await(ctx context.Context, came <-chan struct{}, n int) bool {
	limit := time.NewTimer(soon)
	defer limit.Stop()
	for range n {
		select {
		case <-came:
		case <-ctx.Done():
			return false
		case <-limit.C:
			return false
		}
	}
	return true
}

// callable are the commands to act whose keys have nothing parked and no other message among the items, as many as there
// may be calls; none while calls take long.
func (r *run) callable(items []item) []*item {
	type line struct {
		ls  *laneState
		key queueKey
	}
	of := map[line]int{}
	for _, it := range items {
		of[line{it.ls, it.key()}]++
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.usual >= soon {
		return nil
	}
	var todo []*item
	for i := range items {
		it := &items[i]
		if len(todo) >= r.e.cfg.Calls-r.calls {
			break
		}
		if it.row == nil && it.m.Header(mainstay.HeaderOp) == mainstay.OpDo && of[line{it.ls, it.key()}] == 1 &&
			it.ls.queues[it.key()] == nil && it.ls.away[it.m.Topic] == nil && r.knows(it.m) == nil {
			todo = append(todo, it)
		}
	}
	return todo
}

// firsts keeps those of whose steps the barrier knows nothing. When it cannot be read nothing is called first.
func (r *run) firsts(ctx context.Context, items []*item) []*item {
	if len(items) == 0 {
		return nil
	}
	steps := make([]string, len(items))
	for i, it := range items {
		steps[i] = it.m.StepKey()
	}
	bs, err := r.e.cfg.Known(ctx, r.c.Name, steps)
	if err != nil {
		return nil // the unit reads it again, and says what is wrong
	}
	known := map[string]bool{}
	for _, b := range bs {
		known[b.StepKey] = true
	}
	first := items[:0]
	for _, it := range items {
		if !known[it.m.StepKey()] {
			first = append(first, it)
		}
	}
	return first
}

// callEarly makes a call, and hands it over to its queue if it is parked by then.
func (r *run) callEarly(ctx context.Context, m *mainstay.Message, e *early) {
	r.e.gate.RLock()
	began := r.e.cfg.Clock()
	result, err := r.invoke(ctx, m)
	r.e.gate.RUnlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calling(-1)
	if ctx.Err() != nil {
		return // it may only tell of the end of this process
	}
	e.f.result, e.f.err, e.f.took = result, err, r.e.cfg.Clock().Sub(began)
	e.back = true
	r.took(e.f.took)
	if e.parked {
		r.ended = append(r.ended, e.f)
		r.signal()
	}
}

// took keeps in mind how long calls take; r.mu is held.
func (r *run) took(d time.Duration) { r.usual += (d - r.usual) / 8 }

// handOver makes a call under way that of the queue which the unit has left, if it is parked there; r.mu is held.
func (r *run) handOver(e *early, q *keyQueue) bool {
	if e == nil || len(q.rows) == 0 || q.rows[0].Ref != e.f.row.Ref || q.rows[0].State != ParkedCall || q.rows[0].Attempts != e.f.row.Attempts {
		return false
	}
	e.parked = true
	if e.back {
		r.ended = append(r.ended, e.f)
		r.signal()
	}
	return true
}
