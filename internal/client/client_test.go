package client_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/client"
	"github.com/mainstay-io/mainstay/internal/problem"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const orderJSON = `{"id":"o-1","status":"pending","total":2500,"currency":"EUR","created_at":"2026-01-02T03:04:05Z","news":1}`

// setup starts a server and a client that hardly pauses.
func setup(t *testing.T, handle http.HandlerFunc) *client.Client {
	t.Helper()
	s := httptest.NewServer(handle)
	c, err := client.New(client.Config{URL: s.URL + "/", OpsURL: s.URL, Attempts: 4, Backoff: time.Microsecond, MaxBackoff: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); s.Close() })
	return c
}

func code(err error) int { return app.ExitCode(context.Background(), err) }

func TestPlaceOrder_InsistsWithTheSameKeyAndBody(t *testing.T) {
	t.Parallel()
	var keys, bodies []string
	c := setup(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		keys, bodies = append(keys, r.Header.Get("Idempotency-Key")), append(bodies, string(body))
		switch len(keys) {
		case 1:
			panic(http.ErrAbortHandler) // the answer is lost
		case 2:
			problem.Write(w, r, problem.New(problem.Overloaded, ""))
		case 3:
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(http.StatusConflict)
		default:
			w.Header().Set("Idempotent-Replayed", "true")
			w.WriteHeader(http.StatusAccepted)
			_, _ = io.WriteString(w, orderJSON)
		}
	})
	placed, err := c.PlaceOrder(t.Context(), "k-1", client.NewOrder{CustomerID: "c-1", Lines: []client.Line{{SKU: "mug", Quantity: 2, UnitPrice: 1250}}})
	if err != nil {
		t.Fatal(err)
	}
	if placed.ID != "o-1" || placed.Total != 2500 || !placed.Replayed || placed.Attempts != 4 || placed.Ended() || string(placed.Raw) != orderJSON {
		t.Errorf("placed %+v", placed)
	}
	if diff := cmp.Diff([]string{"k-1", "k-1", "k-1", "k-1"}, keys); diff != "" {
		t.Error(diff)
	}
	want := `{"customer_id":"c-1","currency":"","lines":[{"sku":"mug","quantity":2,"unit_price":1250}],"payment":{"token":""},` +
		`"shipping":{"name":"","line1":"","city":"","postal_code":"","country":""}}`
	for _, got := range bodies {
		if got != want {
			t.Errorf("sent %s", got)
		}
	}
}

