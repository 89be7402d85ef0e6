package lane_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/broker"
	"github.com/mainstay-io/mainstay/internal/broker/membroker"
	"github.com/mainstay-io/mainstay/internal/lane"
	"github.com/mainstay-io/mainstay/internal/lease"
	"github.com/mainstay-io/mainstay/outbox"
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

func TestEngine_ParksOnlyTheKeyThatFails(t *testing.T) {
	t.Parallel()
	w := setup(t)
	var open sync.Map
	c := handle("c", []string{"a"}, func(_ context.Context, m *mainstay.Message) error {
		if _, ok := open.Load("yes"); !ok && string(m.Payload) == "bad1" {
			return mainstay.RetryAfter(errors.New("not yet"), 10*time.Millisecond)
		}
		return nil
	})
	e := w.start(func(cfg *lane.Config, _ *faultyStore) { cfg.Retry.Budget = time.Hour }, c)
	t.Cleanup(e.end)
	w.send(event("a", "bad", "bad1"), event("a", "bad", "bad2"), event("a", "good", "good1"), event("a", "bad", "bad3"))
	w.wantEffects(t, "c", "good1")
	w.wantParked(t, "bad retry", "bad queued", "bad queued")
	w.send(event("a", "good", "good2"))
	w.wantEffects(t, "c", "good1", "good2")
	open.Store("yes", true)
	w.wantEffects(t, "c", "good1", "good2", "bad1", "bad2", "bad3")
	w.wantParked(t)
}

// TestEngine_TriesAHeadOnce fails when the queue's growth puts its head on the agenda a second time.
func TestEngine_TriesAHeadOnce(t *testing.T) {
	t.Parallel()
	w := setup(t)
	var n tries
	c := handle("c", []string{"a"}, func(_ context.Context, m *mainstay.Message) error {
		if string(m.Payload) == "1" && n.next(m) == 1 {
			return mainstay.RetryAfter(errors.New("not yet"), time.Second)
		}
		return nil
	})
	w.run(t, c)
	w.send(event("a", "k", "1"))
	w.wantParked(t, "k retry")
	for i := 2; i < 20; i++ {
		w.send(event("a", "k", fmt.Sprint(i)))
	}
	var want []string
	for i := 1; i < 20; i++ {
		want = append(want, fmt.Sprint(i))
	}
	w.wantEffects(t, "c", want...)
}

// TestEngine_SpendsTheBudgetOnFailuresOnly fails when the time that a message has waited behind another one is held
// against it: it would be a dead letter at its third failure.
func TestEngine_SpendsTheBudgetOnFailuresOnly(t *testing.T) {
	t.Parallel()
	w := setup(t)
	const budget = 500 * time.Millisecond
	var n tries
	since := time.Now()
	c := handle("c", []string{"a"}, func(_ context.Context, m *mainstay.Message) error {
		switch {
		case string(m.Payload) == "head" && time.Since(since) < 2*budget:
			return mainstay.RetryAfter(errors.New("not yet"), 2*budget)
		case string(m.Payload) == "behind" && n.next(m) < 8:
			return errors.New("again")
		}
		return nil
	})
	e := w.start(func(cfg *lane.Config, _ *faultyStore) {
		cfg.Retry = lane.Retry{Base: time.Millisecond, Cap: time.Millisecond, Budget: budget, MinAttempts: 3}
	}, c)
	t.Cleanup(e.end)
	w.send(event("a", "k", "head"), event("a", "k", "behind"))
	w.wantEffects(t, "c", "head", "behind")
	if w.number("select count(*) from dead_letter") != 0 {
		t.Error("the message that had to wait became a dead letter")
	}
}

func TestEngine_MakesDeadLetters(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		err      error
		kind     string
		attempts int
	}{
		"terminal":   {mainstay.Terminal(errors.New("bad schema")), "terminal", 1},
		"business":   {mainstay.Reject("no", "not here"), "business", 1},
		"retryable":  {errors.New("again \x00\xff"), "retryable", 3},
		"a shutdown": {mainstay.ErrShutdown, "interrupted", 3}, // of something else than this process
		"a panic":    {nil, "retryable", 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := setup(t)
			w.run(t, handle("c", []string{"a"}, func(_ context.Context, m *mainstay.Message) error {
				if string(m.Payload) != "bad" {
					return nil
				}
				if tc.err == nil {
					panic("oops")
				}
				return tc.err
			}))
			ms := []*mainstay.Message{event("a", "k", "bad"), event("a", "k", "next"), event("a", "other", "fine")}
			ms[0].Headers = map[string]string{mainstay.HeaderReplyTo: "replies"}
			w.send(ms...)
			w.wantParked(t, "k dead", "k queued")
			w.wantEffects(t, "c", "fine")
			if got := w.number("select attempts from dead_letter where state = 'open' and kind = ?", tc.kind); got < tc.attempts {
				t.Fatalf("%d attempts, want at least %d", got, tc.attempts)
			}
			if w.number("select count(*) from outbox where topic = 'replies'") != 0 {
				t.Fatal("a consumer that is no participant has answered a command")
			}
		})
	}
}

