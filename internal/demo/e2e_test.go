package demo_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/client"
	"github.com/mainstay-io/mainstay/internal/demo"
	"github.com/mainstay-io/mainstay/internal/testkit/proc"
)

const closing = "212 accepted, 212 ended: 187 confirmed, 24 cancelled, 1 needs you; 0 lost, 0 twice; owed: void 49.90 EUR"

var (
	serverLine = regexp.MustCompile(`^  server     process (\d+) on (http://\S+), ready after`)
	halfLine   = regexp.MustCompile(`^ +\d+\.\d s +\d\d+ accepted, `)
	killLine   = regexp.MustCompile(`^kill -9 (\d+) at the height of the load: (\d+) orders were in flight$`)
	againLine  = regexp.MustCompile(`^started again after \d+\.\d\d s as process (\d+), on the same directory$`)
)

// start runs `mainstay demo` with a folder of its own for temporary files, and settings that it must not follow.
func start(t *testing.T, args ...string) (p *proc.Process, temporary string) {
	t.Helper()
	temporary = t.TempDir()
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), proc.Build(t, "./cmd/mainstay"), append([]string{"demo", "--patience", "3m"}, args...)...)
	cmd.Env = append(os.Environ(), "TMPDIR="+temporary)
	if len(args) == 0 {
		cmd.Env = append(cmd.Env, "MAINSTAY_DATABASE=postgres://nobody@127.0.0.1:1/none", "MAINSTAY_CALL_TIMEOUT=x")
	}
	return proc.StartCommand(t, cmd), temporary
}

func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func wantCode(ctx context.Context, t *testing.T, p *proc.Process, want int) {
	t.Helper()
	if code, err := p.Wait(ctx); err != nil || code != want {
		t.Fatalf("exit code %d, error %v; want %d", code, err, want)
	}
}

func wantEmpty(t *testing.T, dir string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("it left %v behind, error %v", left, err)
	}
}

func wantLine(ctx context.Context, t *testing.T, p *proc.Process, re *regexp.Regexp) []string {
	t.Helper()
	match, err := p.WaitLine(ctx, re)
	if err != nil {
		t.Fatal(err)
	}
	return match
}

