package bench

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/mainstay-io/mainstay/internal/clock"
)

// Defaults of Load.
const (
	DefaultClients    = 64
	DefaultUnfinished = 1000
	DefaultPatience   = 30 * time.Second
)

// Load says how operations are offered.
type Load struct {
	// Rate is how many operations begin each second, however many are under way (an open load); 0 is a closed one.
	Rate float64
	// Clients is how many begin operations in a closed load (DefaultClients).
	Clients int
	// Unfinished bounds the operations under way. In a closed load 0 makes each client wait for the end of its own; in
	// an open one 0 is DefaultUnfinished, and operations that the bound holds back are measured from when they were to
	// begin, like all others.
	Unfinished int
	// Warmup comes first and is not measured; what begins after it is, for Duration, or until Count operations have
	// begun where Count is not 0.
	Warmup, Duration time.Duration
	Count            int64
	// Patience is how long what is under way may take when nothing more begins (DefaultPatience).
	Patience time.Duration
}

func (l *Load) setDefaults() {
	l.Clients = cmp.Or(l.Clients, DefaultClients)
	l.Patience = cmp.Or(l.Patience, DefaultPatience)
	if l.Rate > 0 {
		l.Unfinished = cmp.Or(l.Unfinished, DefaultUnfinished)
	}
}

// Begun is an operation that was accepted.
type Begun struct {
	// Finish waits for the end; nil when the operation ended by being accepted.
	Finish func(ctx context.Context) error
	// Retries is how often it was sent again.
	Retries int
}

// Work does operations. It is used by many goroutines.
type Work interface {
	// Begin begins the operation of this number, from 0 on. An error, of Begin or of Finish, is counted by its kind:
	// see Fault.
	Begin(ctx context.Context, n int64) (Begun, error)
}

// Fault is an error with the kind that it is counted under; others are counted as "error".
type Fault struct {
	Kind string
	Err  error
}

// Error gives the kind and what happened.
func (f *Fault) Error() string { return f.Kind + ": " + f.Err.Error() }

// Unwrap gives what happened.
func (f *Fault) Unwrap() error { return f.Err }

// errPatience ends the operations that are still under way when the patience is over.
var errPatience = errors.New("the patience is over")

// Run offers the load until it has been, or ctx ends, and answers with what was measured up to then. It returns when
// no operation is under way any more. A nil show shows nothing.
func Run(ctx context.Context, l Load, w Work, m *Meter, show *Progress) Result {
	l.setDefaults()
	own, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r := &run{load: l, work: w, began: clock.Start(), rec: newRecorder(l)}
	if l.Unfinished > 0 {
		r.slots = make(chan struct{}, l.Unfinished)
	}
	ended := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() { r.measure(own, m, ended) })
	hide := show.follow(r.line)
	r.offer(own)
	late := time.AfterFunc(l.Patience, func() { cancel(errPatience) })
	r.all.Wait()
	late.Stop()
	close(ended)
	watch.Wait()
	hide()
	return r.result(ctx.Err() != nil)
}

// run is one load under way.
type run struct {
	load  Load
	work  Work
	began clock.Mono
	slots chan struct{} // one for each unfinished operation; nil where each client waits
	rec   *recorder
	all   sync.WaitGroup // clients and operations

	mu       sync.Mutex
	begun    int64 // operations, which numbers them
	measured int64 // of those

	usage  Usage
	window time.Duration // that was measured; of the goroutine that measures until that has ended
}

// ticket is one operation: its number, and when it begins or was to begin, from the start of the run.
type ticket struct {
	n  int64
	at time.Duration
}

// ticket gives the next operation, to begin at the given time; false when no more are to begin.
func (r *run) ticket(at time.Duration) (ticket, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if at >= r.load.Warmup {
		if r.load.Count > 0 && r.measured == r.load.Count || r.load.Count == 0 && at >= r.load.Warmup+r.load.Duration {
			return ticket{}, false
		}
		r.measured++
	}
	r.begun++
	return ticket{r.begun - 1, at}, true
}

