package process_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/process"
	"github.com/mainstay-io/mainstay/internal/testkit/pgtest"
)

// TestOpenPostgres_RefusesUnsafeDurability sees the setting as its own session does: here it is the URL's.
func TestOpenPostgres_RefusesUnsafeDurability(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t)
	way := "?"
	if strings.Contains(url, "?") {
		way = "&"
	}
	cfg := app.Config{Database: url + way + "synchronous_commit=off"}
	_, err := process.OpenPostgres(t.Context(), cfg, slog.New(slog.DiscardHandler))
	if app.ExitCode(t.Context(), err) != app.ExitConflict || !strings.Contains(err.Error(), "synchronous_commit=off") ||
		!strings.Contains(app.HintOf(err), "--allow-unsafe-durability") {
		t.Errorf("got %v, hint %q", err, app.HintOf(err))
	}
	cfg.AllowUnsafe = true
	_, err = process.OpenPostgres(t.Context(), cfg, slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), "no schema yet") { // it has no schema, which is looked at next
		t.Errorf("asked for by name: got %v", err)
	}
}

// TestOpenPostgres_SaysHowToMigrate wants a command that means the same database, as it would be typed.
func TestOpenPostgres_SaysHowToMigrate(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t)
	file := filepath.Join(t.TempDir(), "mainstay.yaml")
	if err := os.WriteFile(file, []byte("database: "+url+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, load := range map[string]func() (app.Config, error){
		"`mainstay migrate up` with the same MAINSTAY_DATABASE": func() (app.Config, error) {
			return config(map[string]string{"MAINSTAY_DATABASE": url})
		},
		"`mainstay migrate up --config " + file + "`": func() (app.Config, error) {
			return config(map[string]string{"MAINSTAY_CONFIG": file})
		},
		"`mainstay migrate up --database '" + app.Redact(url) + "'`": func() (app.Config, error) {
			return config(nil, "--database", url)
		},
	} {
		cfg, err := load()
		if err != nil {
			t.Fatal(err)
		}
		_, err = process.OpenPostgres(t.Context(), cfg, slog.New(slog.DiscardHandler))
		if hint := app.HintOf(err); !strings.Contains(hint, want) || strings.Count(err.Error()+hint, "migrate up") != 1 {
			t.Errorf("got %v, hint %q; want one %s", err, hint, want)
		}
	}
}

// config is what an ingest process makes of variables and flags.
func config(vars map[string]string, args ...string) (app.Config, error) {
	flags := pflag.NewFlagSet(app.Ingest, pflag.ContinueOnError)
	app.AddFlagsOf(app.Ingest, flags)
	if err := flags.Parse(args); err != nil {
		return app.Config{}, err
	}
	return app.LoadConfigOf(app.Ingest, app.Env{Getenv: func(k string) string { return vars[k] }}, flags)
}
