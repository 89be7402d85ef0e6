package postgres

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/lane"
	"github.com/mainstay-io/mainstay/internal/lease"
	"github.com/mainstay-io/mainstay/internal/relay"
	"github.com/mainstay-io/mainstay/internal/testkit/pgtest"
)

// way is one message's way through the machinery: append, round, the relay's record, a unit that moves a place.
type way struct {
	s               *Store
	sequencer       lease.Lease
	relay, consumer []lease.Lease
	key             string
	at              lane.Place
}

func newWay(t testing.TB, s *Store) *way {
	t.Helper()
	if err := s.Register(t.Context(), lane.Registration{Consumer: "c", Topics: []string{"orders"}}); err != nil {
		t.Fatal(err)
	}
	w := &way{s: s, sequencer: lead(t, s), at: lane.Place{TopicLane: mainstay.TopicLane{Topic: "orders"}, Incarnation: 1}}
	for name, held := range map[string]*[]lease.Lease{"c": &w.consumer, "relay": &w.relay} {
		var err error
		if *held, err = s.Acquire(t.Context(), name, []int{0}, "one", time.Hour, false); err != nil {
			t.Fatal(err)
		}
	}
	for i := 0; w.key == ""; i++ {
		m := message("orders", fmt.Sprint("k", i))
		if err := s.outbox.Prepare([]*mainstay.Message{m}); err != nil {
			t.Fatal(err)
		}
		if m.Lane == 0 {
			w.key = m.Key
		}
	}
	return w
}

func (w *way) append(ctx context.Context) error {
	return w.s.Run(ctx, func(_ context.Context, tx mainstay.Tx) error {
		tx.Send(message("orders", w.key))
		return nil
	})
}

func (w *way) round(ctx context.Context) error {
	if n, _, err := w.s.Round(ctx, w.sequencer); err != nil || n != 1 {
		return fmt.Errorf("a round has numbered %d: %w", n, err)
	}
	return nil
}

func (w *way) save(ctx context.Context) error {
	p := relay.Progress{TopicLane: w.at.TopicLane, Incarnation: 1, Sequence: w.at.Sequence + 1, MessageID: "m", BrokerPosition: w.at.Sequence + 1}
	return w.s.SaveProgress(ctx, relay.Save{Leases: w.relay, Progress: []relay.Progress{p}})
}

func (w *way) unit(ctx context.Context) error {
	to := w.at
	to.Sequence++
	err := w.s.Unit(ctx, lane.Unit{Consumer: "c", Leases: w.consumer}, func(_ context.Context, tx lane.Tx) error {
		tx.Move(w.at, to)
		return nil
	})
	w.at = to
	return err
}

// go goes the whole way so many times.
func (w *way) walk(t testing.TB, times int) {
	t.Helper()
	for range times {
		for _, step := range []func(context.Context) error{w.append, w.round, w.save, w.unit} {
			if err := step(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// hold begins a transaction on a connection of its own that writes, and lets it stay open until the test ends.
func hold(t testing.TB, url string) {
	t.Helper()
	held, err := pool(t, url).Begin(t.Context())
	if err == nil {
		_, err = held.Exec(t.Context(), "select pg_current_xact_id()")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = held.Rollback(context.Background()) })
}

// While a transaction is open, nothing that it could still see is removed: neither by a vacuum, nor when a page is
// pruned. The rows that each message changes have thousands of versions then, and must be found without a look at all
// of them. What is counted are pages, which do not depend on how busy the machine is.
func TestHeld_LooksAtNoMorePagesTheLongerItLasts(t *testing.T) {
	t.Parallel()
	server := pgtest.NewServer(t, "shared_preload_libraries = 'pg_stat_statements'", "synchronous_commit = off")
	url := server.NewDatabase()
	migrateTo(t, url)
	s := openStore(t, url, func(c *Config) { c.AllowUnsafe = true })
	w := newWay(t, s)
	pages := func() map[string]float64 { return pagesOf(t, url, func() { w.walk(t, 100) }) }
	w.walk(t, 20)
	hold(t, url)
	before := pages()
	w.walk(t, 1500)
	for tag, after := range pages() {
		t.Logf("%-20s %.1f pages a call, %.1f after 1,500 more", tag, before[tag], after)
		if after > 1.5*before[tag]+3 {
			t.Errorf("%s looks at %.1f pages instead of %.1f", tag, after, before[tag])
		}
	}
	if _, ok := before["sequencer.round"]; !ok {
		t.Errorf("nothing was counted: %v", before)
	}
}
