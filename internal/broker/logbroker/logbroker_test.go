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

// grow appends n messages to the log of the topic a.
func grow(t *testing.T, l *fakeLog, n int) {
	t.Helper()
	ms := make([]*mainstay.Message, n)
	for i := range ms {
		ms[i] = &mainstay.Message{Topic: "a"}
	}
	if err := l.append(t.Context(), ms); err != nil {
		t.Error(err)
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
		deaf bool
	}{"woken": {time.Hour, false}, "polling": {time.Millisecond, true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := &fakeLog{deaf: tc.deaf}
			grow(t, l, 4)
			s := subscribe(t, l, tc.poll, 2)
			if diff := cmp.Diff([]int64{3, 4}, next(t, s)); diff != "" {
				t.Fatal(diff)
			}
			var wg sync.WaitGroup
			wg.Go(func() { grow(t, l, 1) })
			if diff := cmp.Diff([]int64{5}, next(t, s)); diff != "" {
				t.Fatal(diff)
			}
			wg.Wait()
		})
	}
}

func TestNext_IsBounded(t *testing.T) {
	t.Parallel()
	l := &fakeLog{}
	grow(t, l, logbroker.Batch+5)
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
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if l.readers() != 0 {
		t.Fatal("the log still wakes it")
	}
	l.fail(errLog)
	s = subscribe(t, l, time.Hour, 0)
	if _, err := s.Next(t.Context()); !errors.Is(err, errLog) {
		t.Fatalf("a broken log: %v", err)
	}
	if _, err := s.Next(stopped); !errors.Is(err, mainstay.ErrShutdown) {
		t.Fatalf("a read that an ended context interrupts: %v", err)
	}
}

// TestNext_ReadsOnlyWhatHasGrown: a reader of many logs is woken by each of them, and does not look into all.
func TestNext_ReadsOnlyWhatHasGrown(t *testing.T) {
	t.Parallel()
	quiet, busy := mainstay.TopicLane{Topic: "a"}, mainstay.TopicLane{Topic: "a", Lane: 1}
	l := &fakeLog{}
	if err := l.append(t.Context(), []*mainstay.Message{{Topic: "a"}, {Topic: "a", Lane: 1}}); err != nil {
		t.Fatal(err)
	}
	s, err := logbroker.New(l, time.Hour).Subscribe(t.Context(), []broker.Start{{TopicLane: quiet, Sequence: 1}, {TopicLane: busy}})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]int64{1}, next(t, s)); diff != "" {
		t.Error(diff)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(map[mainstay.TopicLane]int{busy: 1}, l.asked); diff != "" {
		t.Error(diff)
	}
}

// slowLog lets each read begin when it is told.
type slowLog struct {
	*fakeLog
	begin chan struct{}
}

func (l slowLog) ReadLog(ctx context.Context, after map[mainstay.TopicLane]int64, limit int) ([]*mainstay.Message, error) {
	<-l.begin
	return l.fakeLog.ReadLog(ctx, after, limit)
}

// TestNext_SharesReads wakes the readers of many lanes at once: they do not ask one by one, and each gets its own.
func TestNext_SharesReads(t *testing.T) {
	t.Parallel()
	const lanes = 16
	l := slowLog{&fakeLog{}, make(chan struct{})}
	for lane := range lanes {
		if err := l.append(t.Context(), []*mainstay.Message{{Topic: "a", Lane: lane}}); err != nil {
			t.Fatal(err)
		}
	}
	b := logbroker.New(l, time.Hour)
	var asked, all sync.WaitGroup
	for lane := range lanes {
		s, err := b.Subscribe(t.Context(), []broker.Start{{TopicLane: mainstay.TopicLane{Topic: "a", Lane: lane}}})
		if err != nil {
			t.Fatal(err)
		}
		asked.Add(1)
		all.Go(func() {
			asked.Done()
			ms, err := s.Next(t.Context())
			if err != nil || len(ms) != 1 || ms[0].Lane != lane {
				t.Errorf("lane %d got %v, error %v", lane, ms, err)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	asked.Wait()
	logbroker.WaitAsked(b, lanes)
	close(l.begin)
	all.Wait()
	if l.reads > 1+lanes/4 {
		t.Errorf("%d reads for %d lanes that were woken at once", l.reads, lanes)
	}
}
