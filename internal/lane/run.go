package lane

import (
	"container/heap"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/history"
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
	ended    []*finished   // calls that came back, to be settled
	tried    map[int]int64 // by lane, the highest incarnation for which the lane was read anew
	wake     chan struct{} // has a value when a worker may find something to do
}

// laneState is a lane that this process holds. While busy, only the worker that set it changes places and queues, and
// it does so under the run's mutex; so it alone may read them without. What others change meanwhile it reads under the
// mutex, past among it: histories of logs of other databases come with their messages.
type laneState struct {
	lease  lease.Lease
	busy   bool
	places map[string]Place               // by topic
	buf    map[string][]*mainstay.Message // arrived and not taken yet, by topic, dense
	// arrived is where the last message that was put into buf stands, by topic.
	arrived map[string]mark
	// past is what counts of each log, by topic, as of the era in which the lane was read; current is the incarnation
	// that was the last one then.
	past    map[string]history.Log
	era     string
	current int64
	// lacks says of which topics the log has, or may have, messages that are not in buf.
	lacks  map[string]bool
	queues map[queueKey]*keyQueue
	late   []due // heads of queues that became due while the lane was busy
	gone   bool
	// away is what is known of logs of another database, by topic.
	away map[string]*away
	// leaving says that no work is to begin any more: the lane is given back when what is under way has ended.
	leaving bool
	// inFlight is what may have ended earlier holders, nil when they gave the lane back or that has been passed.
	inFlight *inFlight
	// deadly are parked messages that became dead letters because they ended processes, by how many of these are held
	// against them when they are replayed.
	deadly map[Ref]int
}

// queueKey names a queue: order is kept by key within a topic.
type queueKey struct{ topic, key string }

func (it item) key() queueKey   { return queueKey{it.m.Topic, it.m.Key} }
func (p *Parked) key() queueKey { return queueKey{p.Topic, p.Key} }

// keyQueue is what a key has parked, its head first.
type keyQueue struct {
	key     queueKey
	rows    []Parked
	calling bool // the head's call is under way
	// pending says that an entry waits for the head at this time; only the entry with the number n counts.
	pending bool
	at      time.Time
	n       int
}

func newLaneState(l lease.Lease) *laneState {
	return &laneState{
		lease: l, places: map[string]Place{}, buf: map[string][]*mainstay.Message{}, arrived: map[string]mark{},
		past: map[string]history.Log{}, away: map[string]*away{},
		lacks: map[string]bool{}, queues: map[queueKey]*keyQueue{}, deadly: map[Ref]int{},
	}
}

func (ls *laneState) queue(key queueKey) *keyQueue {
	q := ls.queues[key]
	if q == nil {
		q = &keyQueue{key: key}
		ls.queues[key] = q
	}
	return q
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

// calls says that a call is under way, or has ended and is not settled.
func (ls *laneState) calls() bool {
	for _, q := range ls.queues {
		if q.calling {
			return true
		}
	}
	return false
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

// deliver takes what the broker brought for a lane. What does not fit is dropped: the log has it.
func (r *run) deliver(n int, ms []*mainstay.Message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	ls := r.lanes[n]
	if ls == nil {
		return
	}
	found := false
	for _, m := range ms {
		if _, ok := ls.places[m.Topic]; !ok || m.Lane != n || r.waits(ls, m.Topic) {
			continue
		}
		if ls.away[m.Topic] != nil {
			ls.learn(m)
		} else if m.Incarnation > ls.current && r.unknown(ls, m) {
			return
		}
		next := ls.past[m.Topic].Next(ls.arrived[m.Topic].incarnation, ls.arrived[m.Topic].sequence)
		switch {
		case m.Sequence < next, !ls.past[m.Topic].Has(m.Incarnation, m.Sequence):
			r.e.cfg.Hooks.Handled(r.c.Name, HandledDuplicate, 1)
			continue
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

// mark is where a message stands in its log.
type mark struct{ incarnation, sequence int64 }

func markOf(m *mainstay.Message) mark { return mark{m.Incarnation, m.Sequence} }
func (p Place) mark() mark            { return mark{p.Incarnation, p.Sequence} }

// beyond says that a comes behind b.
func (a mark) beyond(b mark) bool {
	return a.incarnation > b.incarnation || a.incarnation == b.incarnation && a.sequence > b.sequence
}

// follows is the sequence that comes behind a place; run.mu is held.
func (ls *laneState) follows(p Place) int64 { return ls.past[p.Topic].Next(p.Incarnation, p.Sequence) }

func (r *run) follows(ls *laneState, p Place) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return ls.follows(p)
}

// sweep marks lanes that are behind the log and have not moved since the last sweep.
func (r *run) sweep(heads map[mainstay.TopicLane]int64, seen, next map[*laneState]map[string]int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, ls := range r.lanes {
		if ls.cameHome(heads) {
			r.readAnew(ls)
			continue
		}
		at := map[string]int64{}
		next[ls] = at
		for topic, p := range ls.places {
			at[topic] = p.Sequence
			behind := heads[p.TopicLane] > p.Sequence && len(ls.buf[topic]) == 0
			if was, ok := seen[ls][topic]; ok && behind && was == p.Sequence {
				ls.lacks[topic] = true
			}
		}
	}
	r.signal()
}

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

// settle makes buf follow the place again, after a task that may have handled less than it took.
func (ls *laneState) settle(topic string) {
	buf, place := ls.buf[topic], ls.places[topic]
	for len(buf) > 0 && !markOf(buf[0]).beyond(place.mark()) {
		buf = buf[1:]
	}
	if len(buf) > 0 && buf[0].Sequence != ls.follows(place) {
		buf = nil
	}
	if len(buf) == 0 {
		buf = nil // lets go of the array
		ls.lacks[topic] = ls.lacks[topic] || ls.arrived[topic].beyond(place.mark())
		ls.arrived[topic] = place.mark()
	}
	ls.buf[topic] = buf
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
