package benchmark

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/bench"
	"github.com/mainstay-io/mainstay/internal/testkit/pgtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// wantNoScratch wants no database of a measurement left on the server.
func wantNoScratch(t *testing.T, server string) {
	t.Helper()
	db, err := sql.Open("pgx", server)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var left string
	err = db.QueryRowContext(t.Context(), `select coalesce(string_agg(datname, ' '), '') from pg_database where datname like 'mainstay_bench_%'`).Scan(&left)
	if err != nil || left != "" {
		t.Errorf("left on the server: %s (%v)", left, err)
	}
}

// run runs what was asked for, with temporary files in a folder of its own, which must be empty afterwards.
func run(t *testing.T, ctx context.Context, o Options) (string, error) {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	var out strings.Builder
	env := app.Env{Stdout: &out, Stderr: io.Discard, Getenv: func(string) string { return "" }, IsTerminal: func(io.Writer) bool { return false }}
	err := Run(ctx, env, o)
	if left, _ := filepath.Glob(filepath.Join(dir, "mainstay-bench-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	return out.String(), err
}

func TestRelayAndHop(t *testing.T) {
	// Not parallel: each case has a folder for temporary files, which a variable names.
	for name, o := range map[string]Options{
		"relay/sqlite":        {Work: Relay, Config: app.Config{NATSSync: "lazy"}},
		"relay/sqlite/always": {Work: Relay, Config: app.Config{NATSSync: "always"}},
		"relay/postgres":      {Work: Relay, Config: app.Config{Database: "postgres", NATSSync: "lazy"}},
		"hop/sqlite":          {Work: Hop, Send: true, Config: app.Config{NATSSync: "lazy"}},
		"hop/postgres":        {Work: Hop, Config: app.Config{Database: "postgres", NATSSync: "lazy"}},
		"hop/postgres/log":    {Work: Hop, Send: true, Config: app.Config{Database: "postgres", Broker: "database"}},
		"hop/postgres/single": {Work: Hop, Single: true, Config: app.Config{Database: "postgres", Broker: "memory"}},
	} {
		t.Run(name, func(t *testing.T) {
			if o.Config.Database != "" {
				o.Config.Database = pgtest.NewServer(t).URL()
			}
			o.Messages, o.Warmup, o.Payload, o.Keys, o.JSON = 1500, 300, 100, 50, true
			text, err := run(t, t.Context(), o)
			if err != nil {
				t.Fatalf("%v\n%s", err, text)
			}
			var r bench.Result
			if err := json.Unmarshal([]byte(text), &r); err != nil {
				t.Fatal(err)
			}
			if r.Work != o.Work || r.Good != 1800 || r.Operations < 1 || r.Operations > 1800 || r.PerSecond <= 0 || len(r.Faults) > 0 || r.Machine.Cores == 0 {
				t.Errorf("measured %+v", r)
			}
			if o.Config.Database != "" {
				wantNoScratch(t, o.Config.Database)
			}
			for _, u := range r.Used {
				if _, err := os.Stat("/proc/self/stat"); err == nil && !u.Known {
					t.Errorf("nothing is known of %s", u.Name)
				}
			}
		})
	}
}

// A handler that writes fewer rows than it has handled messages must not pass for a fast one.
func TestHop_CountsTheEffects(t *testing.T) {
	ctx := t.Context()
	p, err := newPlace(ctx, app.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	if err := p.prepareHop(ctx, Options{Messages: 10, Keys: 2, Payload: 10, Config: app.Config{Broker: "database"}}); err != nil {
		t.Fatal(err)
	}
	res := bench.Result{Good: 10, Faults: map[string]int64{}}
	if err := p.checkEffects(ctx, &res); err != nil || res.Bad() != 10 {
		t.Errorf("%v, %v", res.Faults, err)
	}
}

func TestDrain_GivesUpAndSaysWhatIsLeft(t *testing.T) {
	t.Parallel()
	ctx, signal := context.WithCancel(t.Context())
	d := newDrain(5, 10)
	res, err := d.measure(ctx, nil, nil, func(ctx context.Context) error {
		d.add(9)
		signal()
		<-ctx.Done()
		return nil
	})
	if err != nil || !res.Interrupted || res.Good != 9 || res.Bad() != 0 || res.Sound() && res.Operations > 4 {
		t.Errorf("%+v, %v", res, err)
	}
	broken := errors.New("broken")
	if _, err := newDrain(0, 10).measure(t.Context(), nil, nil, func(context.Context) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("a service's error became %v", err)
	}
}

func TestVerdict(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		res  bench.Result
		want int
	}{
		"good":            {bench.Result{Operations: 1}, app.ExitOK},
		"nothing":         {bench.Result{}, app.ExitPartial},
		"a fault":         {bench.Result{Operations: 9, Faults: map[string]int64{"unfinished": 1}}, app.ExitPartial},
		"a signal":        {bench.Result{Operations: 9, Interrupted: true, Faults: map[string]int64{"interrupted": 1}}, app.ExitInterrupted},
		"signal and more": {bench.Result{Interrupted: true, Faults: map[string]int64{"error": 1}}, app.ExitPartial},
	} {
		if got := app.ExitCode(t.Context(), verdict(&tt.res)); got != tt.want {
			t.Errorf("%s ends with %d, want %d", name, got, tt.want)
		}
	}
}

func TestRun_SaysWhereThereIsNoDatabase(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for want, database := range map[int]string{
		app.ExitUnreachable: "postgres://nobody:geheim@127.0.0.1:1/none", app.ExitUsage: "postgres:///geheim",
	} {
		_, err := run(t, ctx, Options{Work: Relay, Messages: 1, Keys: 1, Payload: 2, Config: app.Config{Database: database}})
		if app.ExitCode(ctx, err) != want || app.HintOf(err) == "" || strings.Contains(err.Error(), "geheim@") {
			t.Errorf("%s: %v", database, err)
		}
	}
}
