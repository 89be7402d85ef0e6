package bench

import (
	"context"
	"errors"
	"math"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/mainstay-io/mainstay/internal/clock"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a system in which an operation is accepted after begin and ends after finish, both told by its number and
// the time since the start.
type fake struct {
	since         clock.Mono
	begin, finish func(n int64, at time.Duration) (time.Duration, error)

	mu        sync.Mutex
	now, most int // operations that are unfinished
}

func (f *fake) Begin(ctx context.Context, n int64) (Begun, error) {
	f.mu.Lock()
	f.now++
	f.most = max(f.most, f.now)
	f.mu.Unlock()
	if err := f.take(ctx, f.begin, n); err != nil || f.finish == nil {
		f.leave()
		return Begun{Retries: 1}, err
	}
	return Begun{Retries: 1, Finish: func(ctx context.Context) error {
		defer f.leave()
		return f.take(ctx, f.finish, n)
	}}, nil
}

func (f *fake) leave() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now--
}

func (f *fake) take(ctx context.Context, how func(int64, time.Duration) (time.Duration, error), n int64) error {
	d, err := how(n, f.since.Elapsed())
	if !pause(ctx, d) {
		return ctx.Err()
	}
	return err
}

func takes(d time.Duration) func(int64, time.Duration) (time.Duration, error) {
	return func(int64, time.Duration) (time.Duration, error) { return d, nil }
}

// offer runs the load against the fake in bubble time.
func offer(t *testing.T, l Load, f *fake, check func(t *testing.T, r Result)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f.since = clock.Start()
		check(t, Run(t.Context(), l, f, nil, nil))
	})
}

func near(got, want float64) bool { return math.Abs(got-want) <= want/100 }

// A system that stands still for a second is charged for all who would have come meanwhile, also for those whom the
// bound of unfinished operations kept from coming. Measured from when they really began, nine out of ten would look
// fast.
func TestRun_OpenLoadMeasuresFromWhenOperationsWereToBegin(t *testing.T) {
	stall := func(_ int64, at time.Duration) (time.Duration, error) {
		if at >= time.Second && at < 2*time.Second {
			return 2*time.Second - at, nil
		}
		return time.Millisecond, nil
	}
	offer(t, Load{Rate: 100, Unfinished: 10, Duration: 4 * time.Second}, &fake{begin: stall}, func(t *testing.T, r Result) {
		l := r.Latency
		if l.Count != 400 || !near(l.P50, 1) || l.P90 < 590 || l.P90 > 620 || l.P99 < 950 || l.Max < 990 || l.Max > 1010 {
			t.Errorf("measured %+v", l)
		}
		if !r.Sound() || r.Begun != 400 {
			t.Errorf("it ended with %+v", r)
		}
	})
}

func TestRun_OpenLoadSaysWhatCouldNotBegin(t *testing.T) {
	offer(t, Load{Rate: 100, Unfinished: 1, Duration: time.Second}, &fake{begin: takes(100 * time.Millisecond)}, func(t *testing.T, r Result) {
		if r.Begun != 100 || r.Good > 12 || r.Faults[kindNotBegun] != r.Begun-r.Good || r.Sound() {
			t.Errorf("it ended with %+v", r)
		}
	})
}

func TestRun_ClosedLoadWaits(t *testing.T) {
	l := Load{Clients: 4, Warmup: time.Second, Duration: time.Second}
	f := &fake{begin: takes(4 * time.Millisecond), finish: takes(6 * time.Millisecond)}
	offer(t, l, f, func(t *testing.T, r Result) {
		if r.Seconds != 1 || r.Operations != 400 || r.PerSecond != 400 || r.Begun != 800 || r.Retries != 800 || f.most != 4 {
			t.Errorf("measured %+v with up to %d under way", r, f.most)
		}
		if !near(r.Accepted.P50, 4) || !near(r.Latency.P999, 10) || r.Latency.Count != 400 || r.Accepted.Count != 400 {
			t.Errorf("latencies are %+v and %+v", r.Accepted, r.Latency)
		}
	})
}

func TestRun_ClientsPostOnUpToTheBound(t *testing.T) {
	l := Load{Clients: 2, Unfinished: 50, Duration: 10 * time.Second}
	f := &fake{begin: takes(time.Millisecond), finish: takes(99 * time.Millisecond)}
	offer(t, l, f, func(t *testing.T, r Result) {
		if f.most != 50 || r.PerSecond < 480 || r.PerSecond > 500 || !r.Sound() {
			t.Errorf("%v a second with up to %d under way", r.PerSecond, f.most)
		}
	})
}

