package relay_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mainstay-io/mainstay/internal/broker/brokertest"
	"github.com/mainstay-io/mainstay/internal/broker/membroker"
	"github.com/mainstay-io/mainstay/internal/relay"
)

// counter counts what the relay tells its hooks, and signals when as much was published as was expected.
type counter struct {
	mu                  sync.Mutex
	published, refilled int
	left                int
	oldest              time.Duration
	lanes               int
	done                chan struct{}
}

func (c *counter) expect(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.left = n
}

func (c *counter) Published(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.published += n
	if c.left -= n; c.left == 0 {
		c.done <- struct{}{}
	}
}

func (c *counter) Refilled(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refilled += n
}

func (c *counter) Round(time.Duration) {}

func (c *counter) OldestUnpublished(age time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.oldest = age
}

func (c *counter) Lanes(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lanes = n
}

func TestRelay_TellsItsHooks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db, mem := newDatabase(), membroker.New(membroker.Options{})
		hooks := &counter{done: make(chan struct{}, 1)}
		r := relay.New(relay.Config{Store: db, Leases: db, Broker: mem, Holder: "a", Lanes: 4, Hooks: hooks})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _ = r.Run(ctx) })
		defer wg.Wait()
		defer cancel()
		db.grow(brokertest.Log(0), 5)
		synctest.Wait()
		mem.DropTail(brokertest.Log(0), 2)
		settle(t, relay.DefaultCheck+relay.DefaultPoll)
		if hooks.published != 7 || hooks.refilled != 2 || hooks.oldest != 0 || hooks.lanes != 4 {
			t.Fatalf("published %d, refilled %d, oldest %v, lanes %d", hooks.published, hooks.refilled, hooks.oldest, hooks.lanes)
		}
		if err := mem.Close(); err != nil {
			t.Fatal(err)
		}
		db.grow(brokertest.Log(0), 1)
		settle(t, time.Minute)
		if hooks.oldest < time.Minute-10*time.Second {
			t.Fatalf("a message waits for a minute, the age told is %v", hooks.oldest)
		}
		if r.Ready() == nil {
			t.Fatal("ready without a broker")
		}
	})
}
