package lane_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/broker"
	"github.com/mainstay-io/mainstay/internal/broker/membroker"
	"github.com/mainstay-io/mainstay/internal/lane"
	"github.com/mainstay-io/mainstay/internal/lease"
)

// fine never fails.
func fine(context.Context, *mainstay.Message) error { return nil }

// tries counts runs by payload.
type tries struct {
	mu sync.Mutex
	n  map[string]int
}

func (c *tries) next(m *mainstay.Message) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = map[string]int{}
	}
	c.n[string(m.Payload)]++
	return c.n[string(m.Payload)]
}

func (w *world) wantEffects(t *testing.T, consumer string, want ...string) {
	t.Helper()
	w.until(fmt.Sprintf("%s has %d effects", consumer, len(want)), func() bool { return len(w.effects(consumer)) >= len(want) })
	if diff := cmp.Diff(want, w.effects(consumer)); diff != "" {
		t.Fatalf("effects of %s (-want +got):\n%s", consumer, diff)
	}
}

func (w *world) parked() []string {
	return w.rows("select key, state from parked order by key, sequence")
}

func (w *world) wantParked(t *testing.T, want ...string) {
	t.Helper()
	w.until(fmt.Sprintf("parked is %q", want), func() bool { return cmp.Equal(append([]string{}, want...), w.parked()) })
}

func TestEngine_HandlesInOrderAndMovesThePlace(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.send(event("a", "k", "1"), event("a", "k", "2"), event("b", "k", "x"))
	w.run(t, handle("c", []string{"a"}, fine), handle("d", []string{"a", "b"}, fine))
	w.send(event("a", "k", "3"))
	w.wantEffects(t, "c", "1", "2", "3")
	w.until("d has handled both topics", func() bool { return len(w.effects("d")) == 4 })
	if got := w.number("select sequence from place where consumer = 'c' and topic = 'a' and sequence > 0"); got != 3 {
		t.Fatalf("the place is %d, want 3", got)
	}
}

func TestEngine_StartsAtTheEndWhenAsked(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.send(event("a", "k", "old"))
	c := handle("c", []string{"a"}, fine)
	c.Latest = true
	e := w.start(nil, c)
	w.until("it is registered", func() bool { return w.number("select count(*) from place where consumer = 'c'") > 0 })
	w.send(event("a", "k", "new"))
	w.wantEffects(t, "c", "new")
	e.end()
}

// faulty lets the engine read from a broker that is filled by hand.
func faulty(t *testing.T, w *world, f membroker.Faults) func(ms ...*mainstay.Message) {
	t.Helper()
	b := membroker.NewFaulty(membroker.New(membroker.Options{}), f)
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	w.reader = b
	return func(ms ...*mainstay.Message) {
		t.Helper()
		if _, err := b.Publish(t.Context(), ms, nil); err != nil {
			t.Fatal(err)
		}
	}
}

func TestEngine_SkipsDuplicates(t *testing.T) {
	t.Parallel()
	w := setup(t)
	publish := faulty(t, w, membroker.Faults{Duplicate: true})
	w.run(t, handle("c", []string{"a"}, fine))
	var want []string
	w.until("duplicates came", func() bool {
		if w.seen("c duplicate") < 2 && len(w.effects("c")) == len(want) {
			m := event("a", "k", fmt.Sprint(len(want)))
			w.send(m)
			publish(m)
			want = append(want, string(m.Payload))
		}
		return w.seen("c duplicate") >= 2
	})
	w.wantEffects(t, "c", want...)
}

func TestEngine_ReadsGapsFromTheDatabase(t *testing.T) {
	t.Parallel()
	w := setup(t)
	lost := func(m *mainstay.Message) bool { return m.Sequence == 2 || m.Sequence == 5 }
	publish := faulty(t, w, membroker.Faults{Lose: lost})
	w.run(t, handle("c", []string{"a"}, fine))
	w.until("it is ready", func() bool { return w.number("select count(*) from lease where name = 'c'") == 2 })
	var want []string
	for i := range 5 {
		m := event("a", "k", fmt.Sprint(i))
		w.send(m)
		publish(m)
		want = append(want, fmt.Sprint(i))
	}
	w.wantEffects(t, "c", want...)
	if w.seen("c gap") == 0 {
		t.Fatal("no gap was seen")
	}
}

func TestEngine_RecoversWhatItsBufferCannotHold(t *testing.T) {
	t.Parallel()
	w := setup(t)
	publish := faulty(t, w, membroker.Faults{})
	blocked, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	c := handle("c", []string{"a"}, func(context.Context, *mainstay.Message) error {
		once.Do(func() { close(blocked); <-release })
		return nil
	})
	first := event("a", "k", "0")
	w.send(first)
	e := w.start(func(cfg *lane.Config, _ *faultyStore) { cfg.Batch = 2 }, c)
	t.Cleanup(e.end)
	<-blocked
	var ms []*mainstay.Message
	want := []string{"0"}
	for i := 1; i <= 40; i++ {
		// the writer is in the handler: what the broker brings now was never committed before it
		ms = append(ms, event("a", "k", fmt.Sprint(i)))
		want = append(want, fmt.Sprint(i))
	}
	close(release)
	w.send(ms...)
	publish(append([]*mainstay.Message{first}, ms...)...)
	w.wantEffects(t, "c", want...)
}