// offer begins operations until no more are to begin; r.all has those that are under way then.
func (r *run) offer(ctx context.Context) {
	if r.load.Rate > 0 {
		r.open(ctx)
		return
	}
	var clients sync.WaitGroup
	for range r.load.Clients {
		clients.Go(func() { r.client(ctx) })
	}
	clients.Wait()
}

// client is one of a closed load.
func (r *run) client(ctx context.Context) {
	for ctx.Err() == nil && r.slot(ctx) {
		t, ok := r.ticket(r.began.Elapsed())
		if !ok {
			r.free()
			return
		}
		finish := r.begin(ctx, t)
		if r.slots == nil {
			finish()
		} else {
			r.all.Go(func() { finish(); r.free() })
		}
	}
}

// open begins an operation whenever its time has come.
func (r *run) open(ctx context.Context) {
	for i := range int64(1 << 62) {
		t, ok := r.ticket(time.Duration(float64(i) / r.load.Rate * float64(time.Second)))
		if !ok || !pause(ctx, t.at-r.began.Elapsed()) {
			return
		}
		if !r.slotInTime(ctx) {
			r.rec.begins()
			r.rec.ends(t.at, t.at, 0, kindOf(ctx, &Fault{Kind: kindNotBegun, Err: errPatience}))
			continue
		}
		r.all.Go(func() { r.begin(ctx, t)(); r.free() })
	}
}

// slot waits until one more operation may be unfinished; false when ctx ended first.
func (r *run) slot(ctx context.Context) bool {
	if r.slots == nil {
		return true
	}
	select {
	case r.slots <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

// slotInTime is slot of an open load: when its time is over, what was held back is not begun any more.
func (r *run) slotInTime(ctx context.Context) bool {
	if r.load.Count > 0 || r.began.Elapsed() < r.load.Warmup+r.load.Duration {
		return r.slot(ctx)
	}
	select {
	case r.slots <- struct{}{}:
		return true
	default:
		return false
	}
}

func (r *run) free() {
	if r.slots != nil {
		<-r.slots
	}
}

// begin begins an operation and gives what waits for its end.
func (r *run) begin(ctx context.Context, t ticket) (finish func()) {
	r.rec.begins()
	b, err := r.work.Begin(ctx, t.n)
	if err == nil && b.Finish != nil {
		r.rec.accepts(t.at, r.began.Elapsed())
	}
	return func() {
		if err == nil && b.Finish != nil {
			err = b.Finish(ctx)
		}
		r.rec.ends(t.at, r.began.Elapsed(), b.Retries, kindOf(ctx, err))
	}
}

// Kinds of ends that are nobody's answer.
const (
	kindUnfinished  = "unfinished"
	kindInterrupted = "interrupted"
	kindNotBegun    = "not begun" // the bound of an open load held it back until the time was over
)

// kindOf is what an operation's end is counted under; "" is a good one.
func kindOf(ctx context.Context, err error) string {
	var f *Fault
	switch {
	case err == nil:
		return ""
	case errors.Is(context.Cause(ctx), errPatience):
		return kindUnfinished
	case ctx.Err() != nil:
		return kindInterrupted
	case errors.As(err, &f):
		return f.Kind
	default:
		return "error"
	}
}

// measure reads what is used at both ends of the measured window.
func (r *run) measure(ctx context.Context, m *Meter, ended <-chan struct{}) {
	if !r.until(ctx, r.load.Warmup, ended) {
		return
	}
	before := m.read(ctx)
	limit := time.Duration(1<<63 - 1)
	if r.load.Count == 0 {
		limit = r.load.Warmup + r.load.Duration
	}
	r.until(ctx, limit, ended)
	r.window = r.began.Elapsed() - r.load.Warmup
	r.usage = m.read(context.WithoutCancel(ctx)).since(before)
}

// until waits until so long after the start; false when the run ended first.
func (r *run) until(ctx context.Context, at time.Duration, ended <-chan struct{}) bool {
	due := time.NewTimer(at - r.began.Elapsed())
	defer due.Stop()
	select {
	case <-due.C:
		return true
	case <-ended:
	case <-ctx.Done():
	}
	return false
}

// pause waits for d, not at all when that is past; false when ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	due := time.NewTimer(d)
	defer due.Stop()
	select {
	case <-due.C:
		return true
	case <-ctx.Done():
		return false
	}
}
