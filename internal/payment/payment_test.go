package payment_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/payment"
	"github.com/mainstay-io/mainstay/internal/payment/sandbox"
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
	gateway *sandbox.Gateway
	store   *txkit.DB // the gateway's
	p       *payment.Participant
}

func each(t *testing.T, test func(*testing.T, *setup)) {
	t.Helper()
	txkit.Each(t, func(t *testing.T, db *txkit.DB) {
		db.Migrate(t, "../../migrations", "0003_participants.sql")
		store := txkit.SQLite(t)
		g, err := sandbox.Open(t.Context(), store.DB, store.Dialect, sandbox.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = g.Close() })
		test(t, &setup{db, g, store, payment.New(db.Dialect, g)})
	})
}

// message is a command of an order's saga: authorise and void share a step, capture has its own.
func message(kind, order, token string) *mainstay.Message {
	step := "pay"
	if kind == payment.Capture {
		step = "capture"
	}
	payload := fmt.Sprintf(`{"order_id":%q,"amount":4990,"currency":"EUR","token":%q}`, order, token)
	if kind == payment.Void {
		payload = fmt.Sprintf(`{"order_id":%q}`, order)
	}
	return &mainstay.Message{
		Topic: payment.Topic, Type: kind, Payload: []byte(payload),
		Headers: map[string]string{mainstay.HeaderSaga: "saga-" + order, mainstay.HeaderStep: step},
	}
}

// call makes a call whose outcome must be definite.
func (s *setup) call(t tb, m *mainstay.Message) mainstay.Settlement {
	t.Helper()
	result, err := s.p.Call(context.Background(), m)
	done := mainstay.Settlement{Message: m, Result: result}
	if err != nil && !errors.As(err, &done.Rejection) {
		t.Fatalf("%s: the outcome is unknown: %v", m.Type, err)
	}
	return done
}

func (s *setup) settle(t tb, done ...mainstay.Settlement) {
	t.Helper()
	if err := s.trySettle(done...); err != nil {
		t.Fatalf("settling: %v", err)
	}
}

func (s *setup) trySettle(done ...mainstay.Settlement) error {
	return s.Run(context.Background(), func(ctx context.Context, tx mainstay.Tx) error {
		return s.p.Settle(ctx, tx, done)
	})
}

func (s *setup) do(t tb, kind, order, token string) mainstay.Settlement {
	t.Helper()
	done := s.call(t, message(kind, order, token))
	s.settle(t, done)
	return done
}

// books gives, by order, the payment's status and the balances of its accounts.
func (s *setup) books(t testing.TB) map[string]string {
	t.Helper()
	const query = `select p.order_id, p.status || coalesce((
	    select sum(case when account = 'customer' then amount else 0 end) || '/' ||
	           sum(case when account = 'customer_hold' then amount else 0 end) || '/' ||
	           sum(case when account = 'merchant' then amount else 0 end)
	    from payment_entry e where e.order_id = p.order_id), '') from payment p`
	rows, err := s.QueryContext(t.Context(), query)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	books := map[string]string{}
	for rows.Next() {
		var order, book string
		if err := rows.Scan(&order, &book); err != nil {
			t.Fatal(err)
		}
		books[order] = book
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return books
}

func (s *setup) wantBooks(t testing.TB, want map[string]string) {
	t.Helper()
	if diff := cmp.Diff(want, s.books(t)); diff != "" {
		t.Errorf("books, as status and customer/hold/merchant (-want +got):\n%s", diff)
	}
	const unbalanced = `select count(*) from (select 1 from payment_entry group by order_id, kind
	    having sum(amount) <> 0 or count(*) <> 2 or count(distinct currency) <> 1) x`
	if n := s.Int64(t, unbalanced); n != 0 {
		t.Errorf("%d postings do not balance", n)
	}
}

func TestLedger_EveryWayAPaymentCanGo(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *setup) {
		s.do(t, payment.Authorise, "held", sandbox.TokenOK)

		s.do(t, payment.Authorise, "captured", sandbox.TokenOK)
		s.do(t, payment.Capture, "captured", "")

		s.do(t, payment.Authorise, "voided", sandbox.TokenOK)
		s.do(t, payment.Void, "voided", "")

		if r := s.do(t, payment.Authorise, "declined", sandbox.TokenDeclined).Rejection; r == nil || r.Code != "card_declined" {
			t.Errorf("declined: %v", r)
		}

		s.do(t, payment.Authorise, "expired", sandbox.TokenCaptureRejected)
		if r := s.do(t, payment.Capture, "expired", "").Rejection; r == nil || r.Code != payment.CodeCaptureRejected {
			t.Errorf("expired: %v", r)
		}
		s.do(t, payment.Void, "expired", "")

		s.wantBooks(t, map[string]string{
			"held":     "authorised-4990/4990/0",
			"captured": "captured-4990/0/4990",
			"voided":   "voided0/0/0",
			"declined": "declined",
			"expired":  "voided0/0/0",
		})
	})
}