func TestEngine_IsFencedByAnotherHolder(t *testing.T) {
	t.Parallel()
	w := setup(t)
	inside, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	e := w.start(func(cfg *lane.Config, fs *faultyStore) {
		cfg.ForceLeases = false
		fs.before = func(u lane.Unit) error {
			once.Do(func() { close(inside); <-goOn })
			return nil
		}
	}, handle("c", []string{"a"}, fine))
	t.Cleanup(e.end)
	w.send(event("a", "k", "1"))
	<-inside
	var taken []lease.Lease
	var err error
	if taken, err = w.store.Acquire(t.Context(), "c", []int{0, 1}, "other", time.Hour, true); err != nil || len(taken) != 2 {
		t.Fatal(taken, err)
	}
	close(goOn)
	w.until("the lease is found lost", func() bool { return w.number("select count(*) from lease where holder = 'other'") == 2 })
	if got := w.effects("c"); len(got) != 0 {
		t.Fatalf("effects without a lease: %v", got)
	}
	if err := w.store.Release(t.Context(), "other", taken); err != nil {
		t.Fatal(err)
	}
	w.wantEffects(t, "c", "1")
}

func TestEngine_ShutdownCountsForNobody(t *testing.T) {
	t.Parallel()
	w := setup(t)
	inside, goOn := make(chan struct{}), make(chan struct{})
	e := w.start(nil, handle("c", []string{"a"}, func(context.Context, *mainstay.Message) error {
		close(inside)
		<-goOn
		return fmt.Errorf("giving up: %w", mainstay.ErrShutdown)
	}))
	w.send(event("a", "k", "1"))
	<-inside
	e.stop()
	close(goOn)
	e.end()
	if got := w.parked(); len(got) != 0 {
		t.Fatalf("parked: %v", got)
	}
	w.run(t, handle("c", []string{"a"}, fine))
	w.wantEffects(t, "c", "1")
}

func TestEngine_FinishesWhatHasBegun(t *testing.T) {
	t.Parallel()
	w := setup(t)
	inside, goOn := make(chan struct{}), make(chan struct{})
	e := w.start(nil, handle("c", []string{"a"}, func(context.Context, *mainstay.Message) error {
		close(inside)
		<-goOn
		return nil
	}))
	w.send(event("a", "k", "1"))
	<-inside
	e.stop()
	close(goOn)
	e.end()
	w.wantEffects(t, "c", "1")
	if n := w.number("select count(*) from lease where holder <> ''"); n != 0 {
		t.Fatalf("%d leases were not given back", n)
	}
}

// errReader cannot be subscribed to: the engine lives from the log.
type errReader struct{}

func (errReader) Subscribe(context.Context, []broker.Start) (broker.Subscription, error) {
	return nil, errors.New("no broker")
}

func TestEngine_LivesWithoutABroker(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.reader = errReader{}
	w.run(t, handle("c", []string{"a"}, fine))
	for i := range 5 {
		w.send(event("a", "k", fmt.Sprint(i)))
	}
	w.wantEffects(t, "c", "0", "1", "2", "3", "4")
}

// TestEngine_HandlesWhatItIsTold: messages are handled though no broker has brought them yet, and nobody looks for what is
// missing; what is told behind a message that was not is left to the broker. The broker's first copies of what was told
// are no duplicates.
func TestEngine_HandlesWhatItIsTold(t *testing.T) {
	t.Parallel()
	w := setup(t)
	publish := faulty(t, w, membroker.Faults{})
	w.send(event("a", "k", "0"))
	var tell func([]*mainstay.Message)
	e := w.start(func(cfg *lane.Config, _ *faultyStore) {
		cfg.Sweep = time.Hour
		cfg.Follow = func(deliver func([]*mainstay.Message)) func() {
			tell = deliver
			return w.store.Follow(func(ms []*mainstay.Message) {
				if string(ms[0].Payload) != "untold" {
					deliver(ms)
				}
			})
		}
	}, handle("c", []string{"a"}, fine))
	t.Cleanup(e.end)
	w.wantEffects(t, "c", "0") // from now on the log is not read any more
	told := []*mainstay.Message{event("a", "k", "1"), event("a", "k", "2")}
	w.send(told...)
	w.wantEffects(t, "c", "0", "1", "2")
	gaps := w.seen("c gap")

	untold, behind := event("a", "k", "untold"), event("a", "k", "3")
	w.send(untold)
	w.send(behind)
	publish(told...)
	publish(untold, behind)
	w.wantEffects(t, "c", "0", "1", "2", "untold", "3")
	if n := w.seen("c gap"); n != gaps {
		t.Errorf("%d messages were read from the log, which the broker has brought", n-gaps)
	}
	if n := w.seen("c duplicate"); n != 0 {
		t.Errorf("%d duplicates were counted, want none", n)
	}
	tell([]*mainstay.Message{behind})
	publish(told...)
	w.until("what came again is counted", func() bool { return w.seen("c duplicate") == 3 })
}

func TestEngine_StepsOverTombstones(t *testing.T) {
	t.Parallel()
	w := setup(t)
	dead := event("a", "k", "never")
	dead.Type = mainstay.TypeTombstone
	w.send(event("a", "k", "1"), dead, event("a", "k", "2"))
	w.run(t, handle("c", []string{"a"}, fine))
	w.wantEffects(t, "c", "1", "2")
}

func TestNew_Refuses(t *testing.T) {
	t.Parallel()
	ok := handle("c", []string{"a"}, fine)
	for name, cs := range map[string][]lane.Consumer{
		"no name":                 {{Topics: ok.Topics, Handler: ok.Handler}},
		"no topic":                {{Name: "c", Handler: ok.Handler}},
		"no handler":              {{Name: "c", Topics: ok.Topics}},
		"handler, participant":    {{Name: "c", Topics: ok.Topics, Handler: ok.Handler, Participant: &lane.Participant{}}},
		"an empty participant":    {{Name: "c", Topics: ok.Topics, Participant: &lane.Participant{}}},
		"the same name once more": {ok, ok},
	} {
		if _, err := lane.New(lane.Config{}, cs...); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