func TestRun_CountsExactly(t *testing.T) {
	for name, l := range map[string]Load{
		"waiting": {Clients: 7, Count: 100, Warmup: time.Second}, "posting on": {Clients: 7, Unfinished: 20, Count: 100, Warmup: time.Second},
		"open": {Rate: 50, Count: 100, Warmup: time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			offer(t, l, &fake{begin: takes(time.Millisecond), finish: takes(9 * time.Millisecond)}, func(t *testing.T, r Result) {
				if r.Latency.Count != 100 || r.Operations < 100 || r.Operations > 120 || !r.Sound() {
					t.Errorf("measured %+v, %+v", r.Latency, r)
				}
			})
		})
	}
}

func TestRun_CountsFaultsByKind(t *testing.T) {
	f := &fake{begin: takes(0), finish: func(n int64, _ time.Duration) (time.Duration, error) {
		switch n % 4 {
		case 1:
			return time.Millisecond, &Fault{"cancelled", errors.New("no stock")}
		case 2:
			return time.Millisecond, errors.New("what is this?")
		}
		return time.Millisecond, nil
	}}
	offer(t, Load{Clients: 1, Count: 40}, f, func(t *testing.T, r Result) {
		if diff := cmp.Diff(map[string]int64{"cancelled": 10, "error": 10}, r.Faults); diff != "" {
			t.Error(diff)
		}
		if r.Good != 20 || r.Operations != 20 || r.Latency.Count != 20 || r.Bad() != 20 || r.Sound() {
			t.Errorf("it ended with %+v", r)
		}
	})
}

func TestRun_NamesWhatIsUnfinished(t *testing.T) {
	never := func(n int64, _ time.Duration) (time.Duration, error) {
		if n%10 == 0 {
			return time.Hour, nil
		}
		return time.Millisecond, nil
	}
	l := Load{Clients: 2, Unfinished: 100, Duration: time.Second, Count: 100, Patience: 3 * time.Second}
	offer(t, l, &fake{begin: takes(time.Millisecond), finish: never}, func(t *testing.T, r Result) {
		if r.Good != 90 || r.Faults[kindUnfinished] != 10 || r.Bad() != 10 || r.Interrupted {
			t.Errorf("it ended with %+v", r)
		}
	})
}

func TestRun_ASignalEndsItWithWhatWasMeasured(t *testing.T) {
	t.Parallel()
	for name, l := range map[string]Load{
		"waiting":    {Clients: 4, Warmup: time.Second, Duration: time.Hour},
		"posting on": {Clients: 4, Unfinished: 8, Warmup: time.Second, Duration: time.Hour},
		"open":       {Rate: 400, Warmup: time.Second, Duration: time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ctx, signal := context.WithTimeout(t.Context(), 3*time.Second+time.Millisecond/2)
				defer signal()
				began := clock.Start()
				r := Run(ctx, l, &fake{since: began, begin: takes(5 * time.Millisecond), finish: takes(5 * time.Millisecond)}, nil, nil)
				if took := began.Elapsed(); took > 3100*time.Millisecond {
					t.Errorf("it took %v to end", took)
				}
				if !r.Interrupted || r.Bad() != 0 || r.Operations < 780 || r.Latency == nil || !near(r.Seconds, 2) || r.Faults[kindInterrupted] == 0 {
					t.Errorf("it ended with %+v", r)
				}
			})
		})
	}
}

func TestRun_ASignalDuringTheWarmUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, signal := context.WithTimeout(t.Context(), time.Second)
		defer signal()
		r := Run(ctx, Load{Warmup: time.Minute, Duration: time.Hour}, &fake{begin: takes(time.Millisecond)}, nil, nil)
		if !r.Interrupted || r.Operations != 0 || r.PerSecond != 0 || r.Latency != nil || r.Sound() || r.Good == 0 {
			t.Errorf("it ended with %+v", r)
		}
	})
}

func TestRun_ReadsWhatIsUsedWhileItIsMeasured(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &fake{since: clock.Start(), begin: takes(10 * time.Millisecond)}
		busy := Source{"busy", func(context.Context) (Sample, error) { return Sample{f.since.Elapsed().Seconds() / 2, 5e6}, nil }}
		away := Source{"away", func(context.Context) (Sample, error) { return Sample{}, errors.New("gone") }}
		r := Run(t.Context(), Load{Clients: 1, Warmup: 3 * time.Second, Duration: 2 * time.Second}, f, &Meter{[]Source{busy, away}}, nil)
		want := []Used{{Name: "busy", Known: true, CPUSeconds: 1, MicrosPerOperation: 5000, RSSBytes: 5e6}, {Name: "away"}}
		if diff := cmp.Diff(want, r.Used); diff != "" {
			t.Error(diff)
		}
	})
}
