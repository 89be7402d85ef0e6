package sequencer_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/mainstay-io/mainstay/internal/lease"
	"github.com/mainstay-io/mainstay/internal/sequencer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a database of which a test decides what it answers; it writes down what it was asked.
type fake struct {
	mu     sync.Mutex
	calls  []string
	epoch  int64
	holder string
	// backlog is how many rounds have more; fail is what the next round answers.
	backlog int
	fail    error
	wake    chan struct{}
}

func newFake() *fake { return &fake{wake: make(chan struct{}, 1)} }

func (f *fake) note(call string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, call)
}

// seen gives the calls so far without repetitions in a row, and forgets them.
func (f *fake) seen() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	calls := slices.Compact(f.calls)
	f.calls = nil
	return calls
}

func (f *fake) count(call string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, c := range f.calls {
		if c == call {
			n++
		}
	}
	return n
}

func (f *fake) Acquire(_ context.Context, name string, lanes []int, holder string, _ time.Duration, force bool) ([]lease.Lease, error) {
	f.note("acquire")
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.holder != "" && f.holder != holder && !force {
		return nil, nil
	}
	from := ""
	if f.holder != holder {
		from = f.holder
	}
	f.holder = holder
	f.epoch++
	return []lease.Lease{{Name: name, Lane: lanes[0], Epoch: f.epoch, Unclean: from != "", From: from}}, nil
}

func (f *fake) Renew(_ context.Context, holder string, leases []lease.Lease, _ time.Duration) ([]lease.Lease, error) {
	f.note("renew")
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.holder != holder || f.epoch != leases[0].Epoch {
		return nil, nil
	}
	return leases, nil
}

func (f *fake) Release(_ context.Context, holder string, leases []lease.Lease) error {
	f.note("release")
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.holder == holder && f.epoch == leases[0].Epoch {
		f.holder = ""
	}
	return nil
}

func (f *fake) Prepare(context.Context, lease.Lease) error {
	f.note("prepare")
	return nil
}

func (f *fake) Round(context.Context, lease.Lease) (int, bool, error) {
	f.note("round")
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.fail; err != nil {
		f.fail = nil
		return 0, false, err
	}
	if f.backlog > 0 {
		f.backlog--
	}
	return 1, f.backlog > 0, nil
}

func (f *fake) Appended() (<-chan struct{}, func()) { return f.wake, func() { f.note("stop") } }

func (f *fake) set(change func(f *fake)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

// start runs a sequencer inside a bubble; the function that it gives stops it and waits.
func start(t *testing.T, f *fake, cfg sequencer.Config) (stop func()) {
	t.Helper()
	cfg.Holder = "me"
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- sequencer.New(f, cfg).Run(ctx) }()
	synctest.Wait()
	return func() {
		t.Helper()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
}

func TestRun_LeadsAndGivesBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		stop := start(t, f, sequencer.Config{})
		stop()
		want := []string{"acquire", "prepare", "round", "release", "stop"}
		if diff := cmp.Diff(want, f.seen()); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestRun_DrainsWithoutWaiting(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.backlog = 5
		stop := start(t, f, sequencer.Config{Poll: time.Hour})
		defer stop()
		if n := f.count("round"); n != 5 {
			t.Fatalf("%d rounds, want 5", n)
		}
	})
}

func TestRun_WakesAtOnceAndPolls(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		stop := start(t, f, sequencer.Config{Poll: time.Second, TTL: time.Hour})
		defer stop()
		f.seen()
		f.wake <- struct{}{}
		synctest.Wait()
		if n := f.count("round"); n != 1 {
			t.Fatalf("%d rounds after a signal, want 1", n)
		}
		time.Sleep(3*time.Second + time.Millisecond) // the bubble's clock
		if n := f.count("round"); n != 4 {
			t.Fatalf("%d rounds after 3 s, want 4", n)
		}
	})
}

func TestRun_WaitsForItsTurn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.holder = "other"
		stop := start(t, f, sequencer.Config{})
		defer stop()
		time.Sleep(time.Minute)
		if n := f.count("round"); n != 0 {
			t.Fatalf("%d rounds without the lease", n)
		}
		f.set(func(f *fake) { f.holder = "" })
		time.Sleep(2 * time.Second)
		if n := f.count("round"); n == 0 {
			t.Fatal("it did not take the free lease")
		}
	})
}

func TestRun_SaysWhomItTakesOverFrom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.holder = "the dead"
		var log strings.Builder
		start(t, f, sequencer.Config{Force: true, Logger: slog.New(slog.NewTextHandler(&log, nil))})()
		if said := log.String(); strings.Count(said, "\n") != 1 || !strings.Contains(said, `lease=sequencer lanes=1 from="the dead"`) {
			t.Errorf("it said %q", said)
		}
	})
}

func TestRun_PreparesAgainAfterAnError(t *testing.T) {
	t.Parallel()
	for name, err := range map[string]error{"lost": errors.New("connection lost"), "fenced": lease.ErrFenced} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := newFake()
				stop := start(t, f, sequencer.Config{})
				defer stop()
				f.seen()
				f.set(func(f *fake) { f.fail = err })
				time.Sleep(time.Second)
				want := []string{"round", "release", "acquire", "prepare", "round"}
				if diff := cmp.Diff(want, f.seen()); diff != "" {
					t.Fatal(diff)
				}
			})
		})
	}
}

func TestRun_StopsNumberingWhenItsLeaseIsTaken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		stop := start(t, f, sequencer.Config{TTL: 9 * time.Second})
		defer stop()
		time.Sleep(time.Minute)
		if f.count("renew") < 15 {
			t.Fatalf("%d renewals in a minute, want one each 3 s", f.count("renew"))
		}
		f.set(func(f *fake) { f.holder, f.epoch = "other", f.epoch+1 })
		time.Sleep(4 * time.Second)
		f.seen()
		time.Sleep(time.Minute)
		if n := f.count("round"); n != 0 {
			t.Fatalf("%d rounds under a lost lease", n)
		}
	})
}
