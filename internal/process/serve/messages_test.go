package serve

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/broker/membroker"
	"github.com/mainstay-io/mainstay/internal/logistics"
	"github.com/mainstay-io/mainstay/internal/process/carrier"
)

// designed are the messages of an order, each of which crosses the broker once: its events, a command for each step
// or compensation, and a reply to each command.
func designed() map[string]struct {
	token, country string
	want           map[string]int
} {
	return map[string]struct {
		token, country string
		want           map[string]int
	}{
		"confirmed": {"tok_ok", "FR", map[string]int{
			"order-events order.placed": 1, "order-events order.confirmed": 1,
			"inventory inventory.reserve": 1, "payment payment.authorise": 1, "logistics logistics.book": 1,
			"payment payment.capture": 1, "inventory inventory.commit": 1, "logistics logistics.dispatch": 1,
			"replies": 6,
		}},
		"compensated": {"tok_ok", "AQ", map[string]int{ // nobody delivers there
			"order-events order.placed": 1, "order-events order.cancelled": 1,
			"inventory inventory.reserve": 1, "payment payment.authorise": 1, "logistics logistics.book": 1,
			"inventory inventory.release": 1, "payment payment.void": 1,
			"replies": 5,
		}},
		"compensated after capture was rejected": {"tok_capture_rejected", "FR", map[string]int{
			"order-events order.placed": 1, "order-events order.cancelled": 1,
			"inventory inventory.reserve": 1, "payment payment.authorise": 1, "logistics logistics.book": 1, "payment payment.capture": 1,
			"inventory inventory.release": 1, "payment payment.void": 1, "logistics logistics.cancel": 1,
			"replies": 7,
		}},
	}
}

// publishes counts what the relay has published.
type publishes struct{ n atomic.Int64 }

func (p *publishes) Published(n int)                 { p.n.Add(int64(n)) }
func (p *publishes) Refilled(int)                    {}
func (p *publishes) Round(time.Duration)             {}
func (p *publishes) OldestUnpublished(time.Duration) {}
func (p *publishes) Lanes(int)                       {}

// want waits until as many messages were published, and wants no more.
func (p *publishes) want(t testing.TB, n int) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	for p.n.Load() < int64(n) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%d messages were published, want %d", p.n.Load(), n)
		}
	}
	if got := p.n.Load(); got != int64(n) {
		t.Errorf("%d messages were published, want %d", got, n)
	}
}

// TestBackbone_SendsWhatIsDesigned counts the messages of one order: in the log, in the broker, and as published.
func TestBackbone_SendsWhatIsDesigned(t *testing.T) {
	t.Parallel()
	for name, c := range designed() {
		for _, broker := range []string{"", "memory", "database"} {
			t.Run(name+"/broker="+broker, func(t *testing.T) {
				t.Parallel()
				p := &publishes{}
				var held *membroker.Broker
				r := run(t, func(cfg *app.Config) { cfg.Broker = broker }, hooks{relay: p, carry: func(c *carrier.Carrier) {
					held, _ = c.Reader.(*membroker.Broker)
				}})
				o := placed(t, c.token, "mug-red")
				o.Shipping.Country = c.country
				r.closeCountry(t, "AQ")
				r.accept(t, o)
				r.wantEnd(t, o.ID, map[bool]string{true: "confirmed", false: "cancelled " + reasonOf(c.token)}[name == "confirmed"])

				if diff := cmp.Diff(c.want, r.logged(t, o.ID)); diff != "" {
					t.Errorf("messages in the log (-want +got):\n%s", diff)
				}
				total := 0
				for _, n := range c.want {
					total += n
				}
				if broker == "database" {
					total = 0 // nobody publishes
				}
				p.want(t, total)
				if held != nil {
					if diff := cmp.Diff(c.want, recorded(held, o.ID)); diff != "" {
						t.Errorf("messages in the broker (-want +got):\n%s", diff)
					}
				}
			})
		}
	}
}

func reasonOf(token string) string {
	if token == "tok_capture_rejected" {
		return "capture_rejected"
	}
	return "no_carrier"
}

func (r *running) closeCountry(t testing.TB, country string) {
	t.Helper()
	none := int64(0)
	if _, err := logistics.NewDesk(r.db.Dialect(), r.db, r.db.Reads).SetCapacity(t.Context(), country, &none); err != nil {
		t.Fatal(err)
	}
}

// name is how designed has a message: replies are alike.
func name(topic, typ string) string {
	if strings.HasSuffix(topic, "-replies") {
		return "replies"
	}
	return topic + " " + typ
}

// logged counts the messages of an order in the log.
func (r *running) logged(t testing.TB, id string) map[string]int {
	t.Helper()
	rows, err := r.db.Reads.QueryContext(t.Context(), `select topic, type from outbox where key = $1`, id)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	got := map[string]int{}
	for rows.Next() {
		var topic, typ string
		if err := rows.Scan(&topic, &typ); err != nil {
			t.Fatal(err)
		}
		got[name(topic, typ)]++
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return got
}

// recorded counts the messages of an order in the broker.
func recorded(b *membroker.Broker, id string) map[string]int {
	got := map[string]int{}
	for _, log := range b.Logs() {
		for _, m := range b.Records(log) {
			if m.Key == id {
				got[name(m.Topic, m.Type)]++
			}
		}
	}
	return got
}