func TestEngine_ReplaysWhatAPersonMoved(t *testing.T) {
	t.Parallel()
	w := setup(t)
	bad := handle("c", []string{"a"}, func(_ context.Context, m *mainstay.Message) error {
		if string(m.Payload) == "bad" {
			return mainstay.Terminal(errors.New("bad schema"))
		}
		return nil
	})
	e := w.start(nil, bad)
	w.send(event("a", "k", "bad"), event("a", "k", "next"))
	w.wantParked(t, "k dead", "k queued")
	e.end()
	w.rows("update parked set state = 'replay' where state = 'dead'")
	w.rows("update dead_letter set state = 'replaying'")
	e = w.start(nil, bad)
	w.until("it is dead again", func() bool {
		return w.number("select count(*) from dead_letter where state = 'open' and attempts = 2") == 1
	})
	e.end()
	w.rows("update parked set state = 'replay' where state = 'dead'")
	w.run(t, handle("c", []string{"a"}, fine))
	w.wantEffects(t, "c", "bad", "next")
	w.wantParked(t)
	if w.number("select count(*) from dead_letter where state = 'resolved' and ended_at is not null") != 1 {
		t.Fatal("the case is not resolved")
	}
}

// TestEngine_IsolatesTheCulprit has handlers that fail their whole batch.
func TestEngine_IsolatesTheCulprit(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func(){"error": func() {}, "panic": func() { panic("oops") }} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := setup(t)
			h := batch(func(ctx context.Context, tx mainstay.Tx, ms []*mainstay.Message) ([]error, error) {
				for _, m := range ms {
					if err := effect(ctx, tx, "c", m); err != nil {
						return nil, err
					}
					if strings.HasPrefix(string(m.Payload), "bad") {
						fail()
						return nil, mainstay.Terminal(errors.New("bad"))
					}
				}
				return nil, nil
			})
			var ms []*mainstay.Message
			for i := range 40 {
				m := event("a", fmt.Sprint("k", i), fmt.Sprint("ok", i))
				if i%13 == 5 {
					m.Payload = []byte(fmt.Sprint("bad", i))
				}
				ms = append(ms, m)
			}
			w.send(ms...)
			w.run(t, lane.Consumer{Name: "c", Topics: []string{"a"}, Handler: h})
			w.until("3 dead", func() bool { return w.number("select count(*) from dead_letter") == 3 })
			w.until("37 effects", func() bool { return w.number("select count(*) from effect") >= 37 })
			if n := w.number("select count(distinct id) from effect where note like 'ok%'"); n != 37 || w.number("select count(*) from effect") != 37 {
				t.Fatalf("%d effects of 37", n)
			}
		})
	}
}

// TestEngine_NeverStepsOver: what could not even be recorded as a failure is not lost to what comes behind it.
func TestEngine_NeverStepsOver(t *testing.T) {
	t.Parallel()
	w := setup(t)
	var n tries
	c := lane.Consumer{Name: "c", Topics: []string{"a"}, Handler: batch(func(ctx context.Context, tx mainstay.Tx, ms []*mainstay.Message) ([]error, error) {
		for _, m := range ms {
			if string(m.Payload) == "bad" && n.next(m) <= 3 {
				return nil, errors.New("no")
			}
			if err := effect(ctx, tx, "c", m); err != nil {
				return nil, err
			}
		}
		return nil, nil
	})}
	w.send(event("a", "k", "bad"), event("a", "k", "next"))
	w.rows("create trigger refuse before insert on parked begin select raise(abort, 'no room'); end")
	e := w.start(nil, c)
	t.Cleanup(e.end)
	w.until("it was tried", func() bool { n.mu.Lock(); defer n.mu.Unlock(); return n.n["bad"] >= 2 })
	w.rows("drop trigger refuse")
	w.wantEffects(t, "c", "bad", "next")
}

