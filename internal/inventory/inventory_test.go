package inventory_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/inventory"
	"github.com/mainstay-io/mainstay/internal/testkit/txkit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// tb is what *testing.T and *rapid.T have in common.
type tb interface {
	Helper()
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

type setup struct {
	*txkit.DB
	desk     *inventory.Desk
	handlers map[string]mainstay.BatchHandler
}

func each(t *testing.T, test func(*testing.T, *setup)) {
	t.Helper()
	txkit.Each(t, func(t *testing.T, db *txkit.DB) {
		db.Migrate(t, "../../migrations", "0003_participants.sql")
		test(t, &setup{db, inventory.NewDesk(db.Dialect, db, db), inventory.New(db.Dialect).Handlers()})
	})
}

// handle runs one batch in a transaction.
func (s *setup) handle(ctx context.Context, kind string, payloads ...string) ([]error, error) {
	ms := make([]*mainstay.Message, len(payloads))
	for i, p := range payloads {
		ms[i] = &mainstay.Message{Topic: inventory.Topic, Type: kind, Payload: []byte(p)}
	}
	var errs []error
	err := s.Run(ctx, func(ctx context.Context, tx mainstay.Tx) (err error) {
		errs, err = s.handlers[kind].HandleBatch(ctx, tx, ms)
		return err
	})
	return errs, err
}

// must runs one batch whose transaction has to commit, and gives each message's rejection code, "ok", or its kind.
func (s *setup) must(t tb, kind string, payloads ...string) []string {
	t.Helper()
	errs, err := s.handle(context.Background(), kind, payloads...)
	if err != nil {
		t.Fatalf("%s: %v", kind, err)
	}
	outcomes := make([]string, len(errs))
	for i, err := range errs {
		var rejected *mainstay.Rejection
		switch {
		case err == nil:
			outcomes[i] = "ok"
		case errors.As(err, &rejected):
			outcomes[i] = rejected.Code
		default:
			outcomes[i] = mainstay.KindOf(context.Background(), err).String()
		}
	}
	return outcomes
}

func (s *setup) set(t tb, sku string, n int64) {
	t.Helper()
	if _, err := s.desk.Set(context.Background(), sku, n); err != nil {
		t.Fatalf("%v", err)
	}
}

func (s *setup) wantStock(t tb, sku string, want inventory.Stock) {
	t.Helper()
	got, err := s.desk.Get(context.Background(), sku)
	if err != nil {
		t.Fatalf("%v", err)
	}
	if got != want {
		t.Errorf("stock of %s: %+v, want %+v", sku, got, want)
	}
}

// checkLedger compares stock with what its movements say.
func (s *setup) checkLedger(t testing.TB) {
	t.Helper()
	const differs = `select count(*) from (
	    select s.sku, s.on_hand, s.reserved, s.shipped,
	           coalesce(sum(case m.kind when 'reserve' then -m.quantity when 'ship' then 0 else m.quantity end), 0) as h,
	           coalesce(sum(case m.kind when 'reserve' then m.quantity when 'release' then -m.quantity
	                                    when 'ship' then -m.quantity else 0 end), 0) as r,
	           coalesce(sum(case m.kind when 'ship' then m.quantity else 0 end), 0) as p
	    from stock s left join stock_movement m on m.sku = s.sku
	    group by s.sku, s.on_hand, s.reserved, s.shipped
	) x where h <> on_hand or r <> reserved or p <> shipped`
	if n := s.Int64(t, differs); n != 0 {
		t.Errorf("%d skus differ from their movements", n)
	}
}

func order(id string, lines ...any) string {
	var ls []map[string]any
	for i := 0; i < len(lines); i += 2 {
		ls = append(ls, map[string]any{"sku": lines[i], "quantity": lines[i+1]})
	}
	b, _ := json.Marshal(map[string]any{"order_id": id, "lines": ls})
	return string(b)
}

func id(order string) string { return fmt.Sprintf(`{"order_id":%q}`, order) }

func want(t tb, what string, got []string, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestReserve_DecidesInMessageOrder(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *setup) {
		s.set(t, "mug", 5)
		s.set(t, "cup", 1)
		want(t, "reserve", s.must(t, inventory.Reserve,
			order("o-1", "mug", 2, "mug", 1), // two lines of one sku
			order("o-2", "mug", 3),           // only two are left
			order("o-3", "cup", 1, "mug", 3), // all lines or none: the cup stays
			order("o-4", "mug", 2, "cup", 1), // so that it is there for this one
			order("o-5", "nope", 1),          // never set
			`{"order_id":"o-6","lines":[{"sku":"mug","quantity":0}]}`,
			`{"order_id":"o-7","lines":[]}`,
			`{"lines":[{"sku":"mug","quantity":1}]}`,
			`nonsense`,
			order("o-8", "mug", 1<<62, "mug", 1<<62),
		), "ok", "out_of_stock", "out_of_stock", "ok", "unknown_sku",
			"terminal", "terminal", "terminal", "terminal", "terminal")
		s.wantStock(t, "mug", inventory.Stock{OnHand: 0, Reserved: 5})
		s.wantStock(t, "cup", inventory.Stock{OnHand: 0, Reserved: 1})
		s.checkLedger(t)
	})
}

