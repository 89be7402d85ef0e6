package app_test

import (
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mainstay-io/mainstay/internal/app"
)

// answers is an observer that remembers.
type answers struct {
	mu   sync.Mutex
	list []string
	more chan struct{}
}

func (a *answers) Answered(route string, status int, took time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if took <= 0 {
		route += " in no time"
	}
	a.list = append(a.list, fmt.Sprintf("%s: %d", route, status))
	a.more <- struct{}{}
}

// TestServer_TellsWhatItAnswered: by route and never by path, also what was refused before it had a route, and what a
// panic cut.
func TestServer_TellsWhatItAnswered(t *testing.T) {
	t.Parallel()
	mux := http.NewServeMux()
	entered, release := make(chan struct{}), make(chan struct{})
	mux.HandleFunc("GET /things/{id}", func(w http.ResponseWriter, r *http.Request) {
		switch r.PathValue("id") {
		case "none":
			w.WriteHeader(http.StatusNotFound)
		case "early":
			w.WriteHeader(http.StatusEarlyHints)
			w.WriteHeader(http.StatusConflict)
		case "cut":
			_, _ = w.Write([]byte("half"))
			panic("in the middle")
		case "slow":
			close(entered)
			<-release
		}
	})
	a := &answers{more: make(chan struct{}, 100)}
	url, _, _ := serve(t, app.HTTP{Handler: mux, Observer: a, InFlight: 1, Waiters: 1})
	for _, path := range []string{"/things/1", "/things/2?wait=1s", "/things/none", "/things/early", "/elsewhere"} {
		get(t, url+path)
		<-a.more
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/things/cut", nil)
	if err != nil {
		t.Fatal(err)
	}
	if res, err := http.DefaultTransport.RoundTrip(req); err == nil {
		_ = res.Body.Close()
	}
	<-a.more
	done := make(chan struct{})
	go func() { defer close(done); get(t, url+"/things/slow") }()
	<-entered
	get(t, url+"/things/3")
	<-a.more
	close(release)
	<-done
	<-a.more
	want := []string{
		"GET /things/{id}: 200", "GET /things/{id}?wait: 200", "GET /things/{id}: 404", "GET /things/{id}: 409", ": 404",
		"GET /things/{id}: 500", ": 503", "GET /things/{id}: 200",
	}
	if diff := cmp.Diff(want, slices.Clone(a.list)); diff != "" {
		t.Fatalf("(-want +got):\n%s", diff)
	}
}