func TestEngine_AnswersWhatNobodyCanAnswer(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.run(t, local(w, nil))
	bad := command("s", mainstay.OpDo)
	bad.Type, bad.Headers[mainstay.HeaderReplyTo] = "thing."+strings.Repeat("x", 120), "Not A Topic"
	good := command("s2", mainstay.OpDo)
	good.Key = bad.Key + "2"
	w.send(bad, good)
	w.until("the poison is dead", func() bool { return w.number("select count(*) from dead_letter") == 1 })
	w.until("the other is done", func() bool { return len(w.replies()) == 1 })
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

func TestEngine_StepsOverTombstones(t *testing.T) {
	t.Parallel()
	w := setup(t)
	dead := event("a", "k", "never")
	dead.Type = mainstay.TypeTombstone
	w.send(event("a", "k", "1"), dead, event("a", "k", "2"))
	w.run(t, handle("c", []string{"a"}, fine))
	w.wantEffects(t, "c", "1", "2")
}

// timers is a timer that fails for one id.
type timers struct {
	w  *world
	mu sync.Mutex
	// due are the ids that are due.
	due map[string]bool
}

func (d *timers) Due(_ context.Context, _ []int, _ time.Time, limit int) ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var ids []string
	for _, id := range []string{"a", "bad", "c"} {
		if d.due[id] && len(ids) < limit {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

func (d *timers) Urgent(_ context.Context, lanes []int, _ time.Time, _ int) ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.due["urgent"] && slices.Contains(lanes, outbox.Lane("k", 2)) {
		return []string{"urgent"}, nil
	}
	return nil, nil
}

func (d *timers) Fire(ctx context.Context, tx mainstay.Tx, ids []string) error {
	for _, id := range ids {
		if id == "bad" {
			panic("a timer that always fails")
		}
		if err := effect(ctx, tx, "timer", event("t", id, id)); err != nil {
			return err
		}
		tx.OnCommit(func() {
			d.mu.Lock()
			defer d.mu.Unlock()
			delete(d.due, id)
			d.w.poke()
		})
	}
	return nil
}

func (d *timers) Abandon(ctx context.Context, tx mainstay.Tx, id string, _ error) error {
	tx.OnCommit(func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.due, id)
		d.w.poke()
	})
	return effect(ctx, tx, "abandoned", event("t", id, id))
}

func TestEngine_FiresTimersBesideOneThatFails(t *testing.T) {
	t.Parallel()
	w := setup(t)
	c := handle("c", []string{"a"}, fine)
	c.Timers = &timers{w: w, due: map[string]bool{"a": true, "bad": true, "c": true}}
	w.run(t, c)
	w.wantEffects(t, "timer", "a", "c")
}

// inLane are timers of one lane.
type inLane struct {
	*timers
	lane int
}

func (d inLane) Due(ctx context.Context, lanes []int, now time.Time, limit int) ([]string, error) {
	if !slices.Contains(lanes, d.lane) {
		return nil, nil
	}
	return d.timers.Due(ctx, lanes, now, limit)
}

// A timer waits while what it would ask for is in line at its participant, and fires even if that never moves.
func TestEngine_TimersWaitForWhatIsInLine(t *testing.T) {
	t.Parallel()
	for name, moves := range map[string]bool{"and comes to its end": true, "and never moves": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := setup(t)
			if err := w.store.Register(t.Context(), lane.Registration{Consumer: "participant", Topics: []string{"b"}}); err != nil {
				t.Fatal(err)
			}
			w.send(event("b", "k", "1"))
			c := handle("c", []string{"a"}, fine)
			c.Timers = inLane{&timers{w: w, due: map[string]bool{"a": true, "urgent": true}}, outbox.Lane("k", 2)}
			c.Awaits = []string{"b"}
			var looks atomic.Int64
			e := w.start(func(cfg *lane.Config, fs *faultyStore) {
				if moves {
					cfg.LeaseTTL = time.Hour
				}
				fs.lines = func() { looks.Add(1) }
			}, c)
			t.Cleanup(e.end)
			if moves {
				w.until("it was looked at some times", func() bool { return looks.Load() > 3 })
				w.wantEffects(t, "timer", "urgent")
				w.run(t, handle("participant", []string{"b"}, fine))
			}
			w.wantEffects(t, "timer", "urgent", "a")
		})
	}
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
