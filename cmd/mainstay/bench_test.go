package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/nats-io/nkeys"

	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/bench"
	"github.com/mainstay-io/mainstay/internal/process/benchmark"
	"github.com/mainstay-io/mainstay/internal/testkit/load"
	"github.com/mainstay-io/mainstay/internal/testkit/natstest"
	"github.com/mainstay-io/mainstay/internal/testkit/pgtest"
	"github.com/mainstay-io/mainstay/internal/testkit/proc"
)

func TestBench_GetsItsOptions(t *testing.T) {
	t.Parallel()
	var got benchmark.Options
	p := every()
	p.bench = func(_ context.Context, _ app.Env, o benchmark.Options) error { got = o; return nil }
	ignored := cmpopts.IgnoreFields(benchmark.Options{}, "Config")
	skus := []string{"mug-red", "mug-blue", "shirt-m"}
	seconds := func(n int) time.Duration { return time.Duration(n) * time.Second }
	for name, tt := range map[string]struct {
		args []string
		want benchmark.Options
	}{
		"defaults": {[]string{"order"}, benchmark.Options{
			Work: "order", SKUs: skus, Load: bench.Load{Clients: 64, Warmup: seconds(2), Duration: seconds(10), Patience: seconds(30)},
		}},
		"all of it": {
			[]string{
				"ingest", "--url", "http://h", "--ops-url", "http://a", "--ops-url", "http://b", "--database", "postgres://h/d", "--sku", "x,y",
				"--rate", "12.5", "--unfinished", "9", "--warmup", "0s", "--count", "100", "--patience", "1s", "-o", "json",
			},
			benchmark.Options{
				Work: "ingest", URL: "http://h", OpsURLs: []string{"http://a", "http://b"}, PostgresURL: "postgres://h/d", SKUs: []string{"x", "y"}, JSON: true,
				Load: bench.Load{Rate: 12.5, Clients: 64, Unfinished: 9, Duration: seconds(10), Count: 100, Patience: seconds(1)},
			},
		},
		"relay": {[]string{"relay", "--messages", "7", "--keys", "1"}, benchmark.Options{Work: "relay", Messages: 7, Warmup: 5000, Payload: 300, Keys: 1}},
		"hop": {
			[]string{"hop", "--single", "--send", "--broker", "database"},
			benchmark.Options{Work: "hop", Messages: 50_000, Warmup: 5000, Payload: 300, Keys: 1000, Single: true, Send: true},
		},
	} {
		if r := runWith(t, p, map[string]string{"MAINSTAY_DATABASE": "mysql://not/ours"}, append([]string{"bench"}, tt.args...)...); r.code != app.ExitOK {
			t.Errorf("%s: %+v", name, r)
		}
		if diff := cmp.Diff(tt.want, got, ignored); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	if got.Config.Broker != "database" && got.Work == "hop" {
		t.Errorf("configured as %+v", got.Config)
	}
}

func TestBench_RefusesWhatCannotBeMeasured(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"bench everything":                               `no command "everything"`,
		"bench order --rate -1":                          "--rate must be",
		"bench order --rate 5 --clients 3":               "two kinds of load",
		"bench order --clients 0":                        "--clients must be",
		"bench order --unfinished 100000":                "--unfinished must be",
		"bench order --duration 0s":                      "--duration and --patience",
		"bench order --duration 5s --count 5":            "both say when to end",
		"bench ingest --ops-url http://h":                "goes with --url",
		"bench ingest --url http://h --lanes 4":          "--lanes is about a system that is started",
		"bench order --url h":                            "is not the URL of a server",
		"bench order --database mysql://x":               "--database: must begin with",
		"bench order --database sqlite:mine.db":          "--database names a server here",
		"bench relay --broker database":                  "nothing to relay",
		"bench relay --messages 0":                       "--messages must be",
		"bench hop --payload 1":                          "--payload must be",
		"bench hop --keys 0":                             "--keys must be",
		"bench hop --rate 5":                             "unknown flag: --rate",
		"bench hop --broker nats://h --nats-sync always": "is about the embedded broker",
	} {
		p := every()
		p.bench = runBench
		got := runWith(t, p, nil, strings.Fields(args)...)
		if got.code != app.ExitUsage || got.stdout != "" || !strings.Contains(got.stderr, want) {
			t.Errorf("%s: %+v, want %q", args, got, want)
		}
	}
}

