package lane

import (
	"container/heap"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/lease"
)

// run is one consumer in this process.
type run struct {
	e      *Engine
	c      Consumer
	member *lease.Member

	unclean map[int]bool // lanes taken from the dead and not adopted; of the goroutine that manages leases

	mu    sync.Mutex // guards everything below, and is never held across I/O
	lanes map[int]*laneState
	due   dueHeap
	// wasAlone says that the last task was of one message alone: other lanes have their turn.
	wasAlone bool
	turns    []due         // calls that are due and wait until fewer are under way, in that order
	calls    int           // under way
	usual    time.Duration // how long calls take, smoothed
	ended    []*finished   // calls that came back, to be settled
	tried    map[int]int64 // by lane, the highest incarnation for which the lane was read anew
	wake     chan struct{} // has a value when a worker may find something to do
}

func newRun(e *Engine, c Consumer) *run {
	return &run{e: e, c: c, member: &lease.Member{
		Store: e.cfg.Store, Name: c.Name, Holder: e.cfg.Holder, Lanes: e.cfg.Lanes, TTL: e.cfg.LeaseTTL, Alone: e.cfg.ForceLeases,
	}, lanes: map[int]*laneState{}, unclean: map[int]bool{}, tried: map[int]int64{}, wake: make(chan struct{}, 1)}
}

func (r *run) start(ctx, work context.Context, all *sync.WaitGroup) {
	for range r.e.cfg.Pool {
		all.Go(func() { r.work(ctx, work, all) })
	}
	if r.c.Timers != nil {
		all.Go(func() { r.timers(ctx, work) })
	}
}

func (r *run) signal() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *run) leases() []lease.Lease {
	r.mu.Lock()
	defer r.mu.Unlock()
	var ls []lease.Lease
	for _, l := range r.lanes {
		ls = append(ls, l.lease)
	}
	return ls
}

// surplus chooses so many lanes to give back, and drops those of them in which nothing is under way, no call either;
// from now on nothing begins in the others. The answer is what was dropped.
func (r *run) surplus(n int) (idle []lease.Lease) {
	r.mu.Lock()
	defer r.mu.Unlock()
	held := slices.SortedFunc(maps.Values(r.lanes), func(a, b *laneState) int { return b.lease.Lane - a.lease.Lane })
	for i, ls := range held {
		if ls.leaving = i < n; !ls.leaving {
			r.resume(ls) // it may have been leaving
			continue
		}
		if !ls.busy && !ls.calls() {
			ls.gone = true
			delete(r.lanes, ls.lease.Lane)
			idle = append(idle, ls.lease)
		}
	}
	r.signal()
	return idle
}

// resume puts back what became due while nothing could begin in the lane; r.mu is held.
func (r *run) resume(ls *laneState) {
	for _, d := range ls.late {
		heap.Push(&r.due, d)
	}
	ls.late = nil
}

// drop forgets a lane that another process holds now.
func (r *run) drop(n int, epoch int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if ls := r.lanes[n]; ls != nil && ls.lease.Epoch == epoch {
		ls.gone = true
		delete(r.lanes, n)
	}
}

// dropOthersOf forgets the lanes that were read in another era, and names them: nothing of them would be committed any
// more. They are taken and read anew.
func (r *run) dropOthersOf(era string) (dropped []int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for n, ls := range r.lanes {
		if ls.era != era {
			ls.gone = true
			delete(r.lanes, n)
			dropped = append(dropped, n)
		}
	}
	return dropped
}

func (r *run) placesOf(n int) map[string]Place {
	r.mu.Lock()
	defer r.mu.Unlock()
	ls := r.lanes[n]
	if ls == nil {
		return nil
	}
	ps := make(map[string]Place, len(ls.places))
	for topic, p := range ls.places {
		ps[topic] = p
	}
	return ps
}

// deliver takes what the broker brought, or what this process was told that it has committed. What does not fit is
// dropped: the log has it.
func (r *run) deliver(ms []*mainstay.Message, told bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	found := false
	for _, m := range ms {
		ls := r.lanes[m.Lane]
		if ls == nil || !r.reads(ls, m.Topic) {
			continue
		}
		if ls.away[m.Topic] != nil {
			ls.learn(m)
		} else if m.Incarnation > ls.current && r.unknown(ls, m) {
			continue
		}
		again := ls.came(m, told)
		next := ls.past[m.Topic].Next(ls.arrived[m.Topic].incarnation, ls.arrived[m.Topic].sequence)
		switch {
		case m.Sequence < next, !ls.past[m.Topic].Has(m.Incarnation, m.Sequence):
			if again {
				r.e.cfg.Hooks.Handled(r.c.Name, HandledDuplicate, 1)
			}
			continue
		case told && (m.Sequence > next || len(ls.buf[m.Topic]) >= 4*r.e.cfg.Batch):
			continue // the broker brings it, and what comes before it
		case m.Sequence > next, len(ls.buf[m.Topic]) >= 4*r.e.cfg.Batch, m.Type == mainstay.TypeTombstone && ls.away[m.Topic] == nil:
			ls.lacks[m.Topic] = true // the log has it, also where the broker has a marker in its place
		default:
			ls.buf[m.Topic] = append(ls.buf[m.Topic], m)
			ls.arrived[m.Topic] = markOf(m)
		}
		found = true
	}
	if found {
		r.signal()
	}
}

// reads says that the consumer takes messages of a topic, and knows where it begins.
func (r *run) reads(ls *laneState, topic string) bool {
	_, ok := ls.places[topic]
	return ok && !r.waits(ls, topic)
}

// came notes by which of the two ways a message came, and says whether it has come by this one before, or by neither
// that is known here. The marks only count: what is handled the place decides.
func (ls *laneState) came(m *mainstay.Message, told bool) (again bool) {
	by, other := ls.copied, ls.told
	if told {
		by, other = other, by
	}
	again = m.Sequence <= by[m.Topic] || m.Sequence > other[m.Topic]
	by[m.Topic] = max(by[m.Topic], m.Sequence)
	return again
}

// unknown says that the lane is to be read anew: a message is of an incarnation that was opened since. One that is not
// known then either is a stranger's, and stepped over.
func (r *run) unknown(ls *laneState, m *mainstay.Message) bool {
	if r.tried[ls.lease.Lane] >= m.Incarnation {
		return false
	}
	r.tried[ls.lease.Lane] = m.Incarnation
	r.readAnew(ls)
	return true
}

// readAnew lets go of a lane that this process goes on holding, so that it is read from the database again.
func (r *run) readAnew(ls *laneState) {
	ls.gone = true
	delete(r.lanes, ls.lease.Lane)
	r.e.look()
}

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h dueHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *dueHeap) Push(x any)        { *h = append(*h, x.(due)) } //nolint:errcheck // the heap holds nothing else
func (h *dueHeap) Pop() any {
	old := *h
	d := old[len(old)-1]
	old[len(old)-1] = due{}
	*h = old[:len(old)-1]
	return d
}
