package order_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/mainstay-io/mainstay/internal/clock"
	"github.com/mainstay-io/mainstay/internal/order"
)

// TestHTTP_DoesNotLogEveryFailure asks while the database is away: a line each second is enough, and it counts the rest.
func TestHTTP_DoesNotLogEveryFailure(t *testing.T) {
	t.Parallel()
	const requests = 500
	var lines bytes.Buffer
	f := &fakes{err: errors.New("connection refused"), orders: map[string]*order.View{"01a1fe7a-c3cb-76f2-b074-ceedc01f485a": {}}}
	mux := http.NewServeMux()
	(&order.HTTP{Accepter: f, Reader: f, Waiter: f, Clock: clock.System, Log: slog.New(slog.NewJSONHandler(&lines, nil))}).Mount(mux)
	began := clock.Start()
	for range requests {
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/v1/orders/01a1fe7a-c3cb-76f2-b074-ceedc01f485a", nil))
		if w.Code != http.StatusServiceUnavailable {
			t.Fatalf("status %d", w.Code)
		}
	}
	most := 1 + int(began.Elapsed().Seconds())
	logged, said := 0, 0
	for d := json.NewDecoder(&lines); d.More(); logged++ {
		var line struct {
			Others int `json:"others_not_logged"`
		}
		if err := d.Decode(&line); err != nil {
			t.Fatal(err)
		}
		said += 1 + line.Others
	}
	if logged == 0 || logged > most || said > requests {
		t.Errorf("%d lines about %d of %d failures, want 1 to %d lines", logged, said, requests, most)
	}
}
