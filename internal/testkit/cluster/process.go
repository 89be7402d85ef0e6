package cluster

import (
	"bufio"
	"context"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mainstay-io/mainstay/internal/client"
	"github.com/mainstay-io/mainstay/internal/testkit/proc"
)

const (
	// readyWithin bounds a start, stopWithin a stop.
	readyWithin = time.Minute
	stopWithin  = 30 * time.Second
)

// Process is one process of a cluster, running or not. It is used by one goroutine at a time.
type Process struct {
	Name, Kind string
	// Bin and Args start it; they may be changed while it does not run.
	Bin  string
	Args []string
	// OpsURL has probes and metrics, URL the ingest API of an ingest process; both stay the same over restarts.
	OpsURL, URL string
	// Client repeats blindly; nil but for ingest processes.
	Client *client.Client
	// Running is the process as it runs, or as it last ran.
	Running *proc.Process

	t testing.TB
}

// Start starts a process that does not run and returns when it is ready.
func (p *Process) Start() {
	p.t.Helper()
	p.launch()
	p.settle()
}

func (p *Process) launch() {
	p.t.Helper()
	p.Running = proc.Start(p.t, p.Bin, p.Args...)
}

// Launch starts it without waiting for anything.
func (p *Process) Launch() { p.t.Helper(); p.launch() }

func (p *Process) settle() {
	ctx, cancel := context.WithTimeout(context.Background(), readyWithin)
	defer cancel()
	if err := p.WaitReady(ctx); err != nil {
		p.t.Errorf("%s is not ready: %v\n%s%s", p.Name, err, p.Running.Stdout(), p.Running.Stderr())
	}
}

// WaitReady blocks until /readyz answers 200.
func (p *Process) WaitReady(ctx context.Context) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if status, _ := p.get(ctx, "/readyz"); status == http.StatusOK {
			return nil
		}
		select {
		case <-tick.C:
		case <-p.Running.Done():
			return proc.ErrEnded
		case <-ctx.Done():
			_, said := p.get(context.WithoutCancel(ctx), "/readyz?verbose")
			return &notReadyError{said, context.Cause(ctx)}
		}
	}
}

// Readiness is what /readyz answers, with each dependency by name; status 0 when there was no answer.
func (p *Process) Readiness(ctx context.Context) (status int, body string) {
	return p.get(ctx, "/readyz?verbose")
}

type notReadyError struct {
	said string
	err  error
}

func (e *notReadyError) Error() string { return e.err.Error() + ": " + e.said }
func (e *notReadyError) Unwrap() error { return e.err }

// get reads a page of the ops address; status 0 when there was no answer.
func (p *Process) get(ctx context.Context, path string) (status int, body string) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.OpsURL+path, nil)
	if err != nil {
		return 0, err.Error()
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close() // it is only read
	var b strings.Builder
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		b.WriteString(lines.Text() + "\n")
	}
	return resp.StatusCode, b.String()
}

// Counters reads the metrics whose names begin with prefix, by their whole name with labels; none when it does not
// answer.
func (p *Process) Counters(ctx context.Context, prefix string) map[string]float64 {
	_, body := p.get(ctx, "/metrics")
	out := map[string]float64{}
	for line := range strings.Lines(body) {
		if !strings.HasPrefix(line, prefix) {
			continue
		}
		at := strings.LastIndex(strings.TrimSpace(line), " ")
		if v, err := strconv.ParseFloat(strings.TrimSpace(line)[max(at, 0):][1:], 64); at > 0 && err == nil {
			out[line[:at]] = v
		}
	}
	return out
}

// Kill ends the process as kill -9 does.
func (p *Process) Kill() { p.Running.Kill() }

// Stop ends the process with SIGTERM and wants exit code 0.
func (p *Process) Stop() {
	p.t.Helper()
	if err := p.Running.Term(); err != nil {
		p.t.Errorf("stopping %s: %v", p.Name, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopWithin)
	defer cancel()
	if code, err := p.Running.Wait(ctx); err != nil || code != 0 {
		p.t.Errorf("%s ended with code %d, error %v\n%s", p.Name, code, err, p.Running.Stderr())
	}
}

// Pause stops the process in its tracks, as SIGSTOP does; its sessions stay open.
func (p *Process) Pause() { p.signal(syscall.SIGSTOP) }

// Resume lets a paused process go on.
func (p *Process) Resume() { p.signal(syscall.SIGCONT) }

func (p *Process) signal(sig syscall.Signal) {
	p.t.Helper()
	if err := p.Running.Signal(sig); err != nil {
		p.t.Errorf("sending %v to %s: %v", sig, p.Name, err)
	}
}
