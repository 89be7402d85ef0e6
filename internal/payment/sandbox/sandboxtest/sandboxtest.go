// Package sandboxtest is the one suite that the sandbox gateway passes on every database.
package sandboxtest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/payment"
	"github.com/mainstay-io/mainstay/internal/payment/sandbox"
)

// Config says on what the suite runs.
type Config struct {
	Dialect mainstay.Dialect
	// Open makes an empty database.
	Open func(t testing.TB) *sql.DB
	// Shared says that several gateways may have one database open.
	Shared bool
}

// Run runs the suite.
func Run(t *testing.T, c Config) {
	for name, test := range map[string]func(*testing.T, *setup){
		"Tokens":                            testTokens,
		"RepeatsTheAnswer":                  testRepeats,
		"RefusesAKeyWithOtherParameters":    testKeyReused,
		"CancelBeforeLeavesAMark":           testCancelBefore,
		"CancelAfterVoids":                  testCancelAfter,
		"CancelOfCapturedIsRejected":        testCancelCaptured,
		"CaptureNeedsTheAuthorisedAmount":   testCaptureAmount,
		"FlakyFailsTwiceThenWorks":          testFlaky,
		"TimeoutIsDoneThoughAnsweredLate":   testTimeout,
		"VoidFailsForEver":                  testVoidFails,
		"ForgetsNothingOverARestart":        testRestart,
		"ConcurrentCallersOfOneKey":         testConcurrent,
		"ClosedAnswersClosed":               testClosed,
		"CancelAndAuthoriseAtTheSameMoment": testRace,
		"WhatCannotBeSavedFailsAlone":       testFailsAlone,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, newSetup(t, c))
		})
	}
}

type setup struct {
	Config
	db *sql.DB
	g  *sandbox.Gateway
}

func newSetup(t *testing.T, c Config) *setup {
	t.Helper()
	s := &setup{Config: c, db: c.Open(t)}
	s.g = s.open(t)
	return s
}

func (s *setup) open(t *testing.T) *sandbox.Gateway {
	t.Helper()
	g, err := sandbox.Open(t.Context(), s.db, s.Dialect, sandbox.Options{Late: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = g.Close() })
	return g
}

func (s *setup) ledger(t *testing.T) []sandbox.Authorisation {
	t.Helper()
	var as []sandbox.Authorisation
	for a, err := range sandbox.Ledger(t.Context(), s.db, s.Dialect) {
		if err != nil {
			t.Fatal(err)
		}
		as = append(as, a)
	}
	return as
}

func (s *setup) wantLedger(t *testing.T, want ...sandbox.Authorisation) {
	t.Helper()
	if diff := cmp.Diff(want, s.ledger(t)); diff != "" {
		t.Errorf("ledger (-want +got):\n%s", diff)
	}
}

func authorise(token string) payment.AuthoriseRequest {
	return payment.AuthoriseRequest{OrderRef: "o-1", Amount: 4990, Currency: "EUR", Token: token}
}

var capture = payment.CaptureRequest{OrderRef: "o-1", Amount: 4990, Currency: "EUR"}

var cancel = payment.CancelRequest{OrderRef: "o-1"}

func row(status sandbox.Status) sandbox.Authorisation {
	a := sandbox.Authorisation{Key: "s/pay", OrderRef: "o-1", Amount: 4990, Currency: "EUR", Status: status}
	switch status {
	case sandbox.Captured:
		a.CapturedAmount = a.Amount
	case sandbox.Voided:
		a.VoidedAmount = a.Amount
	case sandbox.Cancelled:
		a.Amount, a.Currency = 0, ""
	case sandbox.Authorised, sandbox.Declined:
	}
	return a
}

// code is the code of a rejection, or "" of success; any other error is fatal.
func code(t *testing.T, err error) string {
	t.Helper()
	var rejected *payment.Rejected
	switch {
	case err == nil:
		return ""
	case errors.As(err, &rejected):
		return rejected.Code
	default:
		t.Fatalf("got an unknown outcome: %v", err)
		return ""
	}
}

func testTokens(t *testing.T, s *setup) {
	for token, want := range map[string]string{
		sandbox.TokenOK: "", sandbox.TokenTimeout: "", sandbox.TokenCaptureRejected: "", sandbox.TokenVoidFails: "",
		sandbox.TokenDeclined: "card_declined", sandbox.TokenInsufficientFunds: "insufficient_funds",
		"tok_nonsense": "invalid_token", "": "invalid_token",
	} {
		if got := code(t, s.g.Authorise(t.Context(), "key/"+token, authorise(token))); got != want {
			t.Errorf("authorise %q: code %q, want %q", token, got, want)
		}
	}
}