// startBench starts `mainstay bench` with a folder of its own for temporary files, and a setting that it must not
// follow.
func startBench(t *testing.T, args ...string) (p *proc.Process, temporary string) {
	t.Helper()
	temporary = t.TempDir()
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), proc.BuildPlain(t, "./cmd/mainstay"), append([]string{"bench"}, args...)...)
	cmd.Env = append(os.Environ(), "TMPDIR="+temporary, "MAINSTAY_DATABASE=postgres://nobody@127.0.0.1:1/none")
	return proc.StartCommand(t, cmd), temporary
}

// wantResult waits for the end as wantEnd does, and reads the result.
func wantResult(t *testing.T, p *proc.Process, temporary string, code int) bench.Result {
	t.Helper()
	wantEnd(t, p, temporary, code)
	var r bench.Result
	if err := json.Unmarshal([]byte(p.Stdout()), &r); err != nil {
		t.Fatalf("%v: %s", err, p.Stdout())
	}
	return r
}

// wantEnd waits for the end, which must be of this code and leave nothing behind.
func wantEnd(t *testing.T, p *proc.Process, temporary string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if got, err := p.Wait(ctx); err != nil || got != code {
		t.Fatalf("exit code %d, %v; want %d\n%s", got, err, code, p.Stderr())
	}
	if left, err := filepath.Glob(filepath.Join(temporary, "*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v (%v)", left, err)
	}
}

func TestBench_EndToEnd(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		args     []string
		postgres bool
	}{
		"order, waiting":             {[]string{"order", "--clients", "4"}, false},
		"order, posting on":          {[]string{"order", "--clients", "4", "--unfinished", "40", "--broker", "database"}, false},
		"order, at a rate, postgres": {[]string{"order", "--rate", "100", "--nats-sync", "lazy"}, true},
		"ingest, postgres":           {[]string{"ingest", "--clients", "4"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			args := append(tt.args, "--count", "60", "--warmup", "100ms", "-o", "json")
			if tt.postgres {
				args = append(args, "--database", pgtest.New(t))
			}
			p, temporary := startBench(t, args...)
			r := wantResult(t, p, temporary, app.ExitOK)
			if r.Latency == nil || r.Latency.Count != 60 || r.Operations < 60 || r.PerSecond <= 0 || r.Good != r.Begun || len(r.Faults) > 0 {
				t.Errorf("measured %+v", r)
			}
			for _, u := range r.Used {
				if !u.Known || u.CPUSeconds < 0 {
					t.Errorf("used %+v", u)
				}
			}
			if want := 2; len(r.Used) < want {
				t.Errorf("%d processes are known", len(r.Used))
			}
		})
	}
}

func TestBench_CtrlCPrintsWhatWasMeasured(t *testing.T) {
	t.Parallel()
	enough := make(chan struct{})
	var posted atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost && posted.Add(1) == 100 {
			close(enough)
		}
		_, _ = io.WriteString(w, `{"id":"x","status":"confirmed"}`)
	}))
	t.Cleanup(s.Close)
	p, temporary := startBench(t, "order", "--url", s.URL, "--duration", "1h", "--warmup", "0s", "--clients", "2", "-o", "json")
	select {
	case <-enough:
	case <-p.Done():
		t.Fatalf("it ended by itself: %s", p.Stderr())
	}
	if err := p.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if r := wantResult(t, p, temporary, app.ExitInterrupted); !r.Interrupted || r.Bad() != 0 || r.Operations < 98 || r.Latency == nil {
		t.Errorf("measured %+v", r)
	}
}

// Whatever a signal interrupts, the start of the measured system too, nothing is left behind.
func TestBench_CtrlCRemovesTheSystem(t *testing.T) {
	t.Parallel()
	p, temporary := startBench(t, "order", "--duration", "1h")
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for found := false; !found; {
		select {
		case <-tick.C:
			made, err := filepath.Glob(filepath.Join(temporary, "*", "data", "*.db"))
			found = err != nil || len(made) > 0
		case <-p.Done():
			t.Fatalf("it ended by itself: %s", p.Stderr())
		}
	}
	if err := p.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	wantEnd(t, p, temporary, app.ExitInterrupted)
}

