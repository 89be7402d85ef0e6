package ingest_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/ingest"
	"github.com/mainstay-io/mainstay/internal/ingest/ingesttest"
	"github.com/mainstay-io/mainstay/internal/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestMemory_KeepsTheContract(t *testing.T) {
	t.Parallel()
	storetest.Ingest(t, func(*testing.T) ingest.Store { return ingesttest.NewMemory() })
}

type setup struct {
	*crowd
	in    *ingest.Ingest
	store *gated
	stop  context.CancelFunc
	ended chan error
}

// gated lets a test hold commits, and see the groups.
type gated struct {
	*ingesttest.Memory
	enter chan int      // the size of each group, as its commit starts
	pass  chan struct{} // one value lets one commit go on
}

func (g *gated) Accept(ctx context.Context, group []*ingest.Request, write ingest.WriteFunc) ([]ingest.Result, error) {
	select {
	case g.enter <- len(group):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case <-g.pass:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return g.Memory.Accept(ctx, group, write)
}

// start runs an Ingest whose commits go on only when the test says so.
func start(t *testing.T, cfg ingest.Config, write ingest.WriteFunc) *setup {
	t.Helper()
	s := &setup{
		store: &gated{Memory: ingesttest.NewMemory(), enter: make(chan int), pass: make(chan struct{})},
		ended: make(chan error, 1),
		crowd: newCrowd(),
	}
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	s.in = ingest.New(s.store, write, cfg, s.crowd)
	go func() { s.ended <- s.in.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-s.ended; err != nil {
			t.Errorf("Run ended with %v", err)
		}
	})
	return s
}

func (s *setup) next(t *testing.T, want int) {
	t.Helper()
	if got := <-s.store.enter; got != want {
		t.Fatalf("a group of %d, want %d", got, want)
	}
	s.store.pass <- struct{}{}
}

type outcome struct {
	answer   ingest.Answer
	replayed bool
	err      error
}

func (s *setup) accept(ctx context.Context, r *ingest.Request) <-chan outcome {
	out := make(chan outcome, 1)
	entered := make(chan struct{})
	go func() {
		close(entered)
		a, replayed, err := s.in.Accept(ctx, r)
		out <- outcome{a, replayed, err}
	}()
	<-entered
	return out
}

// crowd knows how many requests are inside.
type crowd struct {
	ingest.NoHooks
	changed *sync.Cond
	inside  int
}

func newCrowd() *crowd { return &crowd{changed: sync.NewCond(&sync.Mutex{})} }

func (c *crowd) InFlight(n int) {
	c.changed.L.Lock()
	defer c.changed.L.Unlock()
	c.inside = n
	c.changed.Broadcast()
}

// waiting blocks until n requests are inside.
func (c *crowd) waiting(n int) {
	c.changed.L.Lock()
	defer c.changed.L.Unlock()
	for c.inside != n {
		c.changed.Wait()
	}
}

func request(key string, body byte, id int) *ingest.Request {
	return ingesttest.Request(key, body, fmt.Sprint(id))
}

func writeNothing(context.Context, mainstay.Tx, []*ingest.Request) error { return nil }

func TestAccept_FoldsWhatArrivesDuringACommit(t *testing.T) {
	t.Parallel()
	s := start(t, ingest.Config{MaxGroup: 3}, writeNothing)
	outs := []<-chan outcome{s.accept(t.Context(), request("a", 1, 0))}
	if n := <-s.store.enter; n != 1 {
		t.Fatalf("an idle process waited for %d", n)
	}
	for i, key := range []string{"e", "d", "c", "b"} {
		outs = append(outs, s.accept(t.Context(), request(key, 1, i+1)))
	}
	s.waiting(5)
	s.store.pass <- struct{}{}
	s.next(t, 3)
	s.next(t, 1)
	for i, out := range outs {
		if o := <-out; o.err != nil || o.replayed || string(o.answer.Body) != fmt.Sprint(i) {
			t.Fatalf("request %d: %+v", i, o)
		}
	}
}

func TestAccept_SameKeyInFlight(t *testing.T) {
	t.Parallel()
	s := start(t, ingest.Config{}, writeNothing)
	first := s.accept(t.Context(), request("a", 1, 1))
	<-s.store.enter
	follower := s.accept(t.Context(), request("a", 1, 2))
	stranger := s.accept(t.Context(), request("a", 2, 3))
	s.waiting(3)
	s.store.pass <- struct{}{}
	if o := <-stranger; !errors.Is(o.err, ingest.ErrKeyReused) {
		t.Fatalf("another body: %+v", o)
	}
	if o := <-first; o.err != nil || o.replayed {
		t.Fatalf("first: %+v", o)
	}
	if o := <-follower; o.err != nil || !o.replayed || string(o.answer.Body) != "1" {
		t.Fatalf("follower: %+v", o)
	}
}

func TestAccept_FollowsForAWhileOnly(t *testing.T) {
	t.Parallel()
	s := start(t, ingest.Config{FollowFor: time.Millisecond}, writeNothing)
	first := s.accept(t.Context(), request("a", 1, 1))
	<-s.store.enter
	if _, _, err := s.in.Accept(t.Context(), request("a", 1, 2)); !errors.Is(err, ingest.ErrInFlight) {
		t.Fatalf("got %v", err)
	}
	s.store.pass <- struct{}{}
	<-first
}

