package retention_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/mainstay-io/mainstay/internal/lease"
	"github.com/mainstay-io/mainstay/internal/retention"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a store whose tables are numbers of rows.
type fake struct {
	mu     sync.Mutex
	rows   map[string]int64
	holds  []retention.Hold
	fail   map[string]error
	took   time.Duration // of a step
	taken  bool          // the lease is another's
	room   time.Duration // from now; 0 for ever
	noRoom error
	calls  []string
}

func (f *fake) Acquire(_ context.Context, name string, lanes []int, _ string, _ time.Duration, _ bool) ([]lease.Lease, error) {
	f.note("acquire")
	if f.taken {
		return nil, nil
	}
	return []lease.Lease{{Name: name, Lane: lanes[0], Epoch: 1}}, nil
}

func (f *fake) Renew(_ context.Context, _ string, leases []lease.Lease, _ time.Duration) ([]lease.Lease, error) {
	f.note("renew")
	if f.taken {
		return nil, nil
	}
	return leases, nil
}

func (f *fake) Release(context.Context, string, []lease.Lease) error { f.note("release"); return nil }

func (f *fake) MakeRoom(context.Context) (time.Time, error) {
	f.note("room")
	if f.room == 0 {
		return time.Time{}, f.noRoom
	}
	return time.Now().Add(f.room), f.noRoom
}

func (f *fake) note(call string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, call)
}

func (f *fake) count(call string) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.calls {
		if c == call {
			n++
		}
	}
	return n
}

func (f *fake) clean(table string, s retention.Step) (retention.Result, error) {
	f.note(table)
	<-time.After(f.took)
	if err := f.fail[table]; err != nil {
		return retention.Result{}, err
	}
	n := min(f.rows[table], int64(s.Rows))
	if !s.DryRun {
		f.rows[table] -= n
	}
	res := retention.Result{Removed: map[string]int64{table: n}, More: n == int64(s.Rows)}
	if table == "outbox" {
		res.Holds = f.holds
	}
	return res, nil
}

func (f *fake) CleanOutbox(_ context.Context, s retention.Step) (retention.Result, error) {
	return f.clean("outbox", s)
}

func (f *fake) CleanIdempotency(_ context.Context, s retention.Step) (retention.Result, error) {
	return f.clean("idempotency", s)
}

func (f *fake) CleanDeadLetters(_ context.Context, s retention.Step) (retention.Result, error) {
	return f.clean("dead_letter", s)
}

func (f *fake) CleanSagas(_ context.Context, s retention.Step) (retention.Result, error) {
	return f.clean("saga", s)
}

func (f *fake) CleanBarrier(_ context.Context, s retention.Step) (retention.Result, error) {
	return f.clean("barrier", s)
}

func newFake() *fake { return &fake{rows: map[string]int64{}, fail: map[string]error{}} }

func cleaner(f *fake, change ...func(*retention.Config)) *retention.Cleaner {
	cfg := retention.Config{Store: f, Holder: "test"}
	for _, c := range change {
		c(&cfg)
	}
	return retention.New(cfg)
}

func TestRound_CleansInShortStepsWithRests(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.rows["idempotency"], f.took = 1100, 10*time.Millisecond
		began := time.Now()
		r, err := cleaner(f).Round(t.Context())
		if err != nil || r.Busy {
			t.Fatal(r, err)
		}
		if diff := cmp.Diff(map[string]int64{"idempotency": 1100}, r.Removed); diff != "" {
			t.Error(diff)
		}
		// Seven steps of 10 ms, and two rests of 40 ms between the three of one table.
		if took := time.Since(began); took != 150*time.Millisecond {
			t.Errorf("a round took %v", took)
		}
		if f.count("release") != 1 {
			t.Error("the lease was not given back")
		}
	})
}

func TestRound_LeavesWhatIsTooMuchToTheNext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.rows["outbox"], f.rows["saga"], f.took = 1_000_000, 10, 100*time.Millisecond
		r, err := cleaner(f).Round(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if r.Removed["outbox"] < 50_000 || r.Removed["outbox"] > 70_000 || r.Removed["saga"] != 10 {
			t.Errorf("removed %v in a minute, with steps of 500 rows each half a second", r.Removed)
		}
		if f.count("renew") != 1 {
			t.Errorf("the lease was renewed %d times in a minute and more, want each 40 s", f.count("renew"))
		}
	})
}