func TestVoid_OfAnAuthorisationWhoseOutcomeNobodyLearned(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *setup) {
		s.call(t, message(payment.Authorise, "o-1", sandbox.TokenOK)) // done, never settled
		s.do(t, payment.Void, "o-1", "")
		s.wantBooks(t, map[string]string{"o-1": "voided0/0/0"})
		if n := s.Int64(t, "select count(*) from payment_entry"); n != 4 {
			t.Errorf("%d entries, want those of the hold and of its end", n)
		}
	})
}

func TestVoid_BeforeTheAuthorisation(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *setup) {
		s.do(t, payment.Void, "o-1", "")
		s.wantBooks(t, map[string]string{})
		if r := s.do(t, payment.Authorise, "o-1", sandbox.TokenOK).Rejection; r == nil || r.Code != payment.CodeCancelled {
			t.Errorf("the authorisation that came late: %v", r)
		}
		s.wantBooks(t, map[string]string{"o-1": "declined"})
	})
}

func TestSettle_AWholeOrderInOneBatch(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *setup) {
		var done []mainstay.Settlement
		for _, kind := range []string{payment.Authorise, payment.Capture} {
			for _, order := range []string{"b", "a"} {
				done = append(done, s.call(t, message(kind, order, sandbox.TokenOK)))
			}
		}
		s.settle(t, done...)
		s.settle(t, done...) // what is settled already changes nothing
		s.wantBooks(t, map[string]string{"a": "captured-4990/0/4990", "b": "captured-4990/0/4990"})
	})
}

func TestSettle_RefusesWhatCannotBe(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *setup) {
		s.do(t, payment.Authorise, "captured", sandbox.TokenOK)
		s.do(t, payment.Capture, "captured", "")
		for name, d := range map[string]mainstay.Settlement{
			"capture of nothing": {Message: message(payment.Capture, "o-9", "")},
			"void of captured": {
				Message: message(payment.Void, "captured", ""),
				Result:  payment.Cancellation{Voided: true, Amount: 4990, Currency: "EUR"},
			},
			"result of another kind": {Message: message(payment.Void, "captured", ""), Result: 1},
		} {
			if err := s.trySettle(d); err == nil {
				t.Errorf("%s: settled", name)
			}
		}
		s.wantBooks(t, map[string]string{"captured": "captured-4990/0/4990"})
	})
}

func TestSettle_StoresNoToken(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *setup) {
		s.do(t, payment.Authorise, "o-1", sandbox.TokenOK)
		for _, table := range []string{"payment", "payment_entry"} {
			query := "select count(*) from " + table + " x where " + map[mainstay.Dialect]string{
				mainstay.Postgres: "x::text like '%tok_%'",
				mainstay.SQLite:   "order_id || currency || " + map[string]string{"payment": "status", "payment_entry": "kind || account"}[table] + " like '%tok_%'",
			}[s.Dialect]
			if n := s.Int64(t, query); n != 0 {
				t.Errorf("%s holds the token", table)
			}
		}
	})
}

// answering is a gateway that gives one answer to everything.
type answering struct{ err error }

func (g answering) Authorise(context.Context, string, payment.AuthoriseRequest) error { return g.err }

func (g answering) Capture(context.Context, string, payment.CaptureRequest) error { return g.err }

func (g answering) Cancel(context.Context, string, payment.CancelRequest) (payment.Cancellation, error) {
	return payment.Cancellation{}, g.err
}

func TestCall_TranslatesErrors(t *testing.T) {
	t.Parallel()
	unknown := errors.New("503")
	for _, c := range []struct {
		name, kind string
		err        error
		want       mainstay.Kind
	}{
		{"rejected", payment.Authorise, &payment.Rejected{Code: "card_declined"}, mainstay.KindBusiness},
		{"capture rejected", payment.Capture, &payment.Rejected{Code: "capture_rejected"}, mainstay.KindBusiness},
		{"void rejected", payment.Void, &payment.Rejected{Code: "already_captured"}, mainstay.KindTerminal},
		{"key reused", payment.Authorise, payment.ErrKeyReused, mainstay.KindTerminal},
		{"key reused by a void", payment.Void, payment.ErrKeyReused, mainstay.KindTerminal},
		{"unknown", payment.Authorise, unknown, mainstay.KindRetryable},
		{"unknown capture", payment.Capture, unknown, mainstay.KindRetryable},
		{"unknown void", payment.Void, context.DeadlineExceeded, mainstay.KindRetryable},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := payment.New(mainstay.SQLite, answering{c.err}).Call(t.Context(), message(c.kind, "o-1", "tok"))
			if got := mainstay.KindOf(t.Context(), err); err == nil || got != c.want {
				t.Errorf("got %v (%v), want %v", got, err, c.want)
			}
		})
	}
}

