package proc_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mainstay-io/mainstay/internal/testkit/proc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// echo is a command of this module that tests can talk to.
const echo = "./internal/testkit/proc/testdata/echo"

func TestBuild_GivesTheSameBinaryEachTime(t *testing.T) {
	t.Parallel()
	first, second := proc.Build(t, echo), proc.Build(t, echo)
	if first != second || filepath.Base(first) != "echo" {
		t.Errorf("built %s and %s, want one binary named echo", first, second)
	}
}

func TestWaitLine_FindsWhatWasAndWhatWillBePrinted(t *testing.T) {
	t.Parallel()
	p := proc.Start(t, proc.Build(t, echo), "ready on http://127.0.0.1:8080", "second")
	for range 2 {
		match, err := p.WaitLine(deadline(t), regexp.MustCompile(`ready on (\S+)`))
		if err != nil {
			t.Fatal(err)
		}
		if match[1] != "http://127.0.0.1:8080" {
			t.Errorf("the address is %q", match[1])
		}
	}
	if _, err := p.WaitLine(deadline(t), regexp.MustCompile("^second$")); err != nil {
		t.Error(err)
	}
}

func TestWaitLine_SaysThatTheProcessEnded(t *testing.T) {
	t.Parallel()
	p := proc.Start(t, proc.Build(t, echo), "exit", "3")
	_, err := p.WaitLine(deadline(t), regexp.MustCompile("never"))
	if !errors.Is(err, proc.ErrEnded) || !strings.Contains(err.Error(), "going down") {
		t.Errorf("got %v, want ErrEnded with the output", err)
	}
	if code, err := p.Wait(deadline(t)); code != 3 || err != nil {
		t.Errorf("exit code %d, %v, want 3", code, err)
	}
}

func TestWaitLine_EndsWithItsContext(t *testing.T) {
	t.Parallel()
	p := proc.Start(t, proc.Build(t, echo), "only this")
	reason := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(reason)
	if _, err := p.WaitLine(ctx, regexp.MustCompile("never")); !errors.Is(err, reason) {
		t.Errorf("got %v, want the context's cause", err)
	}
}

func TestTerm_LetsTheProcessEndByItself(t *testing.T) {
	t.Parallel()
	p := proc.Start(t, proc.Build(t, echo), "up")
	if _, err := p.WaitLine(deadline(t), regexp.MustCompile("^up$")); err != nil {
		t.Fatal(err)
	}
	if err := p.Term(); err != nil {
		t.Fatal(err)
	}
	if code, err := p.Wait(deadline(t)); code != 0 || err != nil {
		t.Errorf("exit code %d, %v, want 0", code, err)
	}
	if !strings.Contains(p.Stdout(), "bye\n") || !strings.Contains(p.Stderr(), "stopping\n") {
		t.Errorf("output is incomplete: %q, %q", p.Stdout(), p.Stderr())
	}
}

func TestKill_LetsTheProcessSayNothing(t *testing.T) {
	t.Parallel()
	p := proc.Start(t, proc.Build(t, echo), "up")
	if _, err := p.WaitLine(deadline(t), regexp.MustCompile("^up$")); err != nil {
		t.Fatal(err)
	}
	p.Kill()
	if code, err := p.Wait(deadline(t)); code != -1 || err != nil {
		t.Errorf("exit code %d, %v, want -1", code, err)
	}
	if strings.Contains(p.Stdout(), "bye") {
		t.Error("the process could say good-bye")
	}
}

func TestStart_EndsWithTheTestAndTakesItsChildrenAlong(t *testing.T) {
	t.Parallel()
	var child int
	t.Run("inner", func(t *testing.T) {
		p := proc.Start(t, "/bin/sh", "-c", "sleep 600 & echo $!; wait")
		match, err := p.WaitLine(deadline(t), regexp.MustCompile(`^(\d+)$`))
		if err != nil {
			t.Fatal(err)
		}
		child, err = strconv.Atoi(match[1])
		if err != nil {
			t.Fatal(err)
		}
	})
	waitEnded(t, child)
}

// waitEnded waits until there is no such process, or only what its parent has not asked about yet.
func waitEnded(t *testing.T, pid int) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for ctx := deadline(t); ; {
		status, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
		if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) || err == nil && strings.Contains(string(status), "(zombie)") {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("process %d still runs", pid)
		}
	}
}

func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}
