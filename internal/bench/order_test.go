package bench

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/mainstay-io/mainstay/internal/problem"
)

// orders makes the work over a server that answers a POST with the order, and a GET as its SKU says.
func orders(t *testing.T, sku string, post http.HandlerFunc) *Orders {
	t.Helper()
	if post == nil {
		post = func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Idempotency-Key") == "" {
				t.Error("an order has no key")
			}
			body, _ := io.ReadAll(r.Body)
			if !strings.Contains(string(body), `"sku":"`+sku+`"`) {
				t.Errorf("ordered %s", body)
			}
			w.WriteHeader(http.StatusAccepted)
			_, _ = fmt.Fprintf(w, `{"id":"%s","status":"pending"}`, sku)
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/orders", post)
	mux.HandleFunc("GET /v1/orders/{id}", func(w http.ResponseWriter, r *http.Request) {
		status, code, _ := strings.Cut(r.PathValue("id"), "-")
		_, _ = fmt.Fprintf(w, `{"id":"x","status":%q`, status)
		if code != "" {
			_, _ = fmt.Fprintf(w, `,"reason":{"code":%q,"detail":"d"}`, code)
		}
		_, _ = io.WriteString(w, "}")
	})
	s := httptest.NewServer(mux)
	o, err := NewOrders(OrderConfig{URL: s.URL, SKUs: []string{sku}, Follow: true, Connections: 2, Patience: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.Close(); s.Close() })
	return o
}

func TestOrders_OnlyAConfirmationIsAGoodEnd(t *testing.T) {
	t.Parallel()
	for sku, want := range map[string]string{
		"confirmed": "", "cancelled-out_of_stock": "cancelled (out_of_stock)", "needs_operator": "needs_operator", "pending": "unfinished",
	} {
		o := orders(t, sku, nil)
		b, err := o.Begin(t.Context(), 0)
		if err != nil || b.Retries != 0 {
			t.Fatal(b, err)
		}
		if got := kindOf(t.Context(), b.Finish(t.Context())); got != want {
			t.Errorf("the end of %s counts as %q, want %q", sku, got, want)
		}
	}
}

func TestOrders_WithoutFollowingEndsWithTheAnswer(t *testing.T) {
	t.Parallel()
	o := orders(t, "pending", nil)
	o.follow = false
	if b, err := o.Begin(t.Context(), 3); err != nil || b.Finish != nil {
		t.Errorf("%+v, %v", b, err)
	}
}

func TestOrders_NamesWhatWentWrong(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		post http.HandlerFunc
		want string
	}{
		"refused": {func(w http.ResponseWriter, r *http.Request) {
			problem.Write(w, r, problem.New(problem.InvalidBody, "no"))
		}, "400 "},
		"replayed": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Idempotent-Replayed", "true")
			_, _ = io.WriteString(w, `{"id":"x","status":"confirmed"}`)
		}, "replayed"},
		"nonsense": {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") }, "error"},
	} {
		_, err := orders(t, "x", tt.post).Begin(t.Context(), 0)
		var f *Fault
		if !errors.As(err, &f) || !strings.HasPrefix(f.Kind, tt.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOrders_CountsRetries(t *testing.T) {
	t.Parallel()
	calls := 0
	o := orders(t, "x", func(w http.ResponseWriter, _ *http.Request) {
		if calls++; calls < 3 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		_, _ = io.WriteString(w, `{"id":"x","status":"pending"}`)
	})
	if b, err := o.Begin(t.Context(), 0); err != nil || b.Retries != 2 {
		t.Errorf("%+v, %v", b, err)
	}
}
