package app_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mainstay-io/mainstay/internal/app"
)

func ask(t *testing.T, h *app.Health, path string) (int, string) {
	t.Helper()
	mux := http.NewServeMux()
	h.Routes(mux)
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
	return w.Code, w.Body.String()
}

func TestHealth_TellsEachDependencyByName(t *testing.T) {
	t.Parallel()
	h := app.NewHealth(slog.New(slog.DiscardHandler))
	expect := func(path string, status int, body string) {
		t.Helper()
		if gotStatus, got := ask(t, h, path); gotStatus != status || got != body {
			t.Errorf("%s answers %d %q, want %d %q", path, gotStatus, got, status, body)
		}
	}
	h.Check("database", func(context.Context) error { return nil })
	expect("/readyz", 503, `{"ready":false,"checks":[{"name":"process","ready":false,"reason":"starting"}]}`+"\n")
	h.Start()
	expect("/readyz", 200, `{"ready":true,"checks":[{"name":"database","ready":true}]}`+"\n")
	h.Check("broker", func(context.Context) error { return errors.New("not connected") })
	h.Check("lanes", func(context.Context) error { panic("bug") })
	h.Check("worker", func(context.Context) error {
		return errors.New("a: away:\n\t:5432 refused\n\t:5432 refused\nb: away:\n\t:5432 refused")
	})
	expect("/readyz?verbose", 503, "[+] database\n[-] broker: not connected\n[-] lanes: handler panicked: bug\n"+
		"[-] worker: a: away:\n    :5432 refused\n    b: away: as above\nnot ready\n")
	expect("/livez", 200, "ok\n")
	h.Stop()
	expect("/readyz?verbose", 503, "[-] process: stopping\nnot ready\n")
	expect("/livez", 200, "ok\n")
}

func TestHealth_ChecksAreBoundedAndShared(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		h := app.NewHealth(slog.New(slog.NewTextHandler(&log, nil)))
		h.Start()
		calls, broken := 0, true
		h.Check("broker", func(ctx context.Context) error {
			calls++
			if !broken {
				return nil
			}
			<-ctx.Done()
			return errors.New("no answer")
		})
		ask := func(want bool, wantCalls int) {
			t.Helper()
			if ready, _ := h.State(t.Context()); ready != want || calls != wantCalls {
				t.Errorf("ready %v, asked %d times; want %v, %d", ready, calls, want, wantCalls)
			}
		}
		start := time.Now()
		ask(false, 1) // right after the start, that is not worth a line
		if time.Since(start) != 2*time.Second {
			t.Errorf("asked for %v", time.Since(start))
		}
		broken = false
		ask(false, 1)
		time.Sleep(10 * time.Millisecond) // of the bubble's clock: bad news grow old sooner
		ask(true, 2)
		time.Sleep(400 * time.Millisecond)
		ask(true, 2)
		broken = true
		time.Sleep(time.Second)
		ask(false, 3)
		broken = false
		time.Sleep(time.Second)
		ask(true, 4)
		if got := strings.Count(log.String(), "broker"); got != 2 {
			t.Errorf("%d changes were logged, want 2:\n%s", got, &log)
		}
	})
}

// A process says by itself, once for each change, that it is not ready and that it is again.
func TestHealth_WatchesItself(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		h := app.NewHealth(slog.New(slog.NewTextHandler(&log, nil)))
		var away atomic.Bool
		h.Check("database", func(context.Context) error {
			if away.Load() {
				return errors.New("refused")
			}
			return nil
		})
		h.Check("broker", func(context.Context) error { return nil })
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = h.Watch(ctx) })
		expect := func(ready bool, lines int, last string) {
			t.Helper()
			time.Sleep(10 * time.Second) // of the bubble's clock
			synctest.Wait()
			if said := log.String(); h.Ready() != ready || strings.Count(said, "\n") != lines || !strings.Contains(said, last) {
				t.Errorf("ready %v, want %v, %d lines and %q:\n%s", h.Ready(), ready, lines, last, said)
			}
		}
		expect(false, 0, "")
		h.Start()
		expect(true, 0, "")
		away.Store(true)
		expect(false, 1, `level=WARN msg="dependency is not ready" dependency=database reason=refused`)
		away.Store(false)
		expect(true, 2, `msg="dependency is ready again" dependency=database`)
		h.Stop()
		expect(false, 2, "")
		stop()
		running.Wait()
	})
}
