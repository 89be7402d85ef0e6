package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"go.uber.org/goleak"

	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/migrate"
	"github.com/mainstay-io/mainstay/internal/problem"
	"github.com/mainstay-io/mainstay/internal/process/benchmark"
	"github.com/mainstay-io/mainstay/internal/retention"
	"github.com/mainstay-io/mainstay/migrations"
)

// With -update golden files are written instead of compared.
var update = flag.Bool("update", false, "write the golden files")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// every offers all commands, and does nothing.
func every() parts {
	applied := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	return parts{
		serve:  func(context.Context, app.Env, app.Config) error { return nil },
		demo:   func(context.Context, app.Env, demoOptions) error { return nil },
		verify: func(context.Context, app.Env, app.Config, verifyOptions) error { return nil },
		bench:  func(context.Context, app.Env, benchmark.Options) error { return nil },
		clean: func(context.Context, app.Config, bool) (retention.Report, error) {
			return retention.Report{
				Removed: map[string]int64{"saga": 3, "outbox": 1200},
				Holds:   []retention.Hold{{Reason: retention.HeldByConsumer, Name: "reports", For: time.Hour}},
			}, nil
		},
		migrateUp: func(context.Context, app.Config, migrate.Runner) ([]migrate.Status, error) {
			return nil, app.Errorf(app.ExitConflict, "Use a newer program.", "the schema is newer than this program")
		},
		migrateStatus: func(context.Context, app.Config) ([]migrate.Status, error) {
			return []migrate.Status{
				status(1, "0001_outbox.sql", migrations.Expand, applied), status(2, "0002_more.sql", migrations.Expand, time.Time{}),
				status(3, "0003_less.sql", migrations.Contract, time.Time{}),
			}, nil
		},
		migrateContract: func(context.Context, app.Config, migrate.Runner) ([]migrate.Status, error) { return nil, nil },
	}
}

func status(version int64, name string, kind migrations.Kind, applied time.Time) migrate.Status {
	return migrate.Status{Migration: migrations.Migration{Version: version, Name: name, Kind: kind}, AppliedAt: applied}
}

// result is how a command ended.
type result struct {
	code           int
	stdout, stderr string
}

func runWith(t *testing.T, p parts, vars map[string]string, args ...string) result {
	t.Helper()
	var out, errs strings.Builder
	env := app.Env{
		Args: args, Getenv: func(k string) string { return vars[k] },
		Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs,
		IsTerminal: func(io.Writer) bool { return false },
	}
	code := app.MainIn(t.Context(), env, func(ctx context.Context, env app.Env) error { return execute(ctx, env, p) })
	return result{code, out.String(), errs.String()}
}

func cli(t *testing.T, args ...string) result { t.Helper(); return runWith(t, every(), nil, args...) }

// walk visits every command of ours.
func walk(cmd *cobra.Command, visit func(*cobra.Command)) {
	visit(cmd)
	for _, c := range cmd.Commands() {
		if c.Name() != "help" && c.Name() != "completion" {
			walk(c, visit)
		}
	}
}

func TestCommands_AreDocumented(t *testing.T) {
	t.Parallel()
	env := app.Env{Getenv: func(string) string { return "" }}
	count := 0
	walk(newRoot(env, every()), func(cmd *cobra.Command) {
		path := cmd.CommandPath()
		count++
		if cmd.Short == "" || cmd.Long == "" || strings.HasSuffix(cmd.Short, ".") {
			t.Errorf("%s: it needs a short title without a full stop, and a long text", path)
		}
		if cmd.Annotations[exits] == "" {
			t.Errorf("%s does not say how it ends", path)
		}
		for flag, code := range map[string]string{"database": "130  interrupted", "data": "3    not found"} { // it waits, and there may be none
			if cmd.Flags().Lookup(flag) != nil && path != "mainstay config print" && !strings.Contains(cmd.Annotations[exits], code) {
				t.Errorf("%s opens a database, and does not say that it may end with %s", path, code)
			}
		}
		if !cmd.HasSubCommands() && !strings.Contains(cmd.Example, "  "+path) {
			t.Errorf("%s has no example", path)
		}
		if isData := !cmd.HasSubCommands() && cmd.Name() != "serve"; isData != (cmd.Flags().ShorthandLookup("o") != nil) {
			t.Errorf("%s: -o is for the commands whose result is data, and for all of them", path)
		}
		args := append(strings.Fields(path)[1:], "--help")
		got := cli(t, args...)
		if got.code != app.ExitOK || got.stderr != "" || !strings.Contains(got.stdout, "Exit codes:\n  0 ") {
			t.Errorf("%s --help: %+v", path, got)
		}
		for line := range strings.Lines(got.stdout) {
			if len(line) > 160 {
				t.Errorf("%s --help has a line of %d characters: %s", path, len(line), line)
			}
		}
	})
	if count != 19 {
		t.Errorf("walked over %d commands", count)
	}
}

