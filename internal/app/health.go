package app

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mainstay-io/mainstay/internal/clock"
)

const (
	// checkTimeout bounds one check of a dependency.
	checkTimeout = 2 * time.Second
	// watchEvery is how often the process looks at itself.
	watchEvery = time.Second
	// checkEvery is how long results are good for, however many probes ask.
	checkEvery = 500 * time.Millisecond
	// startWithin is how long a dependency may take to become ready before that is worth a line.
	startWithin = 5 * time.Second
)

// Health knows whether a process can do its work now. All methods may be called by many goroutines.
type Health struct {
	log *slog.Logger

	mu       sync.Mutex
	checks   []check
	started  bool
	stopping bool

	ready atomic.Bool // what the last round of checks found

	probing sync.Mutex // held during a round of checks; taken before mu
	at      clock.Mono
	last    []Result
	since   clock.Mono      // when it was made
	said    map[string]bool // what was said not to be ready
}

type check struct {
	name  string
	ready func(ctx context.Context) error
}

// Result is the outcome of one check.
type Result struct {
	Name  string `json:"name"`
	Ready bool   `json:"ready"`
	// Reason says in words for an operator why it is not ready.
	Reason string `json:"reason,omitempty"`
}

// NewHealth makes a health without checks, that is not started.
func NewHealth(log *slog.Logger) *Health {
	return &Health{log: log, since: clock.Start(), said: map[string]bool{}}
}

// Check adds a dependency by name. Ready answers nil when it can be used, else why not in words for an operator and
// without secrets; it is called one at a time, with a deadline of two seconds.
func (h *Health) Check(name string, ready func(ctx context.Context) error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.checks = append(h.checks, check{name: name, ready: ready})
}

// Start says that everything was wired: from now on readiness is up to the checks.
func (h *Health) Start() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.started, h.since = true, clock.Start()
}

// Watch makes the checks every second until ctx ends, so that changes are logged, and told of in metrics, also where
// nobody asks.
func (h *Health) Watch(ctx context.Context) error {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			h.State(ctx)
		}
	}
}

// Ready says what the last checks found, without making any; false while the process starts or stops.
func (h *Health) Ready() bool { return h.ready.Load() }

// Stop says that the process is stopping: not ready, for good.
func (h *Health) Stop() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stopping = true
}

// State answers with the results of all checks, those of the last half second included, and whether the process is
// ready. While it starts or stops, that is the one result.
func (h *Health) State(ctx context.Context) (ready bool, results []Result) {
	h.mu.Lock()
	started, stopping, checks := h.started, h.stopping, slices.Clone(h.checks)
	h.mu.Unlock()
	defer func() { h.ready.Store(ready) }()
	switch {
	case stopping:
		return false, []Result{{Name: "process", Reason: "stopping"}}
	case !started:
		return false, []Result{{Name: "process", Reason: "starting"}}
	}
	results = h.probe(ctx, checks)
	return !slices.ContainsFunc(results, func(r Result) bool { return !r.Ready }), results
}

func (h *Health) probe(ctx context.Context, checks []check) []Result {
	h.probing.Lock()
	defer h.probing.Unlock()
	if len(h.last) == len(checks) && len(checks) > 0 && h.at.Elapsed() < keptFor(h.last) {
		return h.last
	}
	// A probe that hangs up must not make dependencies look bad to the others.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), checkTimeout)
	defer cancel()
	results := make([]Result, len(checks))
	var wg sync.WaitGroup
	for i, c := range checks {
		wg.Go(func() { results[i] = c.run(ctx) })
	}
	wg.Wait()
	h.logChanges(ctx, results)
	h.last, h.at = results, clock.Start()
	return results
}

// keptFor is for how long results answer further probes: good news may be old, bad news not.
func keptFor(results []Result) time.Duration {
	if slices.ContainsFunc(results, func(r Result) bool { return !r.Ready }) {
		return checkEvery / 50
	}
	return checkEvery
}

func (c check) run(ctx context.Context) Result {
	if err := runSafely(ctx, c.ready); err != nil {
		return Result{Name: c.name, Reason: withoutRepeats(err.Error())}
	}
	return Result{Name: c.name, Ready: true}
}

// withoutRepeats leaves lines out that were there before: drivers say of each try, and each consumer says for itself,
// that one server is away. What led to such a line then says so.
func withoutRepeats(reason string) string {
	var lines []string
	for line := range strings.Lines(reason) {
		line = strings.TrimSpace(line)
		last := len(lines) - 1
		switch {
		case !slices.Contains(lines, line):
			lines = append(lines, line)
		case strings.HasSuffix(lines[last], ":"):
			lines[last] += " as above"
		}
	}
	return strings.Join(lines, "\n")
}

// logChanges says what is not ready any more, or not yet long after the start, and what is ready again.
func (h *Health) logChanges(ctx context.Context, results []Result) {
	for i, r := range results {
		wasReady := i < len(h.last) && h.last[i].Ready
		switch {
		case !r.Ready && !h.said[r.Name] && (wasReady || h.since.Elapsed() > startWithin):
			h.said[r.Name] = true
			h.log.WarnContext(ctx, "dependency is not ready", "dependency", r.Name, "reason", r.Reason)
		case r.Ready && h.said[r.Name]:
			delete(h.said, r.Name)
			h.log.InfoContext(ctx, "dependency is ready again", "dependency", r.Name)
		}
	}
}

// Routes adds /livez and /readyz to mux. /livez answers 200 while the process can answer at all. /readyz answers 200
// or 503, with each dependency by name in JSON; with ?verbose, as lines of text.
func (h *Health) Routes(mux *http.ServeMux) {
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) {
		writeBody(w, http.StatusOK, "text/plain; charset=utf-8", []byte("ok\n"))
	})
	mux.HandleFunc("GET /readyz", h.serveReady)
}

func (h *Health) serveReady(w http.ResponseWriter, r *http.Request) {
	ready, results := h.State(r.Context())
	status := http.StatusOK
	if !ready {
		status = http.StatusServiceUnavailable
	}
	if r.URL.Query().Has("verbose") {
		writeBody(w, status, "text/plain; charset=utf-8", verbose(ready, results))
		return
	}
	body, err := json.Marshal(struct {
		Ready  bool     `json:"ready"`
		Checks []Result `json:"checks"`
	}{ready, results})
	if err != nil {
		panic(err) // strings and booleans always marshal
	}
	writeBody(w, status, "application/json", append(body, '\n'))
}

func verbose(ready bool, results []Result) []byte {
	var b strings.Builder
	for _, r := range results {
		if r.Ready {
			fmt.Fprintf(&b, "[+] %s\n", r.Name)
		} else {
			fmt.Fprintf(&b, "[-] %s: %s\n", r.Name, strings.ReplaceAll(r.Reason, "\n", "\n    "))
		}
	}
	if ready {
		b.WriteString("ready\n")
	} else {
		b.WriteString("not ready\n")
	}
	return []byte(b.String())
}

// writeBody writes a whole answer; that the client has gone is its own affair.
func writeBody(w http.ResponseWriter, status int, contentType string, body []byte) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(body)
}