// On a NATS server that asks who it is, the measured system has a stream while it runs, and never takes another system's.
func TestBench_OnANATSServer(t *testing.T) {
	t.Parallel()
	user := natstest.NewSeed(t, nkeys.CreateUser)
	url := natstest.New(t, `authorization { users: [ { nkey: `+user.Public+` } ] }`).URL()
	p, temporary := startBench(t, "relay", "--broker", url, "--nats-nkey", user.File, "--messages", "20", "--warmup", "0", "-o", "json")
	if r := wantResult(t, p, temporary, app.ExitOK); r.Good != 20 {
		t.Errorf("measured %+v", r)
	}
	args := []string{"order", "--broker", url, "--nats-nkey", user.File, "--clients", "2", "--count", "10", "--warmup", "0s", "-o", "json"}
	for range 2 {
		p, temporary := startBench(t, args...)
		if r := wantResult(t, p, temporary, app.ExitOK); r.Good != 10 {
			t.Errorf("measured %+v", r)
		}
	}
	s := startServer(t, proc.BuildPlain(t, "./cmd/mainstay"), "--data", t.TempDir(), "--broker", url, "--nats-nkey", user.File)
	p, temporary = startBench(t, args...)
	wantEnd(t, p, temporary, app.ExitConflict)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s.wantEnd(ctx, t, s.place(ctx, t, load.OrderOf("tok_ok", "mug-red")).ID, "confirmed")
}

// On a server with TLS that asks for a certificate and for credentials, the flags reach the part that is measured and
// the system that is started alike; without them nothing begins.
func TestBench_OnAServerWithTLS(t *testing.T) {
	t.Parallel()
	ca, operator := natstest.NewAuthority(t), natstest.NewOperator(t)
	cert, key := ca.Issue(t, "server")
	client, clientKey := ca.Issue(t, "client")
	srv := natstest.New(t, operator.Settings, fmt.Sprintf("tls { cert_file: %q, key_file: %q, ca_file: %q, verify: true }", cert, key, ca.File))
	access := []string{"--nats-tls-ca", ca.File, "--nats-tls-cert", client, "--nats-tls-key", clientKey, "--nats-creds", operator.Creds(t)}
	for work, count := range map[string][]string{
		"relay": {"--messages", "20", "--warmup", "0"}, "order": {"--clients", "2", "--count", "10", "--warmup", "0s"},
	} {
		args := slices.Concat([]string{work, "--broker", "tls://" + srv.Addr(), "-o", "json"}, count)
		p, temporary := startBench(t, append(slices.Clone(args), access...)...)
		if r := wantResult(t, p, temporary, app.ExitOK); r.Good == 0 || r.Good != r.Begun {
			t.Errorf("%s: measured %+v", work, r)
		}
		for _, missing := range [][]string{access[:2], access[:6], access[2:]} { // no certificate, no credentials, no authority
			p, temporary := startBench(t, append(slices.Clone(args), missing...)...)
			wantEnd(t, p, temporary, app.ExitUnreachable)
		}
	}
}

// A running system is measured through its addresses, and an order that cannot be confirmed is a fault.
func TestBench_ARunningSystem(t *testing.T) {
	t.Parallel()
	s := startServer(t, proc.BuildPlain(t, "./cmd/mainstay"), "--data", t.TempDir())
	args := []string{"order", "--url", s.URL, "--ops-url", s.OpsURL, "--clients", "2", "--count", "20", "--warmup", "0s", "-o", "json"}
	p, temporary := startBench(t, args...)
	if r := wantResult(t, p, temporary, app.ExitOK); r.Good != 20 || r.Operations != 20 || r.Used[1].RSSBytes == 0 {
		t.Errorf("measured %+v", r)
	}
	p, temporary = startBench(t, append(args, "--sku", "mug-red,none")...)
	r := wantResult(t, p, temporary, app.ExitPartial)
	if diff := cmp.Diff(map[string]int64{"cancelled (unknown_sku)": 10}, r.Faults); diff != "" || r.Good != 10 {
		t.Errorf("%s in %+v", diff, r)
	}
	if !strings.Contains(p.Stderr(), "10 of 20 orders did not end well") {
		t.Errorf("it said %s", p.Stderr())
	}
}
