package demo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/client"
	"github.com/mainstay-io/mainstay/internal/clock"
)

const (
	// startPatience is how long a server may take to be ready.
	startPatience = 20 * time.Second
	// askAgain is the pause between two questions whether a server is ready.
	askAgain = 10 * time.Millisecond
	// stopPatience is how long it may take to stop before it is killed.
	stopPatience = 8 * time.Second
	// lastWords is how many lines of the server's log an error shows.
	lastWords = 4
)

// server is a `mainstay serve` of the demo's own, in a directory and on ports that survive its restarts. Its methods
// are for one goroutine, but for pid.
type server struct {
	executable string
	dir        string
	http, ops  string
	died       func(cause error) // called when a process ends that was not asked to
	all        sync.WaitGroup
	kept       bool

	mu  sync.Mutex
	now *process // the running one, nil for none
}

// process is one run of the server.
type process struct {
	cmd      *exec.Cmd
	done     chan struct{}
	err      error // what Wait said; set before done is closed
	expected chan struct{}
}

// newServer prepares a server; nothing runs yet.
func newServer(executable string, died func(error)) (*server, error) {
	http, ops, err := freeAddresses()
	if err != nil {
		return nil, fmt.Errorf("looking for free ports: %w", err)
	}
	dir, err := os.MkdirTemp("", "mainstay-demo-")
	if err != nil {
		return nil, fmt.Errorf("making a directory for the demo: %w", err)
	}
	return &server{executable: executable, dir: dir, http: http, ops: ops, died: died}, nil
}

// freeAddresses are two that nobody listens on.
func freeAddresses() (http, ops string, err error) {
	a, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it does not block
	if err != nil {
		return "", "", err
	}
	b, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it does not block
	if err != nil {
		return "", "", errors.Join(err, a.Close())
	}
	return a.Addr().String(), b.Addr().String(), errors.Join(a.Close(), b.Close())
}

func (s *server) URL() string         { return "http://" + s.http }
func (s *server) OpsURL() string      { return "http://" + s.ops }
func (s *server) data() string        { return filepath.Join(s.dir, "data") }
func (s *server) journalFile() string { return filepath.Join(s.dir, "journal.jsonl") }
func (s *server) logFile() string     { return filepath.Join(s.dir, "server.log") }

// keep leaves the directory when the server is closed.
func (s *server) keep() { s.kept = true }

// pid is the running process's, 0 for none.
func (s *server) pid() int {
	if p := s.running(); p != nil {
		return p.cmd.Process.Pid
	}
	return 0
}

func (s *server) running() *process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

// start starts a process and waits until it is ready. It answers with how long that took.
func (s *server) start(ctx context.Context, c *client.Client) (time.Duration, error) {
	since := clock.Start()
	p, err := s.spawn(ctx)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, startPatience, fmt.Errorf("it was not ready after %v", startPatience))
	defer cancel()
	for {
		if r, err := c.Ready(ctx); err == nil && r.Ready {
			return since.Elapsed(), nil
		}
		select {
		case <-p.done:
			return 0, s.ended(p)
		case <-ctx.Done():
			return 0, fmt.Errorf("starting the server: %w%s", context.Cause(ctx), s.words())
		case <-time.After(askAgain):
		}
	}
}

func (s *server) spawn(ctx context.Context) (*process, error) {
	log, err := os.OpenFile(s.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the server's log: %w", err)
	}
	defer log.Close()                                                             // the process has its own
	cmd := exec.CommandContext(context.WithoutCancel(ctx), s.executable, "serve", //nolint:gosec // it is this program
		"--data", s.data(), "--http", s.http, "--ops", s.ops,
		"--call-timeout", "500ms", "--step-timeout", "1s", "--retry-budget", "3s", "--log-format", "text")
	cmd.Env = withoutSettings(os.Environ())
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = log, log, attributes()
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting the server: %w", err)
	}
	p := &process{cmd: cmd, done: make(chan struct{}), expected: make(chan struct{})}
	s.all.Go(func() { s.attend(p) })
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = p
	return p, nil
}

// attend waits for the end of a process.
func (s *server) attend(p *process) {
	p.err = p.cmd.Wait()
	close(p.done)
	select {
	case <-p.expected:
	default:
		s.died(s.ended(p))
	}
}

// ended is the error of a process that was not asked to end.
func (s *server) ended(p *process) error {
	return app.Errorf(app.ExitError, "Somebody has stopped it, or it could not go on; the demo is to be run again.",
		"the demo's server (process %d) ended by itself: %v%s", p.cmd.Process.Pid, p.cmd.ProcessState, s.words())
}

// words are the last lines that the server has written.
func (s *server) words() string {
	text, err := os.ReadFile(s.logFile())
	if err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	lines = lines[max(0, len(lines)-lastWords):]
	return "\n  it said: " + strings.Join(lines, "\n           ")
}

// withoutSettings keeps the settings of other servers away: the demo must not touch their databases.
func withoutSettings(environ []string) []string {
	var kept []string
	for _, v := range environ {
		if !strings.HasPrefix(v, "MAINSTAY_") {
			kept = append(kept, v)
		}
	}
	return kept
}

// killHard ends the process as kill -9 does, and returns when it is gone.
func (s *server) killHard() {
	p := s.forget()
	if p == nil {
		return
	}
	_ = p.cmd.Process.Kill() // it may have ended by itself
	<-p.done
}

// terminate asks the process to stop and waits. The error says that it did not stop as it should.
func (s *server) terminate() error {
	p := s.forget()
	if p == nil {
		return nil
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended by itself
	late := time.NewTimer(stopPatience)
	defer late.Stop()
	select {
	case <-p.done:
	case <-late.C:
		_ = p.cmd.Process.Kill() // the wait tells
		<-p.done
		return fmt.Errorf("stopping the server: it was still there %v after SIGTERM%s", stopPatience, s.words())
	}
	if p.err != nil {
		return fmt.Errorf("stopping the server: %w%s", p.err, s.words())
	}
	return nil
}

// forget takes the running process, whose end is expected from now on.
func (s *server) forget() *process {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.now
	s.now = nil
	if p != nil {
		close(p.expected)
	}
	return p
}

// close stops what runs, waits for it, and removes the directory unless it is kept.
func (s *server) close() error {
	err := s.terminate()
	s.all.Wait()
	if s.kept {
		return err
	}
	return errors.Join(err, os.RemoveAll(s.dir))
}
