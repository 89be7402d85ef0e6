package logistics_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/logistics"
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
	desk     *logistics.Desk
	handlers map[string]mainstay.BatchHandler
}

func each(t *testing.T, test func(*testing.T, *setup)) {
	t.Helper()
	txkit.Each(t, func(t *testing.T, db *txkit.DB) {
		db.Migrate(t, "../../migrations", "0003_participants.sql")
		test(t, &setup{db, logistics.NewDesk(db.Dialect, db, db), logistics.New(db.Dialect).Handlers()})
	})
}

// handle runs one batch in a transaction.
func (s *setup) handle(ctx context.Context, kind string, payloads ...string) ([]error, error) {
	ms := make([]*mainstay.Message, len(payloads))
	for i, p := range payloads {
		ms[i] = &mainstay.Message{Topic: logistics.Topic, Type: kind, Payload: []byte(p)}
	}
	var errs []error
	err := s.Run(ctx, func(ctx context.Context, tx mainstay.Tx) (err error) {
		errs, err = s.handlers[kind].HandleBatch(ctx, tx, ms)
		return err
	})
	return errs, err
}

// must runs one batch whose transaction has to commit, and checks each message's outcome: a rejection's code, "ok",
// or the error's kind.
func (s *setup) must(t tb, kind string, payloads []string, want ...string) {
	t.Helper()
	errs, err := s.handle(context.Background(), kind, payloads...)
	if err != nil {
		t.Fatalf("%s: %v", kind, err)
	}
	got := make([]string, len(errs))
	for i, err := range errs {
		var rejected *mainstay.Rejection
		switch {
		case err == nil:
			got[i] = "ok"
		case errors.As(err, &rejected):
			got[i] = rejected.Code
		default:
			got[i] = mainstay.KindOf(context.Background(), err).String()
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", kind, diff)
	}
}

func (s *setup) capacity(t tb, country string, n int64) {
	t.Helper()
	if _, err := s.desk.SetCapacity(context.Background(), country, &n); err != nil {
		t.Fatalf("%v", err)
	}
}

func (s *setup) wantCarrier(t tb, country string, booked, dispatched int64) {
	t.Helper()
	got, err := s.desk.Get(context.Background(), country)
	if err != nil {
		t.Fatalf("%v", err)
	}
	if got.Booked != booked || got.Dispatched != dispatched {
		t.Errorf("carrier of %s: %d booked, %d dispatched; want %d, %d", country, got.Booked, got.Dispatched, booked, dispatched)
	}
}

// checkCounters compares the carriers with the bookings.
func (s *setup) checkCounters(t testing.TB) {
	t.Helper()
	const differs = `select count(*) from carrier c where
	    booked <> (select count(*) from booking b where b.country = c.country and status = 'booked') or
	    dispatched <> (select count(*) from booking b where b.country = c.country and status = 'dispatched')`
	if n := s.Int64(t, differs); n != 0 {
		t.Errorf("%d carriers differ from their bookings", n)
	}
}

func book(order, country string) string {
	return fmt.Sprintf(`{"order_id":%q,"name":"Ada","line1":"1 Main St","city":"Paris","postal_code":"75001","country":%q}`,
		order, country)
}

func id(order string) string { return fmt.Sprintf(`{"order_id":%q}`, order) }

func TestBook_DecidesInMessageOrder(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *setup) {
		s.capacity(t, "FR", 2)
		s.capacity(t, "DE", 0)
		s.must(t, logistics.Book, []string{
			book("o-1", "FR"), book("o-2", "DE"), book("o-3", "FR"), book("o-4", "FR"), book("o-5", "IT"),
			book("", "FR"), book("o-6", "fr"), "nonsense",
		}, "ok", "no_carrier", "ok", "no_carrier", "ok", "terminal", "terminal", "terminal")
		s.wantCarrier(t, "FR", 2, 0)
		s.wantCarrier(t, "DE", 0, 0)
		s.wantCarrier(t, "IT", 1, 0)
		s.checkCounters(t)
	})
}

func TestEnd_MakesRoom(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *setup) {
		s.capacity(t, "FR", 2)
		s.must(t, logistics.Book, []string{book("o-1", "FR"), book("o-2", "FR")}, "ok", "ok")
		s.must(t, logistics.Book, []string{book("o-3", "FR")}, "no_carrier")
		s.must(t, logistics.Cancel, []string{id("o-1"), id("o-9"), "{}"}, "ok", "retryable", "terminal")
		s.must(t, logistics.Dispatch, []string{id("o-2")}, "ok")
		s.wantCarrier(t, "FR", 0, 1)
		s.must(t, logistics.Book, []string{book("o-4", "FR"), book("o-5", "FR")}, "ok", "ok")
		s.checkCounters(t)
	})
}

func TestBooking_IsOneAndEndsOnce(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *setup) {
		s.must(t, logistics.Book, []string{book("o-1", "FR")}, "ok")
		if _, err := s.handle(t.Context(), logistics.Book, book("o-1", "FR")); err == nil {
			t.Error("booked a second time")
		}
		s.must(t, logistics.Cancel, []string{id("o-1"), id("o-1")}, "ok", "retryable")
		s.must(t, logistics.Dispatch, []string{id("o-1")}, "retryable")
		s.wantCarrier(t, "FR", 0, 0)
	})
}