func testRepeats(t *testing.T, s *setup) {
	for range 2 {
		if got := code(t, s.g.Authorise(t.Context(), "s/no", authorise(sandbox.TokenDeclined))); got != "card_declined" {
			t.Errorf("authorise with a bad card: code %q", got)
		}
		if got := code(t, s.g.Capture(t.Context(), "s/early", capture)); got != payment.CodeCaptureRejected {
			t.Errorf("capture of nothing: code %q", got)
		}
	}
	for range 2 {
		if got := code(t, s.g.Authorise(t.Context(), "s/pay", authorise(sandbox.TokenOK))); got != "" {
			t.Errorf("authorise: code %q", got)
		}
	}
	if got := code(t, s.g.Capture(t.Context(), "s/early", capture)); got != payment.CodeCaptureRejected {
		t.Errorf("a rejected capture changed its mind: code %q", got)
	}
	for range 2 {
		if got := code(t, s.g.Capture(t.Context(), "s/capture", capture)); got != "" {
			t.Errorf("capture: code %q", got)
		}
	}
	if got := code(t, s.g.Capture(t.Context(), "s/again", capture)); got != payment.CodeCaptureRejected {
		t.Errorf("second capture of one authorisation: code %q", got)
	}
	if got := code(t, s.g.Authorise(t.Context(), "s/pay", authorise(sandbox.TokenOK))); got != "" {
		t.Errorf("authorise, repeated after the capture: code %q", got)
	}
	declined := row(sandbox.Declined)
	declined.Key = "s/no"
	s.wantLedger(t, declined, row(sandbox.Captured))
}

func testKeyReused(t *testing.T, s *setup) {
	reused := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, payment.ErrKeyReused) {
			t.Errorf("%s: got %v, want ErrKeyReused", what, err)
		}
	}
	if err := s.g.Authorise(t.Context(), "s/pay", authorise(sandbox.TokenOK)); err != nil {
		t.Fatal(err)
	}
	other := authorise(sandbox.TokenOK)
	other.Amount++
	reused("other amount", s.g.Authorise(t.Context(), "s/pay", other))
	reused("other token", s.g.Authorise(t.Context(), "s/pay", authorise(sandbox.TokenDeclined)))
	_, err := s.g.Cancel(t.Context(), "s/pay", payment.CancelRequest{OrderRef: "o-2"})
	reused("cancel of another order", err)
	if err := s.g.Capture(t.Context(), "s/capture", capture); err != nil {
		t.Fatal(err)
	}
	reused("capture of another amount", s.g.Capture(t.Context(), "s/capture",
		payment.CaptureRequest{OrderRef: "o-1", Amount: 1, Currency: "EUR"}))
	s.wantLedger(t, row(sandbox.Captured))
}

func testCancelBefore(t *testing.T, s *setup) {
	for range 2 {
		got, err := s.g.Cancel(t.Context(), "s/pay", cancel)
		if err != nil || got != (payment.Cancellation{}) {
			t.Errorf("cancel of nothing: %+v, %v", got, err)
		}
	}
	for range 2 {
		if got := code(t, s.g.Authorise(t.Context(), "s/pay", authorise(sandbox.TokenOK))); got != payment.CodeCancelled {
			t.Errorf("authorise after its cancel: code %q", got)
		}
	}
	s.wantLedger(t, row(sandbox.Cancelled))
}

func testCancelAfter(t *testing.T, s *setup) {
	if err := s.g.Authorise(t.Context(), "s/pay", authorise(sandbox.TokenOK)); err != nil {
		t.Fatal(err)
	}
	want := payment.Cancellation{Voided: true, Amount: 4990, Currency: "EUR"}
	for range 2 {
		if got, err := s.g.Cancel(t.Context(), "s/pay", cancel); err != nil || got != want {
			t.Errorf("cancel: %+v, %v", got, err)
		}
	}
	if got := code(t, s.g.Authorise(t.Context(), "s/pay", authorise(sandbox.TokenOK))); got != payment.CodeCancelled {
		t.Errorf("authorise after its cancel: code %q", got)
	}
	if got := code(t, s.g.Capture(t.Context(), "s/capture", capture)); got != payment.CodeCaptureRejected {
		t.Errorf("capture after the cancel: code %q", got)
	}
	s.wantLedger(t, row(sandbox.Voided))
}