func TestPlaceOrder_GivesUp(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		answer   func(w http.ResponseWriter, r *http.Request)
		attempts int
		code     int
	}{
		"at once on a mistake": {func(w http.ResponseWriter, r *http.Request) {
			problem.Write(w, r, problem.New(problem.InvalidBody, "no lines"))
		}, 1, app.ExitUsage},
		"at once on a reused key": {func(w http.ResponseWriter, r *http.Request) {
			problem.Write(w, r, problem.New(problem.KeyReused, ""))
		}, 1, app.ExitConflict},
		"at once on a conflict for good": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusConflict) }, 1, app.ExitConflict},
		"when the attempts are spent":    {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }, 4, app.ExitUnreachable},
		"on a bug, at last":              {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }, 4, app.ExitError},
		"on an answer of somebody else":  {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") }, 1, app.ExitError},
		"on an order without a status":   {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"id":"x"}`) }, 1, app.ExitError},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var calls atomic.Int64
			c := setup(t, func(w http.ResponseWriter, r *http.Request) { calls.Add(1); tt.answer(w, r) })
			placed, err := c.PlaceRaw(t.Context(), "k", []byte("{}"))
			if code(err) != tt.code || placed.Attempts != tt.attempts || int(calls.Load()) != tt.attempts {
				t.Errorf("%v (code %d) after %d attempts, of which the server saw %d", err, code(err), placed.Attempts, calls.Load())
			}
		})
	}
}

func TestPlaceOrder_HonoursRetryAfterAndContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	var calls atomic.Int64
	c := setup(t, func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		problem.Write(w, r, problem.New(problem.Overloaded, "").After(time.Hour))
	})
	placed, err := c.PlaceRaw(ctx, "k", []byte("{}"))
	if err == nil || placed.Attempts != 1 || calls.Load() != 1 {
		t.Errorf("%v after %d attempts: it did not wait as it was told", err, placed.Attempts)
	}
}

func TestErrors_CarryTheProblem(t *testing.T) {
	t.Parallel()
	c := setup(t, func(w http.ResponseWriter, r *http.Request) {
		p := problem.New(problem.InvalidBody, "two mistakes")
		p.Errors = []problem.Mistake{{Pointer: "/lines/0/quantity", Code: "range", Detail: "must be positive"}}
		problem.Write(w, r, p)
	})
	_, err := c.PlaceRaw(t.Context(), "k", []byte("{}"))
	var p *problem.Problem
	if !errors.As(err, &p) || p.Code != problem.InvalidBody || p.Status != 400 {
		t.Fatalf("error is %v", err)
	}
	if want := "placing an order: " + p.Error() + "\n  /lines/0/quantity: must be positive"; err.Error() != want {
		t.Errorf("error reads %q, want %q", err, want)
	}
}

func TestOrder_TellsWhatIsMissing(t *testing.T) {
	t.Parallel()
	var asked string
	c := setup(t, func(w http.ResponseWriter, r *http.Request) {
		asked = r.URL.String()
		problem.Write(w, r, problem.New(problem.NotFound, "no such order"))
	})
	_, err := c.Order(t.Context(), "a/b", 3*time.Second)
	if code(err) != app.ExitNotFound || asked != "/v1/orders/a%2Fb?wait=3s" {
		t.Errorf("%v for %s", err, asked)
	}
}

func TestOrder_NoServer(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.NotFoundHandler())
	s.Close()
	c, err := client.New(client.Config{URL: s.URL})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Order(t.Context(), "x", 0)
	if code(err) != app.ExitUnreachable || app.HintOf(err) == "" || strings.Count(err.Error(), s.URL) != 1 {
		t.Errorf("error is %v", err)
	}
}

func TestAwait_LivesThroughTroubleUntilTheEnd(t *testing.T) {
	t.Parallel()
	var calls atomic.Int64
	c := setup(t, func(w http.ResponseWriter, _ *http.Request) {
		switch calls.Add(1) {
		case 1, 3:
			panic(http.ErrAbortHandler)
		case 2:
			_, _ = io.WriteString(w, orderJSON)
		default:
			_, _ = io.WriteString(w, `{"id":"o-1","status":"cancelled","reason":{"code":"card_declined","detail":"no"}}`)
		}
	})
	o, err := c.Await(t.Context(), "o-1", time.Minute)
	if err != nil || !o.Ended() || o.Reason == nil || o.Reason.Code != "card_declined" || calls.Load() != 4 {
		t.Errorf("%+v, %v after %d calls", o, err, calls.Load())
	}
}

func TestAwait_AnswersWithWhatIsTrueWhenTheTimeIsOver(t *testing.T) {
	t.Parallel()
	c := setup(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, orderJSON) })
	if o, err := c.Await(t.Context(), "o-1", 0); err != nil || o.Status != client.StatusPending {
		t.Errorf("%+v, %v", o, err)
	}
	var calls atomic.Int64
	gone := setup(t, func(w http.ResponseWriter, r *http.Request) { calls.Add(1); http.NotFound(w, r) })
	if _, err := gone.Await(t.Context(), "o-1", time.Second); code(err) != app.ExitNotFound || calls.Load() != 1 {
		t.Errorf("an order that does not exist: %v after %d calls", err, calls.Load())
	}
}

func TestOperator_SetsAndReads(t *testing.T) {
	t.Parallel()
	var asked []string
	c := setup(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		asked = append(asked, r.Method+" "+r.URL.Path+" "+string(body))
		switch r.URL.Path {
		case "/v1/inventory/mug":
			_, _ = io.WriteString(w, `{"sku":"mug","on_hand":7,"reserved":2,"shipped":1}`)
		case "/v1/carriers/FR":
			_, _ = io.WriteString(w, `{"country":"FR","capacity":null}`)
		}
	})
	stock := client.Stock{SKU: "mug", OnHand: 7, Reserved: 2, Shipped: 1}
	if got, err := c.PutStock(t.Context(), "mug", 7); err != nil || got != stock {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := c.Stock(t.Context(), "mug"); err != nil || got != stock {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := c.PutCarrier(t.Context(), "FR", 0); err != nil || got.Country != "FR" || got.Capacity != nil {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := c.Carrier(t.Context(), "FR"); err != nil {
		t.Error(err)
	}
	want := []string{
		`PUT /v1/inventory/mug {"on_hand":7}`, `GET /v1/inventory/mug `, `PUT /v1/carriers/FR {"capacity":0}`, `GET /v1/carriers/FR `,
	}
	if diff := cmp.Diff(want, asked); diff != "" {
		t.Error(diff)
	}
}

func TestReady_NotReadyIsAnAnswer(t *testing.T) {
	t.Parallel()
	body := `{"ready":false,"checks":[{"name":"broker","ready":false,"reason":"gone"}]}`
	c := setup(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, body)
	})
	got, err := c.Ready(t.Context())
	want := client.Readiness{Checks: []app.Result{{Name: "broker", Reason: "gone"}}}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Error(err, diff)
	}
	body = "<html>"
	if _, err := c.Ready(t.Context()); code(err) != app.ExitUnreachable {
		t.Errorf("a proxy's page: %v", err)
	}
}

func TestNew_RefusesWhatIsNoURL(t *testing.T) {
	t.Parallel()
	for _, base := range []string{"127.0.0.1:8080", "ftp://x", "http://", "://"} {
		if _, err := client.New(client.Config{URL: base}); code(err) != app.ExitUsage {
			t.Errorf("%s: %v", base, err)
		}
	}
}