func TestRoot_WelcomesAStranger(t *testing.T) {
	t.Parallel()
	got := cli(t)
	path := filepath.Join("testdata", "welcome.golden")
	if *update {
		if err := os.WriteFile(path, []byte(got.stdout), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(result{0, string(want), ""}, got, cmp.AllowUnexported(result{})); diff != "" {
		t.Error(diff)
	}
}

func TestRoot_OffersOnlyWhatItHas(t *testing.T) {
	t.Parallel()
	got := runWith(t, parts{}, nil, "serve")
	if got.code != app.ExitUsage || !strings.Contains(got.stderr, `no command "serve"`) {
		t.Errorf("%+v", got)
	}
}

func TestUsage_MistakesAreNamed(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		args []string
		want string
	}{
		"unknown command":   {[]string{"vreify"}, `mainstay has no command "vreify"; did you mean "verify"?`},
		"unknown below":     {[]string{"migrate", "sideways"}, `mainstay migrate has no command "sideways"`},
		"missing argument":  {[]string{"order", "get"}, "the ID of an order is missing"},
		"too many":          {[]string{"serve", "now"}, `"now" is one argument too many`},
		"unknown flag":      {[]string{"serve", "--port", "1"}, "unknown flag: --port"},
		"misspelled flag":   {[]string{"serve", "--databse", "x"}, `unknown flag: --databse; did you mean "--database"?`},
		"no such form":      {[]string{"version", "-o", "yaml"}, "must be table or json"},
		"configuration":     {[]string{"serve", "--in-flight", "x"}, "--in-flight: must be a whole number"},
		"two of a kind":     {[]string{"verify", "--database", "mysql://x"}, "--database: must begin with"},
		"no URL":            {[]string{"order", "get", "x", "--url", "here"}, `"here" is not the URL of a server`},
		"one URL of two":    {[]string{"demo", "--url", "http://h"}, "ops-url"},
		"not a duration":    {[]string{"order", "get", "x", "--wait", "long"}, "--wait"},
		"status and a lane": {[]string{"migrate", "status", "--lanes", "3"}, "unknown flag: --lanes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := cli(t, tt.args...)
			if got.code != app.ExitUsage || got.stdout != "" || !strings.Contains(got.stderr, tt.want) {
				t.Errorf("%+v, want %q", got, tt.want)
			}
		})
	}
}

func TestErrors_AreProblemsInJSON(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"order", "get", "-o", "json"},
		{"version", "--nonsense", "--output=json"},
		{"migrate", "up", "-ojson"},
	} {
		got := cli(t, args...)
		var doc map[string]any
		if err := json.Unmarshal([]byte(got.stderr), &doc); err != nil || got.stdout != "" {
			t.Errorf("%v: %v: %+v", args, err, got)
			continue
		}
		if doc["exit_code"] != float64(got.code) || doc["detail"] == "" || doc["hint"] == nil || doc["title"] == "" || doc["status"] != nil {
			t.Errorf("%v: %v", args, doc)
		}
	}
	if got := cli(t, "order", "get", "--", "-o", "json"); strings.HasPrefix(got.stderr, "{") {
		t.Error("arguments after -- are no flags")
	}
}

func TestServe_GetsTheConfiguration(t *testing.T) {
	t.Parallel()
	var cfg app.Config
	p := every()
	p.serve = func(_ context.Context, _ app.Env, c app.Config) error { cfg = c; return errors.New("disk full") }
	got := runWith(t, p, map[string]string{"MAINSTAY_OPS": "127.0.0.1:7"}, "serve", "--http", "127.0.0.1:6", "--data=/x")
	if got.code != app.ExitError || got.stderr != "error: disk full\n" {
		t.Errorf("%+v", got)
	}
	if cfg.HTTP != "127.0.0.1:6" || cfg.Ops != "127.0.0.1:7" || cfg.Data != "/x" || cfg.Origin("http").Kind != "flag" {
		t.Errorf("configured as %+v", cfg)
	}
}

func TestVerifyAndDemo_GetTheirOptions(t *testing.T) {
	t.Parallel()
	var v verifyOptions
	var d demoOptions
	p := every()
	p.verify = func(_ context.Context, _ app.Env, _ app.Config, o verifyOptions) error { v = o; return nil }
	p.demo = func(_ context.Context, _ app.Env, o demoOptions) error { d = o; return nil }
	runWith(t, p, nil, "verify", "--journal", "j.jsonl", "-o", "json")
	runWith(t, p, nil, "demo", "--url", "http://a", "--ops-url", "http://b")
	if !reflect.DeepEqual(v, verifyOptions{Journal: "j.jsonl", Output: "json"}) {
		t.Errorf("verify got %+v", v)
	}
	if d != (demoOptions{URL: "http://a", OpsURL: "http://b", Patience: 40 * time.Second, Output: "table"}) {
		t.Errorf("demo got %+v", d)
	}
}

