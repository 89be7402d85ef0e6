package lane_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/lane"
)

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