func TestBooking_KeepsNoPersonalData(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *setup) {
		s.must(t, logistics.Book, []string{book("o-1", "FR")}, "ok")
		var order, country, status, tracking string
		err := s.QueryRowContext(t.Context(), "select order_id, country, status, tracking from booking").
			Scan(&order, &country, &status, &tracking)
		if err != nil || order != "o-1" || country != "FR" || status != "booked" || !strings.HasPrefix(tracking, "FR") {
			t.Errorf("booking %q %q %q %q, %v", order, country, status, tracking, err)
		}
		rows, err := s.QueryContext(t.Context(), "select * from booking")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = rows.Close() }()
		columns, err := rows.Columns()
		if diff := cmp.Diff([]string{"order_id", "country", "status", "tracking", "updated_at"}, columns); err != nil || diff != "" {
			t.Errorf("columns (-want +got):\n%s %v", diff, err)
		}
		if err := rows.Err(); err != nil {
			t.Error(err)
		}
	})
}

func TestBook_NeverExceedsTheCapacityUnderConcurrency(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *setup) {
		s.capacity(t, "FR", 10)
		var wg sync.WaitGroup
		for i := range 40 {
			wg.Go(func() { // FR is short, IT is made on demand, by all at once
				a, b := book(fmt.Sprint("fr-", i), "FR"), book(fmt.Sprint("it-", i), "IT")
				if _, err := s.handle(t.Context(), logistics.Book, a, b); err != nil {
					t.Errorf("book: %v", err)
				}
			})
		}
		wg.Wait()
		s.wantCarrier(t, "FR", 10, 0)
		s.wantCarrier(t, "IT", 40, 0)
		s.checkCounters(t)
	})
}

func TestDesk(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *setup) {
		s.wantCarrier(t, "FR", 0, 0) // never used: there, without a limit
		negative := int64(-1)
		if _, err := s.desk.SetCapacity(t.Context(), "FR", &negative); !errors.Is(err, logistics.ErrInvalid) {
			t.Errorf("negative capacity: %v", err)
		}
		if _, err := s.desk.SetCapacity(t.Context(), "France", nil); !errors.Is(err, logistics.ErrInvalid) {
			t.Errorf("country: %v", err)
		}
		if _, err := s.desk.Get(t.Context(), "F1"); !errors.Is(err, logistics.ErrInvalid) {
			t.Errorf("country: %v", err)
		}
		s.must(t, logistics.Book, []string{book("o-1", "FR"), book("o-2", "FR")}, "ok", "ok")
		one := int64(1)
		got, err := s.desk.SetCapacity(t.Context(), "FR", &one) // below what is open, which stays
		if diff := cmp.Diff(logistics.Carrier{Capacity: &one, Booked: 2}, got); err != nil || diff != "" {
			t.Errorf("%v (-want +got):\n%s", err, diff)
		}
		s.must(t, logistics.Dispatch, []string{id("o-1")}, "ok")
		s.must(t, logistics.Book, []string{book("o-3", "FR")}, "no_carrier")
		if _, err := s.desk.SetCapacity(t.Context(), "FR", nil); err != nil {
			t.Fatal(err)
		}
		s.must(t, logistics.Book, []string{book("o-3", "FR")}, "ok")
		read, err := s.desk.Get(t.Context(), "FR")
		if diff := cmp.Diff(logistics.Carrier{Booked: 2, Dispatched: 1}, read); err != nil || diff != "" {
			t.Errorf("%v (-want +got):\n%s", err, diff)
		}
	})
}

// TestCounters_AgreeWithAModel runs random batches against a model.
func TestCounters_AgreeWithAModel(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *setup) {
		m := &model{capacity: map[string]int64{}, booked: map[string]int64{}, dispatched: map[string]int64{}}
		rapid.Check(t, func(rt *rapid.T) {
			for range rapid.IntRange(1, 6).Draw(rt, "steps") {
				m.step(rt, s)
			}
			for country := range m.booked {
				s.wantCarrier(rt, country, m.booked[country], m.dispatched[country])
			}
		})
		s.checkCounters(t)
	})
}

type model struct {
	capacity, booked, dispatched map[string]int64
	open                         []struct{ order, country string }
	orders                       int
}

func (m *model) step(rt *rapid.T, s *setup) {
	country := rapid.SampledFrom([]string{"FR", "DE", "IT"}).Draw(rt, "country")
	switch rapid.SampledFrom([]string{"capacity", "book", "book", logistics.Cancel, logistics.Dispatch}).Draw(rt, "op") {
	case "capacity":
		n := rapid.Int64Range(0, 6).Draw(rt, "n")
		s.capacity(rt, country, n)
		m.capacity[country] = n
	case "book":
		m.book(rt, s)
	case logistics.Cancel:
		m.end(rt, s, logistics.Cancel)
	case logistics.Dispatch:
		m.end(rt, s, logistics.Dispatch)
	}
}

func (m *model) book(rt *rapid.T, s *setup) {
	var payloads, want []string
	for range rapid.IntRange(1, 4).Draw(rt, "orders") {
		m.orders++
		order, country := fmt.Sprint("o-", m.orders), rapid.SampledFrom([]string{"FR", "DE", "IT"}).Draw(rt, "country")
		payloads = append(payloads, book(order, country))
		if limit, limited := m.capacity[country]; limited && m.booked[country] >= limit {
			want = append(want, logistics.CodeNoCarrier)
			continue
		}
		want = append(want, "ok")
		m.booked[country]++
		m.open = append(m.open, struct{ order, country string }{order, country})
	}
	s.must(rt, logistics.Book, payloads, want...)
}

func (m *model) end(rt *rapid.T, s *setup, kind string) {
	n := min(len(m.open), rapid.IntRange(0, 4).Draw(rt, "n"))
	if n == 0 {
		return
	}
	var payloads, want []string
	for _, o := range m.open[:n] {
		payloads, want = append(payloads, id(o.order)), append(want, "ok")
		m.booked[o.country]--
		if kind == logistics.Dispatch {
			m.dispatched[o.country]++
		}
	}
	m.open = m.open[n:]
	s.must(rt, kind, payloads, want...)
}