func TestReserve_NamesTheSKU(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *setup) {
		s.set(t, "mug", 1)
		errs, err := s.handle(t.Context(), inventory.Reserve, order("o-1", "mug", 2), order("o-2", "nope", 2))
		if err != nil {
			t.Fatal(err)
		}
		for i, sku := range []string{"mug", "nope"} {
			var r *mainstay.Rejection
			if !errors.As(errs[i], &r) || !strings.Contains(r.Detail, sku) {
				t.Errorf("rejection %v does not name %s", errs[i], sku)
			}
		}
	})
}

func TestReleaseAndCommit(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *setup) {
		s.set(t, "mug", 10)
		s.set(t, "cup", 10)
		want(t, "reserve", s.must(t, inventory.Reserve,
			order("o-1", "mug", 3, "cup", 1), order("o-2", "mug", 4)), "ok", "ok")
		want(t, "release", s.must(t, inventory.Release, id("o-1"), id("o-9"), `{}`), "ok", "retryable", "terminal")
		want(t, "commit", s.must(t, inventory.Commit, id("o-2")), "ok")
		s.wantStock(t, "mug", inventory.Stock{OnHand: 6, Shipped: 4})
		s.wantStock(t, "cup", inventory.Stock{OnHand: 10})
		s.checkLedger(t)
	})
}

func TestConstraints_HoldWhatTheBarrierShould(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *setup) {
		s.set(t, "mug", 10)
		s.must(t, inventory.Reserve, order("o-1", "mug", 3))
		s.must(t, inventory.Release, id("o-1"))
		for _, step := range []struct{ kind, payload string }{
			{inventory.Reserve, order("o-1", "mug", 3)}, {inventory.Release, id("o-1")}, {inventory.Commit, id("o-1")},
		} {
			if _, err := s.handle(t.Context(), step.kind, step.payload); err == nil {
				t.Errorf("%s: committed a second time", step.kind)
			}
		}
		s.wantStock(t, "mug", inventory.Stock{OnHand: 10})
	})
}

func TestReserve_NeverOversellsUnderConcurrency(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *setup) {
		const stock, orders = 20, 60
		s.set(t, "a", stock)
		s.set(t, "b", stock)
		var wg sync.WaitGroup
		for i := range orders {
			lines := []any{"a", 1, "b", 1}
			if i%2 == 1 {
				lines = []any{"b", 1, "a", 1}
			}
			wg.Go(func() {
				name := fmt.Sprint("o-", i)
				errs, err := s.handle(t.Context(), inventory.Reserve, order(name, lines...))
				if err != nil {
					t.Errorf("reserve: %v", err)
					return
				}
				if errs[0] == nil && i%3 == 0 {
					if _, err := s.handle(t.Context(), inventory.Commit, id(name)); err != nil {
						t.Errorf("commit: %v", err)
					}
				}
			})
		}
		wg.Wait()
		s.checkLedger(t)
		for _, sku := range []string{"a", "b"} {
			got, err := s.desk.Get(t.Context(), sku)
			if err != nil || got.OnHand != 0 || got.Reserved+got.Shipped != stock {
				t.Errorf("stock of %s: %+v, %v; want all %d taken", sku, got, err, stock)
			}
		}
	})
}

func TestDesk(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *setup) {
		if _, err := s.desk.Get(t.Context(), "mug"); !errors.Is(err, inventory.ErrUnknownSKU) {
			t.Errorf("get of an unknown sku: %v", err)
		}
		for _, bad := range []struct {
			sku string
			n   int64
		}{{"", 1}, {"mug", -1}} {
			if _, err := s.desk.Set(t.Context(), bad.sku, bad.n); !errors.Is(err, inventory.ErrInvalid) {
				t.Errorf("set %+v: %v", bad, err)
			}
		}
		s.set(t, "mug", 10)
		s.must(t, inventory.Reserve, order("o-1", "mug", 4))
		got, err := s.desk.Set(t.Context(), "mug", 2)
		if wanted := (inventory.Stock{OnHand: 2, Reserved: 4}); err != nil || got != wanted {
			t.Errorf("set: %+v, %v; want %+v", got, err, wanted)
		}
		s.set(t, "mug", 2) // no difference, no movement
		if err := s.desk.Seed(t.Context(), map[string]int64{"mug": 99, "cup": 3, "void": 0}); err != nil {
			t.Fatal(err)
		}
		s.wantStock(t, "mug", inventory.Stock{OnHand: 2, Reserved: 4})
		s.wantStock(t, "cup", inventory.Stock{OnHand: 3})
		s.wantStock(t, "void", inventory.Stock{})
		if n := s.Int64(t, "select count(*) from stock_movement where sku = 'mug' and kind in ('receive', 'adjust')"); n != 2 {
			t.Errorf("%d movements of the operator, want 2", n)
		}
		s.checkLedger(t)
	})
}

