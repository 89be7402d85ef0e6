package app_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mainstay-io/mainstay/internal/app"
)

// program runs a process's command line, and gives what it was configured with, if it got as far.
func program(t *testing.T, process string, env map[string]string, args ...string) (cfg *app.Config, stdout string, err error) {
	t.Helper()
	var out bytes.Buffer
	p := app.Program{
		Process: process, About: "Do a thing.", Examples: "  " + process + " --ops :0",
		Serve: func(_ context.Context, _ app.Env, c app.Config) error { cfg = &c; return nil },
	}
	err = p.Run(t.Context(), app.Env{
		Args: args, Getenv: func(name string) string { return env[name] }, Stdout: &out, Stderr: io.Discard,
		IsTerminal: func(io.Writer) bool { return false },
	})
	return cfg, out.String(), err
}

func TestProgram_TakesOnlyItsOwnSettings(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "shared.yaml")
	if err := os.WriteFile(file, []byte("broker: nats://file:4222\nnats_sync: always\ncall_timeout: 1s\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{"MAINSTAY_DATABASE": "postgres://db/mainstay", "MAINSTAY_CONFIG": file, "MAINSTAY_HTTP": "0.0.0.0:1"}
	cfg, _, err := program(t, app.Worker, env, "--call-timeout", "3s")
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Broker != "nats://file:4222" || cfg.Database != "postgres://db/mainstay" || cfg.CallTimeout.Seconds() != 3 {
		t.Errorf("got broker %s, database %s, call timeout %v", cfg.Broker, cfg.Database, cfg.CallTimeout)
	}
	if cfg.NATSSync != "lazy" || cfg.HTTP != "127.0.0.1:8080" {
		t.Errorf("took what is not its own: %s, %s", cfg.NATSSync, cfg.HTTP)
	}
	for _, flag := range []string{"--http", "--data", "--lanes"} {
		if _, _, err := program(t, app.Worker, env, flag, "1"); app.ExitCode(t.Context(), err) != app.ExitUsage || !strings.Contains(err.Error(), "unknown flag: "+flag) {
			t.Errorf("%s: got %v", flag, err)
		}
	}
}

func TestProgram_SaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	const db, nats = "--database=postgres://db/mainstay", "--broker=nats://nats:4222"
	for name, c := range map[string]struct {
		process string
		args    []string
		want    []string
	}{
		"no database":           {app.Ingest, nil, []string{"--database is missing", "MAINSTAY_DATABASE"}},
		"neither":               {app.Worker, nil, []string{"2 mistakes", "--database is missing", "--broker is missing"}},
		"no broker":             {app.Outbox, []string{db}, []string{"--broker is missing", "nats://HOST:4222"}},
		"a file":                {app.Ingest, []string{"--database=sqlite:x.db"}, []string{"--database: a SQLite file belongs to one process"}},
		"memory":                {app.Worker, []string{db, "--broker=memory"}, []string{"--broker: memory is not shared"}},
		"another database":      {app.Ingest, []string{"--database=mysql://db/x"}, []string{"--database: must begin with one of postgres, postgresql$"}},
		"another broker":        {app.Outbox, []string{db, "--broker=kafka://h:9092"}, []string{"--broker: must begin with one of nats, tls, database$"}},
		"an open address":       {app.Ingest, []string{db, "--http=0.0.0.0:8080"}, []string{"anyone could place orders; give --allow-unauthenticated"}},
		"an open desk":          {app.Ingest, []string{db, "--ops=0.0.0.0:8081"}, []string{"anyone could change stock and carriers;"}},
		"open probes":           {app.Worker, []string{db, nats, "--ops=:8081"}, []string{"anyone could read its metrics; give --allow-unauthenticated"}},
		"an argument":           {app.Ingest, []string{db, "serve"}, []string{`"serve" is one argument too many`}},
		"one address for both":  {app.Ingest, []string{db, "--http=127.0.0.1:1", "--ops=127.0.0.1:1"}, []string{"must differ from http"}},
		"an unknown file":       {app.Worker, []string{db, nats, "--config=/does/not/exist"}, []string{"there is no such file"}},
		"an unknown consumer":   {app.Worker, []string{db, nats, "--consume=orders,paiment"}, []string{"orders, inventory, payment, logistics", `did you mean "payment"`}},
		"access without server": {app.Worker, []string{db, "--broker=database", "--nats-creds=/does/not/exist", "--nats-replicas=3"}, []string{"3 mistakes", "--nats-creds: is about a NATS server", "--nats-creds: /does/not/exist: there is no such file", "--nats-replicas: is about"}},
		"two identities":        {app.Outbox, []string{db, nats, "--nats-creds=program_test.go", "--nats-nkey=program_test.go"}, []string{"exclude each other"}},
		"half a pair":           {app.Outbox, []string{db, nats, "--nats-tls-cert=program_test.go"}, []string{"--nats-tls-cert: needs nats_tls_key"}},
		"the other half":        {app.Outbox, []string{db, nats, "--nats-tls-key=program_test.go"}, []string{"--nats-tls-key: needs nats_tls_cert"}},
		"a directory":           {app.Outbox, []string{db, nats, "--nats-tls-ca=."}, []string{"--nats-tls-ca: .: it is a directory"}},
		"too many replicas":     {app.Outbox, []string{db, nats, "--nats-replicas=6"}, []string{"must be between 1 and 5"}},
		"a flag of its sibling": {app.Outbox, []string{db, nats, "--http=127.0.0.1:1"}, []string{"unknown flag: --http"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg, _, err := program(t, c.process, nil, c.args...)
			if cfg != nil || app.ExitCode(t.Context(), err) != app.ExitUsage || !strings.Contains(app.HintOf(err), c.process+" --help") {
				t.Fatalf("got %v, hint %q", err, app.HintOf(err))
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error()+"$", want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
		})
	}
	for process, args := range map[string][]string{app.Ingest: {db}, app.Outbox: {db, nats}, app.Worker: {db, "--broker=database"}} {
		if cfg, _, err := program(t, process, nil, args...); err != nil || cfg == nil {
			t.Errorf("%s %v: %v", process, args, err)
		}
	}
}

func TestProgram_HelpAndVersion(t *testing.T) {
	t.Parallel()
	for _, flag := range []string{"--help", "-h"} {
		_, out, err := program(t, app.Outbox, nil, flag)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range app.Settings() {
			if has := strings.Contains(out, "--"+s.Flag()+" "); has != s.TakenBy(app.Outbox) {
				t.Errorf("%s: the help has --%s: %v", flag, s.Flag(), has)
			}
		}
		for _, want := range []string{"Do a thing.", "outbox --ops :0", "Exit codes:", "\n  3    not found", "\n  130  interrupted", "MAINSTAY_BROKER"} {
			if !strings.Contains(out, want) {
				t.Errorf("the help does not have %q", want)
			}
		}
	}
	if _, out, err := program(t, app.Outbox, nil, "--version"); err != nil || !strings.HasPrefix(out, "outbox ") {
		t.Errorf("got %q, %v", out, err)
	}
}

// A process answers for its own health, as the settings say where it is, without any that only its work needs.
func TestProgram_AsksWhetherItIsReady(t *testing.T) {
	t.Parallel()
	serve := func(broker error) (addr string) {
		health := app.NewHealth(slog.New(slog.DiscardHandler))
		health.Check("broker", func(context.Context) error { return broker })
		health.Start()
		mux := http.NewServeMux()
		health.Routes(mux)
		s := httptest.NewServer(mux)
		t.Cleanup(s.Close)
		return s.Listener.Addr().String()
	}
	_, port, _ := strings.Cut(serve(errors.New("not connected")), ":")
	for name, tt := range map[string]struct {
		env  map[string]string
		args []string
		code int
		out  string
		err  string
	}{
		"by a flag":     {nil, []string{"--ops", "127.0.0.1:" + port}, app.ExitError, "[-] broker: not connected\nnot ready\n", "is not ready"},
		"by a variable": {map[string]string{"MAINSTAY_OPS": "0.0.0.0:" + port}, nil, app.ExitError, "[-] broker: not connected\nnot ready\n", "127.0.0.1:" + port},
		"of nobody":     {nil, []string{"--ops", ":" + port}, app.ExitError, "[-] broker: not connected\nnot ready\n", "127.0.0.1:" + port},
		"where none is": {nil, []string{"--ops", "127.0.0.1:1"}, app.ExitUnreachable, "", "asking http://127.0.0.1:1: connect: connection refused"},
		"a wrong flag":  {nil, []string{"--http", "127.0.0.1:1"}, app.ExitUsage, "", "takes --ops and --config only"},
		"an argument":   {nil, []string{"now"}, app.ExitUsage, "", "takes --ops and --config only"},
		"a wrong value": {nil, []string{"--ops", "8081"}, app.ExitUsage, "", "--ops: must be HOST:PORT"},
		"a stray setting": {
			map[string]string{"MAINSTAY_DATABASE": "mysql://x", "MAINSTAY_OPS": "127.0.0.1:" + port}, nil, app.ExitError, "[-] broker: not connected\nnot ready\n", "is not ready",
		},
	} {
		cfg, out, err := program(t, app.Outbox, tt.env, append([]string{"ready"}, tt.args...)...)
		if cfg != nil || app.ExitCode(t.Context(), err) != tt.code || out != tt.out || err == nil || !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: %v, printed %q", name, err, out)
		}
	}
	if _, out, err := program(t, app.Outbox, nil, "ready", "--help"); err != nil || !strings.Contains(out, "outbox ready [--ops ADDRESS]") {
		t.Errorf("its help: %v, %s", err, out)
	}
	if _, out, err := program(t, app.Outbox, nil, "ready", "--ops", serve(nil)); err != nil || out != "[+] broker\nready\n" {
		t.Errorf("where it is ready: %v, printed %q", err, out)
	}
}
