package logbroker_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/broker"
	"github.com/mainstay-io/mainstay/internal/broker/logbroker"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeLog is a log of one topic's lane.
type fakeLog struct {
	mu    sync.Mutex
	last  int64
	err   error
	wakes map[chan struct{}]bool
}

var errLog = errors.New("the log cannot be read")

func (l *fakeLog) Heads(context.Context) (map[mainstay.TopicLane]int64, error) { return nil, nil }

func (l *fakeLog) ReadLog(_ context.Context, after map[mainstay.TopicLane]int64, limit int) ([]*mainstay.Message, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var ms []*mainstay.Message
	for s := after[mainstay.TopicLane{Topic: "a"}] + 1; s <= l.last && len(ms) < limit; s++ {
		ms = append(ms, &mainstay.Message{Topic: "a", Sequence: s})
	}
	return ms, l.err
}

func (l *fakeLog) Wake() (<-chan struct{}, func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := make(chan struct{}, 1)
	if l.wakes == nil {
		l.wakes = map[chan struct{}]bool{}
	}
	l.wakes[c] = true
	return c, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.wakes, c)
	}
}

func (l *fakeLog) grow(n int64, wake bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last += n
	for c := range l.wakes {
		if wake {
			c <- struct{}{}
		}
	}
}

func subscribe(t *testing.T, l *fakeLog, poll time.Duration, from int64) broker.Subscription {
	t.Helper()
	start := broker.Start{TopicLane: mainstay.TopicLane{Topic: "a"}, Sequence: from}
	s, err := logbroker.New(l, poll).Subscribe(t.Context(), []broker.Start{start})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func next(t *testing.T, s broker.Subscription) []int64 {
	t.Helper()
	ms, err := s.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []int64
	for _, m := range ms {
		got = append(got, m.Sequence)
	}
	return got
}

func TestNext_ReadsFromItsStartAndGoesOn(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		poll time.Duration
		wake bool
	}{"woken": {time.Hour, true}, "polling": {time.Millisecond, false}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := &fakeLog{last: 4}
			s := subscribe(t, l, tc.poll, 2)
			if diff := cmp.Diff([]int64{3, 4}, next(t, s)); diff != "" {
				t.Fatal(diff)
			}
			var wg sync.WaitGroup
			wg.Go(func() { l.grow(1, tc.wake) })
			if diff := cmp.Diff([]int64{5}, next(t, s)); diff != "" {
				t.Fatal(diff)
			}
			wg.Wait()
		})
	}
}

func TestNext_IsBounded(t *testing.T) {
	t.Parallel()
	l := &fakeLog{last: logbroker.Batch + 5}
	s := subscribe(t, l, time.Hour, 0)
	if n, m := len(next(t, s)), len(next(t, s)); n != logbroker.Batch || m != 5 {
		t.Fatalf("%d, then %d", n, m)
	}
}

func TestNext_Ends(t *testing.T) {
	t.Parallel()
	l := &fakeLog{}
	s := subscribe(t, l, time.Hour, 0)
	stopped, stop := context.WithCancelCause(t.Context())
	stop(mainstay.ErrShutdown)
	if _, err := s.Next(stopped); !errors.Is(err, mainstay.ErrShutdown) {
		t.Fatalf("an ended context: %v", err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	if _, err := s.Next(t.Context()); !errors.Is(err, broker.ErrClosed) {
		t.Fatalf("closed: %v", err)
	}
	wg.Wait()
	if len(l.wakes) != 0 {
		t.Fatal("the log still wakes it")
	}
	l.err = errLog
	if _, err := subscribe(t, l, time.Hour, 0).Next(t.Context()); !errors.Is(err, errLog) {
		t.Fatalf("a broken log: %v", err)
	}
}
