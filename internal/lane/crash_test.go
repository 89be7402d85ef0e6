package lane_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/lane"
	"github.com/mainstay-io/mainstay/outbox"
)

// mortal runs engines one after the other; each ends without a word when a handler meets the poison.
type mortal struct {
	w      *world
	mu     sync.Mutex
	died   chan struct{}
	store  *faultyStore
	deaths atomic.Int32
}

// meet ends the process: nothing that it does from now on reaches the database. It does not wait for that end, as it
// may be called by the one who writes, for whom others wait before they end.
func (m *mortal) meet() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.store.dead.Swap(true) {
		close(m.died)
	}
	return errors.New("the process is dead")
}

// live runs engines until one has reached the condition.
func (m *mortal) live(t *testing.T, ok func() bool, consumers ...lane.Consumer) {
	t.Helper()
	for {
		m.mu.Lock()
		m.died = make(chan struct{})
		died := m.died
		e := m.w.start(func(c *lane.Config, s *faultyStore) { c.Batch, m.store = 16, s }, consumers...)
		m.mu.Unlock()
		over := make(chan struct{})
		go func() {
			defer close(over)
			m.w.until("the end", func() bool {
				select {
				case <-died:
					return true
				default:
					return ok()
				}
			})
		}()
		<-over
		if !e.store.dead.Load() {
			e.end()
			return
		}
		m.deaths.Add(1)
		e.kill()
	}
}

// wantOneDead wants the one dead letter to be the message with this payload, of kind crash, and nothing to be left.
func (m *mortal) wantOneDead(t *testing.T, id string) {
	t.Helper()
	if got := m.w.rows("select message_id || ' ' || kind from dead_letter"); len(got) != 1 || got[0] != id+" crash" {
		t.Errorf("dead letters %v, want message %s of kind crash", got, id)
	}
	if got := m.w.rows("select sequence > 0, count, running from crash"); len(got) != 1 || got[0] != "1 1 0" {
		t.Errorf("of crashes is left %v, want what is held against the one message", got)
	}
	if got := m.deaths.Load(); got != 4 {
		t.Errorf("%d processes died, want 4", got)
	}
}

// replay marks the dead letter for its lane's owner, as a person does.
func (m *mortal) replay() {
	m.w.rows("update parked set state = 'replay', due_at = 0 where state = 'dead'")
	m.w.rows("update dead_letter set state = 'replaying' where state = 'open'")
}

// wantReplays replays the dead letter: one death is enough to make it one again, and one that ends no process any more
// leaves nothing.
func (m *mortal) wantReplays(t *testing.T, heal func(), consumers ...lane.Consumer) {
	t.Helper()
	for i := range int32(2) {
		m.replay()
		m.live(t, func() bool {
			return m.w.number("select count(*) from dead_letter where state = 'open' and kind = 'crash'") == 1
		}, consumers...)
		if got := m.deaths.Load(); got != 5+i {
			t.Fatalf("%d processes have died after replay %d, want %d", got, i+1, 5+i)
		}
	}
	// What is said of a message that is gone is forgotten.
	m.w.rows(`insert into crash (consumer, lane, topic, sequence, count, running)
		select consumer, lane, topic, sequence, 1, 0 from place where sequence > 0 and sequence not in (select sequence from parked) limit 1`)
	m.replay()
	heal()
	m.live(t, func() bool { return m.w.number("select count(*) from dead_letter where state <> 'resolved'") == 0 }, consumers...)
	if got := m.w.rows("select * from crash"); len(got) != 0 || m.deaths.Load() != 6 {
		t.Errorf("%d have died in all, and of crashes is left %v", m.deaths.Load(), got)
	}
	if n := m.w.number("select count(*) from parked"); n != 0 {
		t.Errorf("%d messages are parked: %v", n, m.w.rows("select message_id, state, attempts from parked"))
	}
}

// A message that ends its process is a dead letter when it has ended four, and costs its neighbours nothing.
func TestCrash_OfAMessage(t *testing.T) {
	t.Parallel()
	w := setup(t)
	m := &mortal{w: w}
	var poison string
	for i := range 40 {
		e := event("orders", fmt.Sprintf("k%d", i), fmt.Sprint(i))
		w.send(e)
		if i == 17 {
			poison = e.ID
		}
	}
	var healed atomic.Bool
	c := handle("mail", []string{"orders"}, func(_ context.Context, msg *mainstay.Message) error {
		if msg.ID == poison && !healed.Load() {
			return m.meet()
		}
		return nil
	})
	m.live(t, func() bool {
		return w.number("select count(*) from effect") == 39 && w.number("select count(*) from crash where sequence = 0") == 0
	}, c)
	m.wantOneDead(t, poison)
	m.wantReplays(t, func() { healed.Store(true) }, c)
	if n := w.number("select count(*) from parked where attempts > 0 and message_id <> ?", poison); n != 0 {
		t.Errorf("%d neighbours were charged", n)
	}
}

