package process_test

import (
	"log/slog"
	"strings"
	"testing"

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