func testCancelCaptured(t *testing.T, s *setup) {
	if err := s.g.Authorise(t.Context(), "s/pay", authorise(sandbox.TokenOK)); err != nil {
		t.Fatal(err)
	}
	if err := s.g.Capture(t.Context(), "s/capture", capture); err != nil {
		t.Fatal(err)
	}
	if _, err := s.g.Cancel(t.Context(), "s/pay", cancel); code(t, err) != payment.CodeAlreadyCaptured {
		t.Errorf("cancel: %v", err)
	}
	s.wantLedger(t, row(sandbox.Captured))
}

func testCaptureAmount(t *testing.T, s *setup) {
	if err := s.g.Authorise(t.Context(), "s/pay", authorise(sandbox.TokenOK)); err != nil {
		t.Fatal(err)
	}
	for i, r := range []payment.CaptureRequest{
		{OrderRef: "o-1", Amount: 4991, Currency: "EUR"},
		{OrderRef: "o-1", Amount: 4990, Currency: "USD"},
		{OrderRef: "o-2", Amount: 4990, Currency: "EUR"},
	} {
		if got := code(t, s.g.Capture(t.Context(), fmt.Sprint("s/capture", i), r)); got != payment.CodeCaptureRejected {
			t.Errorf("%+v: code %q", r, got)
		}
	}
	s.wantLedger(t, row(sandbox.Authorised))
}

func testFlaky(t *testing.T, s *setup) {
	for i := range 2 {
		if err := s.g.Authorise(t.Context(), "s/pay", authorise(sandbox.TokenFlaky)); !errors.Is(err, sandbox.ErrUnavailable) {
			t.Errorf("attempt %d: got %v, want ErrUnavailable", i+1, err)
		}
		s.wantLedger(t)
		_ = s.g.Close() // attempts are counted over a restart
		s.g = s.open(t)
	}
	if err := s.g.Authorise(t.Context(), "s/pay", authorise(sandbox.TokenFlaky)); err != nil {
		t.Errorf("attempt 3: %v", err)
	}
	s.wantLedger(t, row(sandbox.Authorised))
}

func testTimeout(t *testing.T, s *setup) {
	_ = s.g.Close()
	g, err := sandbox.Open(t.Context(), s.db, s.Dialect, sandbox.Options{Late: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = g.Close() })
	ctx, stop := context.WithTimeout(t.Context(), 10*time.Second)
	answer := make(chan error, 1)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	wg.Go(func() { answer <- g.Authorise(ctx, "s/pay", authorise(sandbox.TokenTimeout)) })
	for len(s.ledger(t)) == 0 { // done, though not answered
		select {
		case err := <-answer:
			t.Fatalf("answered before it was seen to be done: %v", err)
		default:
		}
	}
	for range 20 { // time enough for a first call that does not wait
		if err := g.Authorise(t.Context(), "s/pay", authorise(sandbox.TokenTimeout)); err != nil {
			t.Errorf("repeated call: %v", err)
		}
	}
	select {
	case err := <-answer:
		t.Errorf("first call answered before its deadline: %v", err)
	default:
		stop()
		if err := <-answer; !errors.Is(err, context.Canceled) {
			t.Errorf("first call: %v", err)
		}
	}
	s.wantLedger(t, row(sandbox.Authorised))
}

func testVoidFails(t *testing.T, s *setup) {
	if err := s.g.Authorise(t.Context(), "s/pay", authorise(sandbox.TokenVoidFails)); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := s.g.Cancel(t.Context(), "s/pay", cancel); !errors.Is(err, sandbox.ErrUnavailable) {
			t.Errorf("cancel: got %v, want ErrUnavailable", err)
		}
	}
	s.wantLedger(t, row(sandbox.Authorised))
}

func testRestart(t *testing.T, s *setup) {
	if err := s.g.Authorise(t.Context(), "s/pay", authorise(sandbox.TokenCaptureRejected)); err != nil {
		t.Fatal(err)
	}
	_ = s.g.Close()
	s.g = s.open(t)
	if got := code(t, s.g.Capture(t.Context(), "s/capture", capture)); got != payment.CodeCaptureRejected {
		t.Errorf("capture: code %q", got)
	}
	s.wantLedger(t, row(sandbox.Authorised))
}

