package app_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/app"
)

// serve runs a server until the test ends, or stop is called.
func serve(t *testing.T, h app.HTTP) (url string, s *app.Server, stop func() error) {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h.Name, h.Listener = "ingest", l
	if h.Log == nil {
		h.Log = slog.New(slog.DiscardHandler)
	}
	s = app.NewServer(h)
	ctx, cancel := context.WithCancelCause(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	stop = func() error { cancel(mainstay.ErrShutdown); return <-ended }
	t.Cleanup(func() { cancel(nil) })
	return "http://" + l.Addr().String(), s, stop
}

func get(t *testing.T, url string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Close = true
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(body)
}

// The pages of a site whose name leads to this machine may not use the server in their reader's name.
func TestServer_AnswersOnlyToItsOwnName(t *testing.T) {
	t.Parallel()
	url, _, _ := serve(t, app.HTTP{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})})
	for host, want := range map[string]int{
		"":                  http.StatusOK, // the address
		"localhost:8080":    http.StatusOK,
		"Localhost":         http.StatusOK,
		"shop.localhost:1":  http.StatusOK,
		"[::1]:8080":        http.StatusOK,
		"10.0.0.1":          http.StatusOK,
		"evil.example":      http.StatusBadRequest,
		"evil.example:8080": http.StatusBadRequest,
		"localhost.evil.io": http.StatusBadRequest,
		"127.0.0.1.nip.io":  http.StatusBadRequest,
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host, req.Close = host, true
		res, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != want {
			t.Errorf("host %q: %d, want %d", host, res.StatusCode, want)
		}
	}
}

func TestServer_AnswersAPanicWithAProblem(t *testing.T) {
	t.Parallel()
	var log strings.Builder
	url, _, stop := serve(t, app.HTTP{
		Log:     slog.New(slog.NewTextHandler(&log, nil)),
		Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("nil map") }),
	})
	res, body := get(t, url)
	if res.StatusCode != 500 || res.Header.Get("Content-Type") != "application/problem+json" || strings.Contains(body, "nil map") {
		t.Errorf("%d %s", res.StatusCode, body)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if !strings.Contains(log.String(), "nil map") || !strings.Contains(log.String(), "http_test.go") {
		t.Errorf("the log does not say where: %s", &log)
	}
}

func TestServer_PanicInTheMiddleOfAnAnswerCutsIt(t *testing.T) {
	t.Parallel()
	url, _, _ := serve(t, app.HTTP{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "half")
		panic("nil map")
	})})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return // nothing had left yet
	}
	defer func() { _ = res.Body.Close() }()
	if body, err := io.ReadAll(res.Body); err == nil {
		t.Errorf("half an answer looks whole: %d %q", res.StatusCode, body)
	}
}

func TestServer_BoundsWhatIsInFlight(t *testing.T) {
	t.Parallel()
	entered, release := make(chan struct{}), make(chan struct{})
	url, _, _ := serve(t, app.HTTP{InFlight: 1, Waiters: 1, Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			entered <- struct{}{}
			<-release
		}
	})})
	done := make(chan int, 2)
	for _, path := range []string{"/slow", "/slow?wait=1s"} {
		go func() {
			res, _ := get(t, url+path)
			done <- res.StatusCode
		}()
		<-entered
	}
	for _, path := range []string{"/", "/?wait=1s"} {
		if res, _ := get(t, url+path); res.StatusCode != 503 || res.Header.Get("Retry-After") != "1" {
			t.Errorf("%s beyond the bound: %d, Retry-After %q", path, res.StatusCode, res.Header.Get("Retry-After"))
		}
	}
	close(release)
	if a, b := <-done, <-done; a != 200 || b != 200 {
		t.Errorf("requests within the bound got %d and %d", a, b)
	}
	for _, path := range []string{"/", "/?wait=1s"} {
		if res, _ := get(t, url+path); res.StatusCode != 200 {
			t.Errorf("%s after the bound was free again: %d", path, res.StatusCode)
		}
	}
}

func TestServer_WaitOutlivesTheReadTimeout(t *testing.T) {
	t.Parallel()
	const readTimeout = 50 * time.Millisecond
	url, _, _ := serve(t, app.HTTP{ReadTimeout: readTimeout, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		wait := time.NewTimer(4 * readTimeout)
		defer wait.Stop()
		select {
		case <-wait.C:
			w.WriteHeader(http.StatusOK)
		case <-r.Context().Done():
			w.WriteHeader(http.StatusTeapot)
		}
	})})
	if res, _ := get(t, url+"/?wait=1s"); res.StatusCode != 200 {
		t.Error("a request that waits was cancelled by the read timeout")
	}
}

func TestServer_NoticesThatAWaitingClientLeft(t *testing.T) {
	t.Parallel()
	entered, left := make(chan struct{}), make(chan struct{})
	url, _, _ := serve(t, app.HTTP{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(entered)
		<-r.Context().Done()
		close(left)
	})})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-entered; cancel() }()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/?wait=1h", nil)
	if err != nil {
		t.Fatal(err)
	}
	if res, err := http.DefaultTransport.RoundTrip(req); err == nil {
		_ = res.Body.Close()
		t.Error("answered")
	}
	<-left
}

func TestServer_DrainsBeforeItEnds(t *testing.T) {
	t.Parallel()
	entered := make(chan struct{})
	var s *app.Server
	ready := make(chan struct{})
	url, s, stop := serve(t, app.HTTP{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		<-ready
		close(entered)
		<-s.Stopping()
		_, _ = io.WriteString(w, "what is true now")
	})})
	close(ready)
	answer := make(chan string, 1)
	go func() { _, body := get(t, url+"/?wait=30s"); answer <- body }()
	<-entered
	if err := s.Drain(t.Context()); err != nil {
		t.Error(err)
	}
	if got := <-answer; got != "what is true now" {
		t.Errorf("the request in flight got %q", got)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func TestServer_CancelsWithTheCauseOfTheShutdown(t *testing.T) {
	t.Parallel()
	entered, cause := make(chan struct{}), make(chan error, 1)
	url, _, stop := serve(t, app.HTTP{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(entered)
		<-r.Context().Done()
		cause <- context.Cause(r.Context())
	})})
	hungUp := make(chan struct{})
	go func() {
		defer close(hungUp)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		if err != nil {
			t.Error(err)
			return
		}
		if res, err := http.DefaultTransport.RoundTrip(req); err == nil {
			_ = res.Body.Close()
		}
	}()
	<-entered
	if err := stop(); err != nil {
		t.Error(err)
	}
	if got := <-cause; !errors.Is(got, mainstay.ErrShutdown) {
		t.Errorf("cause is %v", got)
	}
	<-hungUp
}

func TestServer_ReportsThatItCannotServe(t *testing.T) {
	t.Parallel()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	s := app.NewServer(app.HTTP{Name: "ops", Listener: l, Handler: http.NotFoundHandler(), Log: slog.New(slog.DiscardHandler)})
	if err := s.Run(t.Context()); err == nil {
		t.Error("it served on a closed listener")
	}
}
