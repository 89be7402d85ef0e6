package lane_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/lane"
)

// mortal runs engines one after the other; each ends without a word when a handler meets the poison.
type mortal struct {
	w      *world
	mu     sync.Mutex
	died   chan struct{}
	store  *faultyStore
	deaths atomic.Int32
}

// meet ends the process: nothing that it does from now on reaches the database.
func (m *mortal) meet(ctx context.Context) error {
	m.mu.Lock()
	if !m.store.dead.Swap(true) {
		close(m.died)
	}
	m.mu.Unlock()
	<-ctx.Done()
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
	if n := m.w.number("select count(*) from crash"); n != 0 {
		t.Errorf("%d rows of crashes are left: %v", n, m.w.rows("select * from crash"))
	}
	if got := m.deaths.Load(); got != 4 {
		t.Errorf("%d processes died, want 4", got)
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
	c := handle("mail", []string{"orders"}, func(ctx context.Context, msg *mainstay.Message) error {
		if msg.ID == poison {
			return m.meet(ctx)
		}
		return nil
	})
	m.live(t, func() bool {
		return w.number("select count(*) from effect") == 39 && w.number("select count(*) from crash") == 0
	}, c)
	m.wantOneDead(t, poison)
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
	callee := caller(func(ctx context.Context, msg *mainstay.Message) error {
		if msg.ID == poison {
			return m.meet(ctx)
		}
		return nil
	})
	m.live(t, func() bool {
		return w.number("select count(*) from barrier") == 11 && w.number("select count(*) from crash") == 0 && len(w.rows("select 1 from dead_letter")) == 1
	}, remote(callee))
	m.wantOneDead(t, poison)
	if got := w.rows("select 1 from outbox where topic = 'replies' and type = 'thing.do.failed'"); len(got) != 1 {
		t.Errorf("%d sagas were told, want 1", len(got))
	}
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
