package serve

import (
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/broker/membroker"
	"github.com/mainstay-io/mainstay/internal/lane"
	"github.com/mainstay-io/mainstay/internal/order"
	"github.com/mainstay-io/mainstay/internal/process/carrier"
)

// counted is what the lanes have reported.
type counted struct {
	mu       sync.Mutex
	outcomes map[string]int
	gaps     int
}

func (c *counted) Handled(_, outcome string, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.outcomes == nil {
		c.outcomes = map[string]int{}
	}
	c.outcomes[outcome] += n
}

func (c *counted) Gap(_ string, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gaps += n
}

func (c *counted) Batch(string, int, time.Duration)     {}
func (c *counted) Calling(string, int)                  {}
func (c *counted) Called(string, string, time.Duration) {}

// want fails the test as inconclusive unless the outcome was counted.
func (c *counted) want(t testing.TB, outcome string) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.outcomes[outcome] == 0 {
		t.Errorf("inconclusive: no message was %s: %v", outcome, c.outcomes)
	}
}

func (c *counted) wantGaps(t testing.TB) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gaps == 0 {
		t.Error("inconclusive: no message was read from the database")
	}
}

// faulty puts faults between the backbone and its broker.
func faulty(f membroker.Faults) func(*carrier.Carrier) {
	return func(c *carrier.Carrier) {
		b, ok := c.Reader.(*membroker.Broker)
		if !ok {
			panic("the broker is not the one in memory")
		}
		bad := membroker.NewFaulty(b, f)
		c.Reader, c.Publisher = bad, bad
	}
}

func memory(cfg *app.Config) { cfg.Broker = "memory" }

func TestBackbone_WithstandsItsBroker(t *testing.T) {
	t.Parallel()
	isReply := func(m *mainstay.Message) bool { return strings.HasSuffix(m.Topic, "-replies") }
	sometimes := func(m *mainstay.Message) bool { return m.Sequence%3 == 0 }
	for name, c := range map[string]struct {
		faults     membroker.Faults
		set        func(*app.Config)
		conclusive func(t testing.TB, c *counted)
	}{
		"every message twice": {
			faults:     membroker.Faults{Duplicate: true},
			conclusive: func(t testing.TB, c *counted) { c.want(t, lane.HandledDuplicate) },
		},
		"lanes mixed and held back": {
			faults:     membroker.Faults{Shuffle: rand.New(rand.NewPCG(1, 2))},
			conclusive: func(testing.TB, *counted) {},
		},
		"some messages lost": {
			faults:     membroker.Faults{Lose: sometimes},
			conclusive: func(t testing.TB, c *counted) { c.wantGaps(t) },
		},
		"nothing arrives": {
			faults:     membroker.Faults{Lose: func(*mainstay.Message) bool { return true }},
			conclusive: func(t testing.TB, c *counted) { c.wantGaps(t) },
		},
		"replies lost, and late": {
			faults: membroker.Faults{Lose: isReply},
			// Steps are overdue all the time, and yet nobody needs to be asked again: the replies are in line.
			set:        func(cfg *app.Config) { cfg.StepTimeout = 150 * time.Millisecond },
			conclusive: func(t testing.TB, c *counted) { c.wantGaps(t) },
		},
		"acknowledgements lost": {
			faults:     membroker.Faults{AfterPublish: onceIn(4)},
			conclusive: func(testing.TB, *counted) {},
		},
		"everything at once": {
			faults: membroker.Faults{
				Duplicate: true, Lose: sometimes, AfterPublish: onceIn(5),
				Shuffle: rand.New(rand.NewPCG(3, 4)),
			},
			set: func(cfg *app.Config) { cfg.StepTimeout = 150 * time.Millisecond },
			conclusive: func(t testing.TB, c *counted) {
				c.wantGaps(t)
				c.want(t, lane.HandledDuplicate)
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			seen := &counted{}
			set := func(cfg *app.Config) {
				memory(cfg)
				if c.set != nil {
					c.set(cfg)
				}
			}
			r := run(t, set, hooks{lane: seen, carry: faulty(c.faults)})
			r.wantEveryKind(t, 10)
			c.conclusive(t, seen)
		})
	}
}

// onceIn loses the acknowledgement of every n-th publish.
func onceIn(n int) func([]*mainstay.Message) error {
	var mu sync.Mutex
	count := 0
	return func([]*mainstay.Message) error {
		mu.Lock()
		defer mu.Unlock()
		if count++; count%n == 0 {
			return errors.New("the acknowledgement was lost")
		}
		return nil
	}
}

// TestBackbone_TakesRepliesAfterTheCompensation holds every reply back until the deadline has turned most orders
// round: the replies of their actions come after the compensations, and change nothing.
func TestBackbone_TakesRepliesAfterTheCompensation(t *testing.T) {
	t.Parallel()
	set := func(cfg *app.Config) {
		memory(cfg)
		cfg.OrderDeadline, cfg.StepTimeout = time.Second, 100*time.Millisecond
	}
	lose := membroker.Faults{Lose: func(m *mainstay.Message) bool { return strings.HasSuffix(m.Topic, "-replies") }}
	r := run(t, set, hooks{carry: faulty(lose)})
	var all []*order.Order
	for range 20 {
		all = append(all, placed(t, "tok_ok", "mug-red"))
	}
	r.accept(t, all...)
	late := 0
	for _, o := range all {
		switch end := r.end(t, o.ID); end {
		case "cancelled deadline_exceeded":
			late++
		case "confirmed": // its replies were in time after all
		default:
			t.Errorf("order %s: %s", o.ID, end)
		}
	}
	if late == 0 {
		t.Error("inconclusive: no order was turned round")
	}
	r.catchUp(t)
}