// TestLedger_AgreesWithAModel runs random batches against a model that knows nothing but arithmetic.
func TestLedger_AgreesWithAModel(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *setup) {
		run := 0
		rapid.Check(t, func(rt *rapid.T) {
			run++
			m := newModel(fmt.Sprint("r", run, "-"))
			for range rapid.IntRange(1, 8).Draw(rt, "steps") {
				m.step(rt, s)
			}
			for sku, stock := range m.stock {
				s.wantStock(rt, sku, stock)
			}
		})
		s.checkLedger(t)
	})
}

type model struct {
	prefix string
	stock  map[string]inventory.Stock
	open   map[string]map[string]int64
	orders int
}

func newModel(prefix string) *model {
	return &model{prefix: prefix, stock: map[string]inventory.Stock{}, open: map[string]map[string]int64{}}
}

func (m *model) sku(rt *rapid.T) string {
	return m.prefix + rapid.SampledFrom([]string{"a", "b", "c"}).Draw(rt, "sku")
}

func (m *model) step(rt *rapid.T, s *setup) {
	switch rapid.SampledFrom([]string{"set", "reserve", "reserve", "release", "commit"}).Draw(rt, "op") {
	case "set":
		sku, n := m.sku(rt), rapid.Int64Range(0, 9).Draw(rt, "n")
		s.set(rt, sku, n)
		stock := m.stock[sku]
		stock.OnHand = n
		m.stock[sku] = stock
	case "reserve":
		var payloads, wanted []string
		for range rapid.IntRange(1, 4).Draw(rt, "orders") {
			payload, outcome := m.reserve(rt)
			payloads, wanted = append(payloads, payload), append(wanted, outcome)
		}
		want(rt, "reserve", s.must(rt, inventory.Reserve, payloads...), wanted...)
	case "release":
		m.end(rt, s, inventory.Release)
	case "commit":
		m.end(rt, s, inventory.Commit)
	}
}

func (m *model) reserve(rt *rapid.T) (payload, outcome string) {
	m.orders++
	name := fmt.Sprint(m.prefix, m.orders)
	var lines []any
	sums := map[string]int64{}
	for range rapid.IntRange(1, 3).Draw(rt, "lines") {
		sku, n := m.sku(rt), rapid.Int64Range(1, 4).Draw(rt, "quantity")
		lines = append(lines, sku, n)
		sums[sku] += n
	}
	outcome = m.decide(sums)
	if outcome == "ok" {
		m.open[name] = sums
		for sku, n := range sums {
			st := m.stock[sku]
			m.stock[sku] = inventory.Stock{OnHand: st.OnHand - n, Reserved: st.Reserved + n, Shipped: st.Shipped}
		}
	}
	return order(name, lines...), outcome
}

// decide looks at the skus in their order, as the first one that fails names the rejection.
func (m *model) decide(sums map[string]int64) string {
	for _, letter := range []string{"a", "b", "c"} {
		n, wanted := sums[m.prefix+letter]
		stock, known := m.stock[m.prefix+letter]
		switch {
		case !wanted:
		case !known:
			return inventory.CodeUnknownSKU
		case stock.OnHand < n:
			return inventory.CodeOutOfStock
		}
	}
	return "ok"
}

func (m *model) end(rt *rapid.T, s *setup, kind string) {
	var payloads, wanted []string
	for name, sums := range m.open {
		if len(payloads) == 3 {
			break
		}
		payloads, wanted = append(payloads, id(name)), append(wanted, "ok")
		delete(m.open, name)
		for sku, n := range sums {
			st := m.stock[sku]
			st.Reserved -= n
			if kind == inventory.Release {
				st.OnHand += n
			} else {
				st.Shipped += n
			}
			m.stock[sku] = st
		}
	}
	if len(payloads) > 0 {
		want(rt, kind, s.must(rt, kind, payloads...), wanted...)
	}
}

func TestMigration_DownAndUpAgain(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *setup) {
		s.MigrateDown(t, "../../migrations", "0003_participants.sql")
		s.Migrate(t, "../../migrations", "0003_participants.sql")
		s.set(t, "mug", 1)
	})
}
