// Package proc builds and runs the project's own binaries in tests: start one, wait for the line that says it is
// ready, kill it at any moment, ask it to stop, read what it said.
//
// A process ends with its test at the latest, together with what it has started. A data race that the binary
// reports fails the test. Everything may be called from parallel tests, and the methods of one Process from several
// goroutines.
package proc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	// pipeDelay is how long the output is still read after the process has ended, if a child of it holds the pipe.
	pipeDelay = 5 * time.Second
	// shownOnFailure is how much of the output goes into a failed test's log.
	shownOnFailure = 16 << 10
)

// ErrEnded is matched by WaitLine's error when the process ended without having printed the line.
var ErrEnded = errors.New("the process has ended")

// Process is a running or ended process.
type Process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended and its output is complete

	mu      sync.Mutex
	out     output
	err     output
	changed chan struct{} // closed and replaced when a line was added
}

// Start runs the binary with the test's own environment and working directory.
func Start(t testing.TB, bin string, args ...string) *Process {
	t.Helper()
	return StartCommand(t, exec.CommandContext(context.WithoutCancel(t.Context()), bin, args...))
}

// StartCommand runs cmd, whose Env, Dir and Stdin are the caller's; the rest is set here. Make it with a context
// that outlives the test's, which is cancelled before the clean-up.
func StartCommand(t testing.TB, cmd *exec.Cmd) *Process {
	t.Helper()
	p := &Process{cmd: cmd, done: make(chan struct{}), changed: make(chan struct{})}
	cmd.Stdout = &writer{p: p, to: &p.out}
	cmd.Stderr = &writer{p: p, to: &p.err}
	cmd.SysProcAttr = attributes()
	cmd.WaitDelay = pipeDelay
	if err := cmd.Start(); err != nil {
		t.Fatalf("starting %s: %v", cmd, err)
	}
	go func() {
		defer close(p.done)
		_ = cmd.Wait() // the state holds the answer
	}()
	t.Cleanup(func() { p.end(t) })
	return p
}

// PID is the process's id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended and its output is complete.
func (p *Process) Done() <-chan struct{} { return p.done }

// WaitLine blocks until a line of standard output matches re, which may have been printed before the call, and
// answers with the match and its groups. The error matches ErrEnded when the process ended without such a line,
// else it is the context's; it shows what the process printed.
func (p *Process) WaitLine(ctx context.Context, re *regexp.Regexp) ([]string, error) {
	for seen := 0; ; {
		lines, changed := p.after(seen)
		for _, line := range lines {
			if match := re.FindStringSubmatch(line); match != nil {
				return match, nil
			}
		}
		seen += len(lines)
		select {
		case <-changed:
		case <-p.done:
			if rest, _ := p.after(seen); len(rest) == 0 {
				return nil, fmt.Errorf("waiting for %q: %w\n%s", re, ErrEnded, p.shown())
			}
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for %q: %w\n%s", re, context.Cause(ctx), p.shown())
		}
	}
}

// Kill ends the process as kill -9 does and returns when it is gone.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill() // it may have ended by itself
	<-p.done
}

// Term sends SIGTERM and returns at once; Wait tells what came of it.
func (p *Process) Term() error { return p.Signal(syscall.SIGTERM) }

// Signal sends a signal.
func (p *Process) Signal(sig syscall.Signal) error { return p.cmd.Process.Signal(sig) }

// Wait blocks until the process has ended and gives its exit code, -1 if a signal ended it.
func (p *Process) Wait(ctx context.Context) (code int, err error) {
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode(), nil
	case <-ctx.Done():
		return 0, fmt.Errorf("waiting for the process to end: %w\n%s", context.Cause(ctx), p.shown())
	}
}

// Stdout is what the process has printed so far.
func (p *Process) Stdout() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.all.String()
}

// Stderr is what the process has printed to its standard error so far.
func (p *Process) Stderr() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err.all.String()
}

// after gives the complete lines of standard output from the given one on, and a channel that is closed when there
// are more.
func (p *Process) after(seen int) ([]string, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.lines[seen:], p.changed
}

// end is the test's clean-up.
func (p *Process) end(t testing.TB) {
	_ = syscall.Kill(-p.PID(), syscall.SIGKILL) // the whole group; it may be gone
	<-p.done
	if strings.Contains(p.Stderr(), "WARNING: DATA RACE") {
		t.Errorf("%s has a data race", p.cmd.Path)
	}
	if t.Failed() {
		t.Logf("%s\n%s", p.cmd, p.shown())
	}
}

func (p *Process) shown() string {
	return fmt.Sprintf("standard output:\n%s\nstandard error:\n%s", tail(p.Stdout()), tail(p.Stderr()))
}

func tail(s string) string { return s[max(0, len(s)-shownOnFailure):] }

// output is what came out of one stream.
type output struct {
	all   strings.Builder
	part  []byte // the line that is not complete yet
	lines []string
}

// writer adds to one stream's output.
type writer struct {
	p  *Process
	to *output
}

func (w *writer) Write(b []byte) (int, error) {
	w.p.mu.Lock()
	defer w.p.mu.Unlock()
	w.to.all.Write(b)
	w.to.part = append(w.to.part, b...)
	for {
		line, rest, found := bytes.Cut(w.to.part, []byte("\n"))
		if !found {
			break
		}
		w.to.lines = append(w.to.lines, string(line))
		w.to.part = rest
	}
	close(w.p.changed)
	w.p.changed = make(chan struct{})
	return len(b), nil
}