// gateways gives those through which concurrent callers come: of two processes, where the database may be shared.
func (s *setup) gateways(t *testing.T) []*sandbox.Gateway {
	t.Helper()
	if s.Shared {
		return []*sandbox.Gateway{s.g, s.open(t)}
	}
	return []*sandbox.Gateway{s.g}
}

func testConcurrent(t *testing.T, s *setup) {
	const orders, callers = 20, 4
	var wg sync.WaitGroup
	for _, g := range s.gateways(t) {
		for order := range orders {
			for range callers {
				wg.Go(func() {
					ref := fmt.Sprintf("o-%02d", order)
					r := payment.AuthoriseRequest{OrderRef: ref, Amount: 100, Currency: "EUR", Token: sandbox.TokenOK}
					if err := g.Authorise(t.Context(), ref+"/pay", r); err != nil {
						t.Errorf("authorise: %v", err)
					}
					c := payment.CaptureRequest{OrderRef: ref, Amount: 100, Currency: "EUR"}
					if err := g.Capture(t.Context(), ref+"/capture", c); err != nil {
						t.Errorf("capture: %v", err)
					}
				})
			}
		}
	}
	wg.Wait()
	as := s.ledger(t)
	if len(as) != orders {
		t.Fatalf("%d authorisations, want %d", len(as), orders)
	}
	for _, a := range as {
		if a.Status != sandbox.Captured || a.CapturedAmount != 100 {
			t.Errorf("%+v is not captured once", a)
		}
	}
}

func testClosed(t *testing.T, s *setup) {
	_ = s.g.Close()
	if err := s.g.Authorise(t.Context(), "s/pay", authorise(sandbox.TokenOK)); !errors.Is(err, sandbox.ErrClosed) {
		t.Errorf("got %v, want ErrClosed", err)
	}
}

// testRace races authorise, capture and cancel: whatever the order, nothing is held under a key that was cancelled.
func testRace(t *testing.T, s *setup) {
	gs := s.gateways(t)
	var wg sync.WaitGroup
	for i := range 40 {
		ref := fmt.Sprintf("o-%02d", i)
		wg.Go(func() {
			r := payment.AuthoriseRequest{OrderRef: ref, Amount: 100, Currency: "EUR", Token: sandbox.TokenOK}
			code(t, gs[0].Authorise(t.Context(), ref, r))
		})
		wg.Go(func() {
			if _, err := gs[len(gs)-1].Cancel(t.Context(), ref, payment.CancelRequest{OrderRef: ref}); err != nil {
				t.Errorf("cancel: %v", err)
			}
		})
	}
	wg.Wait()
	for _, a := range s.ledger(t) {
		if a.Status != sandbox.Voided && a.Status != sandbox.Cancelled {
			t.Errorf("%+v is held after its cancel", a)
		}
	}
}

// testFailsAlone makes the database refuse one key. Whoever comes with it does not know the outcome; those who share
// its transaction, and those who come later, also for the same order, are not concerned.
func testFailsAlone(t *testing.T, s *setup) {
	refuse, allow := `create trigger refuse before insert on authorisation when new.key = 'bad/pay'
begin select raise(abort, 'not this one'); end`, `drop trigger refuse`
	if s.Dialect == mainstay.Postgres {
		refuse = `alter table sandbox.authorisation add constraint refuse check (key <> 'bad/pay')`
		allow = `alter table sandbox.authorisation drop constraint refuse`
	}
	s.exec(t, refuse)
	var wg sync.WaitGroup
	for i := range 20 {
		for _, name := range []string{"bad", fmt.Sprintf("good-%02d", i)} {
			wg.Go(func() {
				r := authorise(sandbox.TokenOK)
				r.OrderRef = name
				err := s.g.Authorise(t.Context(), name+"/pay", r)
				var rejected *payment.Rejected
				if (err != nil) != (name == "bad") || errors.As(err, &rejected) {
					t.Errorf("%s: got %v", name, err)
				}
			})
		}
	}
	wg.Wait()
	if n := len(s.ledger(t)); n != 20 {
		t.Errorf("%d authorisations, want 20", n)
	}
	s.exec(t, allow)
	r := authorise(sandbox.TokenOK)
	r.OrderRef = "bad"
	if err := s.g.Authorise(t.Context(), "bad/pay", r); err != nil {
		t.Errorf("repeated when it can be saved: %v", err)
	}
}

func (s *setup) exec(t *testing.T, statement string) {
	t.Helper()
	if _, err := s.db.ExecContext(t.Context(), statement); err != nil {
		t.Fatal(err)
	}
}