func TestRound_DoesNothingWhileAnotherCleans(t *testing.T) {
	t.Parallel()
	f := newFake()
	f.taken = true
	r, err := cleaner(f).Round(t.Context())
	if err != nil || !r.Busy {
		t.Fatal(r, err)
	}
	if diff := cmp.Diff([]string{"acquire"}, f.calls); diff != "" {
		t.Error(diff)
	}
}

func TestRound_AFailureIsItsTasksOwn(t *testing.T) {
	t.Parallel()
	f, bad := newFake(), errors.New("bad page")
	f.fail["outbox"], f.rows["saga"] = bad, 3
	r, err := cleaner(f).Round(t.Context())
	if !errors.Is(err, bad) || r.Removed["saga"] != 3 {
		t.Fatal(r, err)
	}
	f.fail["outbox"], f.rows["saga"] = lease.ErrFenced, 3
	if r, err = cleaner(f).Round(t.Context()); !errors.Is(err, lease.ErrFenced) || r.Removed["saga"] != 0 {
		t.Fatal("went on without a lease", r, err)
	}
}

func TestDryRun_RemovesNothing(t *testing.T) {
	t.Parallel()
	f := newFake()
	f.rows["saga"] = 1000
	r, err := cleaner(f).DryRun(t.Context())
	if err != nil || r.Removed["saga"] != 500 || f.rows["saga"] != 1000 || f.count("saga") != 1 {
		t.Fatal(r, err, f.rows)
	}
}

func TestRun_WarnsOnceOfWhatIsHeldAndSaysWhenItIsOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.holds = []retention.Hold{{Reason: retention.HeldByConsumer, Name: "dead", For: time.Hour}}
		var out bytes.Buffer
		c := cleaner(f, func(c *retention.Config) { c.Logger = slog.New(slog.NewTextHandler(&out, nil)) })
		for range 3 {
			if _, err := c.Round(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if n := strings.Count(out.String(), "name=dead"); n != 1 || !strings.Contains(out.String(), "level=WARN") {
			t.Errorf("%d lines: %s", n, out.String())
		}
		time.Sleep(25 * time.Hour)
		_, _ = c.Round(t.Context())
		if n := strings.Count(out.String(), "name=dead"); n != 2 {
			t.Errorf("a day later, %d lines: %s", n, out.String())
		}
		f.holds = nil
		_, _ = c.Round(t.Context())
		if !strings.Contains(out.String(), "not held back any more") {
			t.Error(out.String())
		}
	})
}

func TestRun_WalksATableOnceADay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		c := cleaner(f)
		go func() { done <- c.Run(ctx) }()
		time.Sleep(47 * time.Hour)
		stop()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if n := f.count("barrier"); n != 2 {
			t.Errorf("walked %d times in 47 hours", n)
		}
		if n := f.count("outbox"); n < 47*5 || n > 47*8 {
			t.Errorf("%d rounds in 47 hours", n)
		}
	})
}

func TestReady_SaysWhenRoomRunsOut(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		room  time.Duration
		err   error
		ready bool
	}{
		"for ever": {ready: true}, "a week": {room: 7 * 24 * time.Hour, ready: true}, "hours": {room: 3 * time.Hour},
		"a week, and no more can be made": {room: 7 * 24 * time.Hour, err: errors.New("locked"), ready: true},
		"nobody knows":                    {err: errors.New("locked")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := newFake()
				f.room, f.noRoom = test.room, test.err
				c := cleaner(f)
				ctx, stop := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() { done <- c.Run(ctx) }()
				synctest.Wait()
				if err := c.Ready(); (err == nil) != test.ready {
					t.Errorf("ready: %v", err)
				}
				stop()
				if err := <-done; err != nil {
					t.Error(err)
				}
			})
		})
	}
}