// wantGone wants that there is no such process any more.
func wantGone(t *testing.T, pid string) {
	t.Helper()
	n, err := strconv.Atoi(pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(n, 0); err != syscall.ESRCH {
		t.Errorf("process %d is still there: %v", n, err)
	}
}

func TestDemo_KillsItsServerAndTellsWhatBecameOfAll(t *testing.T) {
	t.Parallel()
	ctx := deadline(t)
	p, temporary := start(t)
	first := wantLine(ctx, t, p, serverLine)[1]
	kill := wantLine(ctx, t, p, killLine)
	second := wantLine(ctx, t, p, againLine)[1]
	wantCode(ctx, t, p, app.ExitOK)
	if kill[1] != first || second == first || kill[2] == "0" {
		t.Errorf("it killed %s of %s at %s in flight, and started %s", kill[1], first, kill[2], second)
	}
	wantGone(t, first)
	wantGone(t, second)
	wantEmpty(t, temporary)
	lines := strings.Split(strings.TrimSpace(p.Stdout()), "\n")
	if last := lines[len(lines)-1]; last != closing {
		t.Errorf("the last line is %q, want %q", last, closing)
	}
	for _, want := range []string{
		`\nmug +110 +110 confirmed +- `, `\ncapture refused +3 +3 cancelled +capture_rejected `, `\nnobody ships there +4 +4 cancelled +no_carrier `,
		`\nvoid refused +1 +1 needs you +no_carrier `, `\n212 of 212 keys were sent once more`, `\nverify: \d+ checks, 0 violations\n  ok `,
		`\n  ok +journal +424 answers to 212 keys`,
	} {
		if !regexp.MustCompile(want).MatchString(p.Stdout()) {
			t.Errorf("there is no %q in the output", want)
		}
	}
	if strings.Contains(p.Stdout(), "\x1b") || p.Stderr() != "" {
		t.Errorf("there are escape sequences, or something on standard error: %q", p.Stderr())
	}
}

func TestDemo_SaysThatItsServerWasStopped(t *testing.T) {
	t.Parallel()
	ctx := deadline(t)
	p, temporary := start(t)
	pid := wantLine(ctx, t, p, serverLine)[1]
	wantLine(ctx, t, p, halfLine)
	n, err := strconv.Atoi(pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(n, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	wantCode(ctx, t, p, app.ExitError)
	if want := "error: the demo's server (process " + pid + ") ended by itself: "; !strings.HasPrefix(p.Stderr(), want) || !strings.Contains(p.Stderr(), "hint: ") {
		t.Errorf("got %q, want %q", p.Stderr(), want)
	}
	wantEmpty(t, temporary)
}

func TestDemo_TidiesUpWhenInterrupted(t *testing.T) {
	t.Parallel()
	ctx := deadline(t)
	p, temporary := start(t)
	pid := wantLine(ctx, t, p, serverLine)[1]
	wantLine(ctx, t, p, halfLine)
	if err := p.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	wantCode(ctx, t, p, app.ExitInterrupted)
	if !strings.HasPrefix(p.Stderr(), "error: interrupted: ") {
		t.Errorf("got %q", p.Stderr())
	}
	wantGone(t, pid)
	wantEmpty(t, temporary)
}

// serve runs a server and waits until it is ready.
func serve(ctx context.Context, t *testing.T, dir string) (url, ops string) {
	t.Helper()
	p := proc.Start(t, proc.Build(t, "./cmd/mainstay"), "serve", "--data", dir, "--http", "127.0.0.1:0", "--ops", "127.0.0.1:0", "--call-timeout", "500ms")
	url = wantLine(ctx, t, p, regexp.MustCompile(`^  orders +(http://\S+)/v1/orders`))[1]
	ops = wantLine(ctx, t, p, regexp.MustCompile(`^  operator +(http://\S+)`))[1]
	return url, ops
}

func TestDemo_UsesARunningServer(t *testing.T) {
	t.Parallel()
	ctx := deadline(t)
	dir := t.TempDir()
	url, ops := serve(ctx, t, dir)
	p, temporary := start(t, "--url", url, "--ops-url", ops, "--data", dir, "-o", "json")
	wantCode(ctx, t, p, app.ExitOK)
	var got demo.Result
	if err := json.Unmarshal([]byte(p.Stdout()), &got); err != nil {
		t.Fatal(err)
	}
	if got.Accepted != 211 || got.Ended != 211 || got.Confirmed != 187 || got.Again != 211 || got.Kill != nil || len(got.Kinds) != 10 ||
		got.Verify == nil || got.Verify.Found() != 0 || got.Verify.Counts.Accepted != 211 || len(got.Mismatches) != 0 {
		t.Errorf("got %+v", got)
	}
	for _, want := range []string{"It is not killed", "capacity 0, it was unlimited", `-d '{"capacity":null}'`, "ended: 187 confirmed"} {
		if !strings.Contains(p.Stderr(), want) {
			t.Errorf("standard error does not say %q", want)
		}
	}
	wantEmpty(t, temporary)
}

func TestDemo_NamesWhatIsNotAsItShouldBe(t *testing.T) {
	t.Parallel()
	ctx := deadline(t)
	url, ops := serve(ctx, t, t.TempDir())
	wrong := t.TempDir() // where no database is
	p, _ := start(t, "--url", url, "--ops-url", ops, "--data", wrong)
	sku := wantLine(ctx, t, p, regexp.MustCompile(`^  stock      (demo-\S+-mug) 5000`))[1]
	wantLine(ctx, t, p, halfLine)
	c, err := client.New(client.Config{OpsURL: ops})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.PutStock(ctx, sku, 77777); err != nil { // units appear out of nowhere
		t.Fatal(err)
	}
	wantCode(ctx, t, p, app.ExitPartial)
	if want := fmt.Sprintf("wrong: %s there were 5000 units, and now there are 7", sku); !strings.Contains(p.Stderr(), want) {
		t.Errorf("got %q, want %q", p.Stderr(), want)
	}
	if !strings.Contains(p.Stdout(), "0 lost, 0 twice, 1 wrong\n") || !strings.Contains(p.Stdout(), "The database was not verified: verifying: there is no database "+wrong) {
		t.Errorf("the closing line is wrong, or it does not say that nothing was verified")
	}
}

func TestDemo_NoServerThere(t *testing.T) {
	t.Parallel()
	ctx := deadline(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := "http://" + l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	p, _ := start(t, "--url", nobody, "--ops-url", nobody)
	wantCode(ctx, t, p, app.ExitUnreachable)
	alone, _ := start(t, "--data", filepath.Join(t.TempDir(), "x"))
	wantCode(ctx, t, alone, app.ExitUsage)
}
