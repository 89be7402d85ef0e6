package process_test

import (
	"log/slog"
	"net/url"
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
	server := pgtest.New(t)
	way := "?"
	if strings.Contains(server, "?") {
		way = "&"
	}
	cfg := app.Config{Database: server + way + "synchronous_commit=off"}
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
	server := pgtest.New(t)
	file := filepath.Join(t.TempDir(), "mainstay.yaml")
	if err := os.WriteFile(file, []byte("database: "+server+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, load := range map[string]func() (app.Config, error){
		"`mainstay migrate up` with the same MAINSTAY_DATABASE": func() (app.Config, error) {
			return config(map[string]string{"MAINSTAY_DATABASE": server})
		},
		"`mainstay migrate up --config " + file + "`": func() (app.Config, error) {
			return config(map[string]string{"MAINSTAY_CONFIG": file})
		},
		"`mainstay migrate up --database '" + app.Redact(server) + "'`": func() (app.Config, error) {
			return config(nil, "--database", server)
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

// TestOpenPostgres_SaysWhatTheServerLacks asks a server that answers for a database and for a role that it lacks.
func TestOpenPostgres_SaysWhatTheServerLacks(t *testing.T) {
	t.Parallel()
	good := pgtest.New(t)
	u, err := url.Parse(good)
	if err != nil {
		t.Fatal(err)
	}
	database, role := *u, *u
	database.Path, role.User = "/nobody_made_it", url.UserPassword("nobody", "s3cret")
	for name, c := range map[string]struct {
		url, hint string
		code      int
	}{
		"database": {database.String(), "`createdb`", app.ExitNotFound},
		"role":     {role.String(), "the user and the password in MAINSTAY_DATABASE", app.ExitUnreachable},
	} {
		cfg, err := config(map[string]string{"MAINSTAY_DATABASE": c.url})
		if err != nil {
			t.Fatal(err)
		}
		_, err = process.OpenPostgres(t.Context(), cfg, slog.New(slog.DiscardHandler))
		if err == nil || app.ExitCode(t.Context(), err) != c.code || !strings.Contains(app.HintOf(err), c.hint) ||
			strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: got %v, hint %q", name, err, app.HintOf(err))
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