// The same of a call, which is made outside any transaction, beside others.
func TestCrash_OfACall(t *testing.T) {
	t.Parallel()
	w := setup(t)
	m := &mortal{w: w}
	var poison string
	for i := range 12 {
		c := command(fmt.Sprintf("s%d", i), mainstay.OpDo)
		w.send(c)
		if i == 5 {
			poison = c.ID
		}
	}
	var healed atomic.Bool
	callee := caller(func(_ context.Context, msg *mainstay.Message) error {
		if msg.ID == poison && !healed.Load() {
			return m.meet()
		}
		return nil
	})
	m.live(t, func() bool {
		return w.number("select count(*) from barrier") == 11 && w.number("select count(*) from crash where sequence = 0") == 0 &&
			len(w.rows("select 1 from dead_letter")) == 1
	}, remote(callee))
	m.wantOneDead(t, poison)
	if got := w.rows("select 1 from outbox where topic = 'replies' and type = 'thing.do.failed'"); len(got) != 1 {
		t.Errorf("%d sagas were told, want 1", len(got))
	}
	m.wantReplays(t, func() { healed.Store(true) }, remote(callee))
}

// caller is a remote handler without effects.
type caller func(ctx context.Context, m *mainstay.Message) error

func (c caller) Call(ctx context.Context, m *mainstay.Message) (any, error) { return nil, c(ctx, m) }

func (c caller) Settle(context.Context, mainstay.Tx, []mainstay.Settlement) error { return nil }

// Kills from outside charge a message that runs alone at most once each, and a success clears it.
func TestCrash_KillsFromOutside(t *testing.T) {
	t.Parallel()
	w := setup(t)
	for i := range 40 {
		w.send(event("orders", fmt.Sprintf("k%d", i), fmt.Sprint(i)))
	}
	c := handle("mail", []string{"orders"}, func(context.Context, *mainstay.Message) error { return nil })
	for i := 0; w.number("select count(*) from effect") < 40; i++ {
		before := w.number("select count(*) from effect")
		e := w.start(func(c *lane.Config, _ *faultyStore) { c.Batch = 8 }, c)
		w.until("something was handled", func() bool { return w.number("select count(*) from effect") > before })
		e.kill()
	}
	w.run(t, c)
	w.until("nobody is suspected", func() bool { return w.number("select count(*) from crash") == 0 })
	if n := w.number("select count(*) from dead_letter") + w.number("select count(*) from parked"); n != 0 {
		t.Errorf("%d messages were charged", n)
	}
}

// mortalTimers are timers of one lane, of which one ends its process, and if it must, also when it is given up.
type mortalTimers struct {
	inLane
	m    *mortal
	ends bool
}

func (d mortalTimers) Fire(ctx context.Context, tx mainstay.Tx, ids []string) error {
	if slices.Contains(ids, "bad") {
		return d.m.meet()
	}
	return d.inLane.Fire(ctx, tx, ids)
}

func (d mortalTimers) Abandon(ctx context.Context, tx mainstay.Tx, id string, why error) error {
	if d.ends {
		return d.m.meet()
	}
	return d.inLane.Abandon(ctx, tx, id, why)
}

// A timer that ends its process is given up when it has ended four, and left alone when even that ends one; other
// timers and the lane's messages pass.
func TestCrash_OfATimer(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		ends   bool
		deaths int32
		want   []string
	}{
		"is given up":         {false, 4, []string{"timer a", "abandoned bad", "timer c"}},
		"cannot be, and ends": {true, 5, []string{"timer a", "timer c"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := setup(t)
			m := &mortal{w: w}
			c := handle("mail", []string{"orders"}, fine)
			due := &timers{w: w, due: map[string]bool{"a": true, "bad": true, "c": true}}
			c.Timers = mortalTimers{inLane{due, outbox.Lane("k", 2)}, m, test.ends}
			for i := range 8 {
				w.send(event("orders", fmt.Sprintf("k%d", i), fmt.Sprint(i)))
			}
			m.live(t, func() bool {
				return w.number("select count(*) from effect") == 8+len(test.want) && w.number("select count(*) from crash where sequence = 0 or running") == 0
			}, c)
			if got := w.rows("select consumer || ' ' || note from effect where consumer <> 'mail' order by note"); !slices.Equal(got, test.want) {
				t.Errorf("of timers came %v", got)
			}
			if got := m.deaths.Load(); got != test.deaths {
				t.Errorf("%d processes died, want %d", got, test.deaths)
			}
			if n := w.number("select count(*) from dead_letter") + w.number("select count(*) from parked"); n != 0 {
				t.Errorf("%d messages were charged", n)
			}
			e := w.start(nil, c) // the next process starts as usual, and lives
			w.send(event("orders", "k", "last"))
			w.until("it works", func() bool { return w.number("select count(*) from effect where note = 'last'") == 1 })
			e.end()
			if e.store.dead.Load() {
				t.Error("the next process has died")
			}
		})
	}
}

// A mark that a process has left without dying, as it lost its lane while it ran the message, charges nobody.
func TestCrash_AMarkWithoutADeathChargesNobody(t *testing.T) {
	t.Parallel()
	w := setup(t)
	c := handle("mail", []string{"orders"}, fine)
	w.send(event("orders", "k", "1"))
	w.rows(`insert into crash (consumer, lane, topic, sequence, count, running) select 'mail', lane, '', 0, 2, 0 from outbox
		union all select 'mail', lane, topic, sequence, 1, 1 from outbox`)
	w.run(t, c)
	w.until("nobody is suspected", func() bool { return w.number("select count(*) from crash") == 0 })
	w.wantEffects(t, "mail", "1")
	if n := w.number("select count(*) from dead_letter"); n != 0 {
		t.Errorf("%d dead letters", n)
	}
}