// TestAccept_ReplaysBesideAnotherBody fails when a body that is in flight decides what the key stands for: the one
// that is stored is then told that its key was used for another request.
func TestAccept_ReplaysBesideAnotherBody(t *testing.T) {
	t.Parallel()
	s := start(t, ingest.Config{}, writeNothing)
	first := s.accept(t.Context(), request("a", 1, 1))
	<-s.store.enter
	s.store.pass <- struct{}{}
	<-first
	wrong := s.accept(t.Context(), request("a", 2, 2))
	<-s.store.enter
	again := s.accept(t.Context(), request("a", 1, 3))
	s.waiting(2)
	s.store.pass <- struct{}{}
	if o := <-wrong; !errors.Is(o.err, ingest.ErrKeyReused) {
		t.Fatalf("another body: %+v", o)
	}
	<-s.store.enter
	s.store.pass <- struct{}{}
	if o := <-again; o.err != nil || !o.replayed || string(o.answer.Body) != "1" {
		t.Fatalf("the same body again: %+v", o)
	}
}

func TestAccept_RefusesForOverload(t *testing.T) {
	t.Parallel()
	s := start(t, ingest.Config{MaxInFlight: 1}, writeNothing)
	first := s.accept(t.Context(), request("a", 1, 1))
	<-s.store.enter
	for _, r := range []*ingest.Request{request("b", 1, 2), request("a", 1, 3), request("a", 2, 4)} {
		if _, _, err := s.in.Accept(t.Context(), r); !errors.Is(err, ingest.ErrOverloaded) {
			t.Fatalf("got %v", err)
		}
	}
	s.store.pass <- struct{}{}
	<-first
}

func TestAccept_CallerThatLeavesIsCommittedAllTheSame(t *testing.T) {
	t.Parallel()
	s := start(t, ingest.Config{}, writeNothing)
	ctx, leave := context.WithCancel(t.Context())
	first := s.accept(ctx, request("a", 1, 1))
	<-s.store.enter
	leave()
	if o := <-first; !errors.Is(o.err, context.Canceled) {
		t.Fatalf("got %+v", o)
	}
	again := s.accept(t.Context(), request("a", 1, 2))
	s.waiting(1)
	s.store.pass <- struct{}{}
	if o := <-again; o.err != nil || !o.replayed || string(o.answer.Body) != "1" {
		t.Fatalf("got %+v", o)
	}
}

func TestAccept_SplitsUntilTheCulpritStandsAlone(t *testing.T) {
	t.Parallel()
	bad := errors.New("bad item")
	for name, fault := range map[string]func() error{
		"error": func() error { return bad },
		"panic": func() error { panic(bad) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, ingest.Config{}, func(_ context.Context, _ mainstay.Tx, winners []*ingest.Request) error {
				for _, r := range winners {
					if r.Key == "d" {
						return fault()
					}
				}
				return nil
			})
			outs := map[string]<-chan outcome{"a": s.accept(t.Context(), request("a", 1, 0))}
			<-s.store.enter
			for i, key := range []string{"b", "c", "d", "e"} {
				outs[key] = s.accept(t.Context(), request(key, 1, i+1))
			}
			s.waiting(5)
			s.store.pass <- struct{}{}
			for _, size := range []int{4, 2, 2, 1, 1} {
				s.next(t, size)
			}
			for key, out := range outs {
				if o := <-out; (o.err != nil) != (key == "d") {
					t.Errorf("%s: %v", key, o.err)
				}
			}
		})
	}
}

func TestRun_DrainsWhatWasTaken(t *testing.T) {
	t.Parallel()
	s := start(t, ingest.Config{MaxGroup: 1, Committers: 2}, writeNothing)
	outs := []<-chan outcome{}
	for i := range 4 {
		outs = append(outs, s.accept(t.Context(), request(fmt.Sprint(i), 1, i)))
	}
	s.waiting(4)
	s.stop()
	for range outs {
		s.next(t, 1)
	}
	for _, out := range outs {
		if o := <-out; o.err != nil {
			t.Fatal(o.err)
		}
	}
	err := <-s.ended
	s.ended <- err
	if _, _, err := s.in.Accept(t.Context(), request("late", 1, 9)); !errors.Is(err, ingest.ErrClosed) {
		t.Fatalf("after the end: %v", err)
	}
}

func TestRun_DrainsForAWhileOnly(t *testing.T) {
	t.Parallel()
	s := start(t, ingest.Config{MaxGroup: 1, DrainWithin: time.Millisecond}, writeNothing)
	held := s.accept(t.Context(), request("a", 1, 1))
	queued := s.accept(t.Context(), request("b", 1, 2))
	s.waiting(2)
	s.stop()
	for _, out := range []<-chan outcome{held, queued} {
		if o := <-out; !errors.Is(o.err, ingest.ErrClosed) {
			t.Fatalf("got %+v", o)
		}
	}
}

type countingHooks struct {
	ingest.NoHooks
	mu       sync.Mutex
	answered map[bool]int
	refused  map[string]int
	sizes    []int
}

func (h *countingHooks) Answered(replayed bool) { h.mu.Lock(); h.answered[replayed]++; h.mu.Unlock() }
func (h *countingHooks) Refused(reason string)  { h.mu.Lock(); h.refused[reason]++; h.mu.Unlock() }
func (h *countingHooks) Committed(size int, _ time.Duration, _ error) {
	h.mu.Lock()
	h.sizes = append(h.sizes, size)
	h.mu.Unlock()
}

func TestHooks_AreTold(t *testing.T) {
	t.Parallel()
	hooks := &countingHooks{answered: map[bool]int{}, refused: map[string]int{}}
	in := ingest.New(ingesttest.NewMemory(), writeNothing, ingest.Config{}, hooks)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- in.Run(ctx) }()
	for i, body := range []byte{1, 1, 2} {
		_, _, _ = in.Accept(t.Context(), request("a", body, i))
	}
	stop()
	<-ended
	if hooks.answered[false] != 1 || hooks.answered[true] != 1 || hooks.refused["key_reused"] != 1 || len(hooks.sizes) != 3 {
		t.Fatalf("%+v", hooks)
	}
}
