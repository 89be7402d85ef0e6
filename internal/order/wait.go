package order

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

const (
	pollEvery  = 25 * time.Millisecond
	pollChunk  = 500
	maxWaiters = 10_000
)

// ErrTooManyWaiters: as many requests wait as are allowed.
var ErrTooManyWaiters = errors.New("order: too many requests are waiting")

// Ended tells which of the orders have ended (see Status.Ended), of at most pollChunk ids in one call.
type Ended func(ctx context.Context, ids []string) ([]string, error)

// Waiters lets many requests wait for the end of orders at the cost of one poller, which asks only while somebody
// waits. It is safe for concurrent use.
type Waiters struct {
	ended Ended
	every time.Duration
	limit int
	work  chan struct{} // has a value when somebody began to wait

	mu      sync.Mutex // guards the fields below
	closed  bool
	count   int
	waiting map[string]map[*waiter]struct{}
}

type waiter struct{ done chan error }

// NewWaiters makes a registry that asks ended this often, 25 ms when every is zero. Where the orders end in this very
// process and Poke is called, a long interval will do.
func NewWaiters(ended Ended, every time.Duration) *Waiters {
	return &Waiters{
		ended: ended, every: cmp.Or(every, pollEvery), limit: maxWaiters,
		work:    make(chan struct{}, 1),
		waiting: map[string]map[*waiter]struct{}{},
	}
}

// Wait returns nil when the order has ended, or after Close, which tells nothing. Otherwise it returns the cause of
// the end of ctx, ErrTooManyWaiters at once, or the error of the question. First of all, but when nothing can slip by
// any more, it asks already, which may be nil: true ends the wait, and so does its error.
func (ws *Waiters) Wait(ctx context.Context, id string, already func() (bool, error)) error {
	w := &waiter{done: make(chan error, 1)}
	if ok, err := ws.add(id, w); !ok {
		return err
	}
	defer ws.remove(id, w)
	if already != nil {
		if ended, err := already(); ended || err != nil {
			return err
		}
	}
	select {
	case err := <-w.done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (ws *Waiters) add(id string, w *waiter) (bool, error) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	switch {
	case ws.closed:
		return false, nil
	case ws.count >= ws.limit:
		return false, ErrTooManyWaiters
	}
	if ws.waiting[id] == nil {
		ws.waiting[id] = map[*waiter]struct{}{}
	}
	ws.waiting[id][w] = struct{}{}
	ws.count++
	select {
	case ws.work <- struct{}{}:
	default:
	}
	return true, nil
}

func (ws *Waiters) remove(id string, w *waiter) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.count--
	delete(ws.waiting[id], w)
	if len(ws.waiting[id]) == 0 {
		delete(ws.waiting, id)
	}
}

// Poke says that orders have ended, so that whoever waits in this process need not be asked for. It does not block.
func (ws *Waiters) Poke(ids []string) { ws.tell(ids, nil) }

func (ws *Waiters) tell(ids []string, err error) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for _, id := range ids {
		for w := range ws.waiting[id] {
			select {
			case w.done <- err:
			default: // told before
			}
		}
	}
}

// Run asks until ctx ends, then closes ws and returns nil. It is run once. It asks at once when news has a value, which
// says that orders may have ended in another process; nil for no news.
func (ws *Waiters) Run(ctx context.Context, news <-chan struct{}) error {
	defer ws.Close()
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ws.work:
		}
		for ids := ws.ids(); len(ids) > 0; ids = ws.ids() {
			ws.ask(ctx, ids)
			pause.Reset(ws.every)
			select {
			case <-ctx.Done():
				return nil
			case <-news:
			case <-pause.C:
			}
		}
	}
}

func (ws *Waiters) ask(ctx context.Context, ids []string) {
	for chunk := range slices.Chunk(ids, pollChunk) {
		ended, err := ws.ended(ctx, chunk)
		if err != nil {
			ws.tell(chunk, fmt.Errorf("asking which orders have ended: %w", err))
			continue
		}
		ws.tell(ended, nil)
	}
}

func (ws *Waiters) ids() []string {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ids := make([]string, 0, len(ws.waiting))
	for id := range ws.waiting {
		ids = append(ids, id)
	}
	return ids
}

// Close lets everybody go, and from then on whoever comes: Wait returns nil. It does not block, and may be called twice.
func (ws *Waiters) Close() {
	ids := ws.ids()
	ws.mu.Lock()
	ws.closed = true
	ws.mu.Unlock()
	ws.tell(append(ids, ws.ids()...), nil)
}