func TestCall_RefusesWhatItCannotRead(t *testing.T) {
	t.Parallel()
	p := payment.New(mainstay.SQLite, answering{})
	noSaga := message(payment.Authorise, "o-1", "tok")
	noSaga.Headers = nil
	nonsense := message(payment.Authorise, "o-1", "tok")
	nonsense.Payload = []byte("nonsense")
	free := message(payment.Authorise, "o-1", "tok")
	free.Payload = []byte(`{"order_id":"o-1","amount":0,"currency":"EUR"}`)
	for name, m := range map[string]*mainstay.Message{
		"no step key": noSaga, "no json": nonsense, "no amount": free,
		"no order": message(payment.Void, "", ""), "another type": message("payment.refund", "o-1", ""),
	} {
		_, err := p.Call(t.Context(), m)
		if err == nil || mainstay.KindOf(t.Context(), err) != mainstay.KindTerminal {
			t.Errorf("%s: %v is not terminal", name, err)
		}
	}
}

// TestCall_IsMadeDefiniteByRepetition runs the tokens whose first answer is no answer.
func TestCall_IsMadeDefiniteByRepetition(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *setup) {
		for token, want := range map[string]int{sandbox.TokenTimeout: 2, sandbox.TokenFlaky: 3} {
			calls := 0
			for calls < 10 {
				calls++
				ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
				_, err := s.p.Call(ctx, message(payment.Authorise, token, token))
				cancel()
				if err == nil {
					break
				}
				if kind := mainstay.KindOf(t.Context(), err); kind != mainstay.KindRetryable {
					t.Fatalf("%s: %v is %v", token, err, kind)
				}
			}
			if calls != want {
				t.Errorf("%s: %d calls, want %d", token, calls, want)
			}
		}
	})
}

// TestLedger_AgreesWithTheGateway runs random orders, settled in batches, some outcomes never learned, and compares
// the books with the gateway's own.
func TestLedger_AgreesWithTheGateway(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *setup) {
		orders := 0
		rapid.Check(t, func(rt *rapid.T) {
			var first, second, third []mainstay.Settlement
			for range rapid.IntRange(1, 6).Draw(rt, "orders") {
				orders++
				order := fmt.Sprint("o-", orders)
				token := rapid.SampledFrom([]string{
					sandbox.TokenOK, sandbox.TokenDeclined, sandbox.TokenCaptureRejected,
				}).Draw(rt, "token")
				a, b, c := s.story(rt, order, token)
				first, second, third = append(first, a...), append(second, b...), append(third, c...)
			}
			if rapid.Bool().Draw(rt, "one batch") {
				s.settle(rt, append(append(first, second...), third...)...)
				return
			}
			s.settle(rt, first...)
			s.settle(rt, second...)
			s.settle(rt, third...)
		})
		s.compare(t)
	})
}

// story makes an order's calls, and gives what is to be settled first, second and third.
func (s *setup) story(rt *rapid.T, order, token string) (first, second, third []mainstay.Settlement) {
	switch rapid.SampledFrom([]string{"confirm", "void", "unlearned", "null", "hold"}).Draw(rt, "story") {
	case "null":
		return []mainstay.Settlement{s.call(rt, message(payment.Void, order, ""))},
			[]mainstay.Settlement{s.call(rt, message(payment.Authorise, order, token))}, nil
	case "unlearned":
		s.call(rt, message(payment.Authorise, order, token))
		return []mainstay.Settlement{s.call(rt, message(payment.Void, order, ""))}, nil, nil
	case "hold":
		return []mainstay.Settlement{s.call(rt, message(payment.Authorise, order, token))}, nil, nil
	case "void":
		return []mainstay.Settlement{s.call(rt, message(payment.Authorise, order, token))},
			[]mainstay.Settlement{s.call(rt, message(payment.Void, order, ""))}, nil
	}
	a := s.call(rt, message(payment.Authorise, order, token))
	if a.Rejection != nil {
		return []mainstay.Settlement{a}, nil, nil
	}
	c := s.call(rt, message(payment.Capture, order, ""))
	if c.Rejection == nil {
		return []mainstay.Settlement{a}, []mainstay.Settlement{c}, nil
	}
	return []mainstay.Settlement{a}, []mainstay.Settlement{c},
		[]mainstay.Settlement{s.call(rt, message(payment.Void, order, ""))}
}

func (s *setup) compare(t *testing.T) {
	t.Helper()
	got, want := s.books(t), map[string]string{}
	for a, err := range sandbox.Ledger(t.Context(), s.store, s.store.Dialect) {
		if err != nil {
			t.Fatal(err)
		}
		switch a.Status {
		case sandbox.Authorised:
			want[a.OrderRef] = "authorised-4990/4990/0"
		case sandbox.Captured:
			want[a.OrderRef] = "captured-4990/0/4990"
		case sandbox.Voided:
			want[a.OrderRef] = "voided0/0/0"
		case sandbox.Declined, sandbox.Cancelled:
			if got[a.OrderRef] != "" { // it may be that nobody has learned of it
				want[a.OrderRef] = "declined"
			}
		}
	}
	s.wantBooks(t, want)
}