func TestMigrate_ListsWhatWasDone(t *testing.T) {
	t.Parallel()
	table := cli(t, "migrate", "status")
	want := `VERSION  NAME             KIND      APPLIED
1        0001_outbox.sql  expand    2026-01-02T03:04:05Z
2        0002_more.sql    expand    missing
3        0003_less.sql    contract  missing
` + "1 missing: run `mainstay migrate up` with the same settings\n"
	if table.stdout != want {
		t.Errorf("got %q, want %q", table.stdout, want)
	}
	var list []migration
	if err := json.Unmarshal([]byte(cli(t, "migrate", "status", "-o", "json").stdout), &list); err != nil {
		t.Fatal(err)
	}
	if len(list) != 3 || list[0].AppliedAt == nil || list[1].AppliedAt != nil {
		t.Errorf("got %+v", list)
	}
	if got := cli(t, "migrate", "up"); got.code != app.ExitConflict || !strings.Contains(got.stderr, "hint: Use a newer program.") {
		t.Errorf("%+v", got)
	}
}

func TestMigrate_SaysThatThereIsNothingToDo(t *testing.T) {
	t.Parallel()
	for want, args := range map[string][]string{
		"nothing to do: the schema is up to date\n": nil, "[]\n": {"-o", "json"},
	} {
		p := every()
		p.migrateUp = func(context.Context, app.Config, migrate.Runner) ([]migrate.Status, error) { return nil, nil }
		if got := runWith(t, p, nil, append([]string{"migrate", "up"}, args...)...); got.stdout != want || got.code != app.ExitOK {
			t.Errorf("%v: %+v", args, got)
		}
	}
}

func TestConfigPrint_ShowsOriginsAndNoSecrets(t *testing.T) {
	t.Parallel()
	vars := map[string]string{"MAINSTAY_DATABASE": "postgres://u:geheim@h/d"}
	for _, form := range []string{"table", "json"} {
		got := runWith(t, every(), vars, "config", "print", "-o", form)
		if got.code != 0 || strings.Contains(got.stdout, "geheim") || !strings.Contains(got.stdout, "environment MAINSTAY_DATABASE") {
			t.Errorf("%+v", got)
		}
	}
	var views []settingView
	if err := json.Unmarshal([]byte(cli(t, "config", "print", "-o", "json").stdout), &views); err != nil || len(views) != len(app.Settings()) {
		t.Errorf("%d settings, %v", len(views), err)
	}
}

func TestVersion_SaysWhatItWasBuiltWith(t *testing.T) {
	t.Parallel()
	var b app.Build
	if got := cli(t, "--version"); got.code != app.ExitOK || got.stdout != app.ThisBuild().Line("mainstay") {
		t.Errorf("--version: %+v", got)
	}
	if err := json.Unmarshal([]byte(cli(t, "version", "-o", "json").stdout), &b); err != nil {
		t.Fatal(err)
	}
	if b != app.ThisBuild() || !strings.HasPrefix(b.Go, "go1.") {
		t.Errorf("got %+v", b)
	}
}

func TestOrderGet(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close")
		switch strings.TrimPrefix(r.URL.Path, "/v1/orders/") {
		case "no":
			_, _ = io.WriteString(w, `{"id":"no","status":"cancelled","total":2500,"currency":"EUR","created_at":"2026-01-02T03:04:05Z","reason":{"code":"card_declined","detail":"not today"},"extra":1}`)
		case "stuck":
			_, _ = io.WriteString(w, `{"id":"stuck","status":"needs_operator","total":2500,"currency":"EUR","created_at":"2026-01-02T03:04:05Z"}`)
		case "slow":
			_, _ = io.WriteString(w, `{"id":"slow","status":"pending","total":1,"currency":"EUR","created_at":"2026-01-02T03:04:05Z"}`)
		default:
			problem.Write(w, r, problem.New(problem.NotFound, "no such order"))
		}
	}))
	t.Cleanup(s.Close)
	vars := map[string]string{"MAINSTAY_URL": s.URL}
	get := func(args ...string) result {
		return runWith(t, every(), vars, append([]string{"order", "get"}, args...)...)
	}

	table := "ID  STATUS     TOTAL      CREATED               REASON\n" +
		"no  cancelled  25.00 EUR  2026-01-02T03:04:05Z  card_declined: not today\n"
	if got := get("no", "--wait", "1m"); got != (result{0, table, ""}) {
		t.Errorf("%+v", got)
	}
	if got := get("no", "-o", "json"); got.code != 0 || !strings.Contains(got.stdout, `"extra": 1`) {
		t.Errorf("the server's whole answer is wanted: %+v", got)
	}
	if got := get("stuck"); got.code != 0 || !strings.HasPrefix(got.stderr, "hint: See `mainstay verify`") {
		t.Errorf("%+v", got)
	}
	if got := get("stuck", "-o", "json"); got.code != 0 || got.stderr != "" {
		t.Errorf("standard error is for errors in JSON: %+v", got)
	}
	if got := get("slow"); got.code != 0 || !strings.Contains(got.stdout, "pending") {
		t.Errorf("%+v", got)
	}
	if got := get("slow", "--wait", "1ms"); got.code != app.ExitPending || !strings.Contains(got.stdout, "pending") {
		t.Errorf("%+v", got)
	}
	if got := get("other"); got.code != app.ExitNotFound || got.stdout != "" {
		t.Errorf("%+v", got)
	}
}
