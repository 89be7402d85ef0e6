package main

import (
	"database/sql"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/migrate"
	invariants "github.com/mainstay-io/mainstay/internal/verify"
)

// dataDir is a data directory with an empty database, after some statements.
func dataDir(t *testing.T, statements string) string {
	t.Helper()
	dir := t.TempDir()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "mainstay.db")+"?_pragma=journal_mode(wal)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := migrate.Up(t.Context(), db, mainstay.SQLite, 4); err != nil {
		t.Fatal(err)
	}
	if _, err := db.ExecContext(t.Context(), statements); err != nil {
		t.Fatal(err)
	}
	return dir
}

const lonelyOrder = `insert into orders values ('01990000-0000-7000-8000-000000000000', 'anonymous', 'c-1', 'pending', '', '', 'EUR', 100, 'FR', '[]', 1, 1)`

func verifying(t *testing.T, args ...string) result {
	t.Helper()
	return runWith(t, parts{verify: runVerify}, nil, append([]string{"verify"}, args...)...)
}

func TestVerify_NamesViolations(t *testing.T) {
	t.Parallel()
	dir := dataDir(t, lonelyOrder)
	r := verifying(t, "--data", dir)
	if r.code != app.ExitPartial || !strings.Contains(r.stdout, "01990000-0000-7000-8000-000000000000: the order has no saga (order_without_saga)") {
		t.Errorf("exit code %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	r = verifying(t, "--data", dir, "-o", "json")
	var report invariants.Report
	if err := json.Unmarshal([]byte(r.stdout), &report); err != nil || r.code != app.ExitPartial || report.Found() == 0 {
		t.Errorf("exit code %d, error %v\n%s%s", r.code, err, r.stdout, r.stderr)
	}
}

func TestVerify_OfNothingIsGood(t *testing.T) {
	t.Parallel()
	r := verifying(t, "--data", dataDir(t, ""))
	if r.code != app.ExitOK || !strings.Contains(r.stdout, "0 accepted") || strings.Contains(r.stdout, "BROKEN") {
		t.Errorf("exit code %d\n%s%s", r.code, r.stdout, r.stderr)
	}
}

func TestVerify_ReadsTheJournal(t *testing.T) {
	t.Parallel()
	dir, file := dataDir(t, ""), filepath.Join(t.TempDir(), "journal")
	if err := os.WriteFile(file, []byte(`{"key":"k","status":202,"order_id":"o-1"}`+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := verifying(t, "--data", dir, "--journal", file)
	if r.code != app.ExitPartial || !strings.Contains(r.stdout, "o-1: was answered 202 to key k, and is not here") {
		t.Errorf("exit code %d\n%s%s", r.code, r.stdout, r.stderr)
	}
}

func TestVerify_SaysWhatItCannotCheck(t *testing.T) {
	t.Parallel()
	empty := t.TempDir()
	if err := os.WriteFile(filepath.Join(empty, "mainstay.db"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	torn := filepath.Join(t.TempDir(), "journal")
	if err := os.WriteFile(torn, []byte("nonsense\n{}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args []string
		code int
		want string
	}{
		"no directory": {[]string{"--data", filepath.Join(empty, "none")}, app.ExitNotFound, "there is no database"},
		"no schema":    {[]string{"--data", empty}, app.ExitConflict, "has no schema"},
		"no journal":   {[]string{"--data", dataDir(t, ""), "--journal", "none"}, app.ExitNotFound, "opening the journal"},
		"bad journal":  {[]string{"--data", dataDir(t, ""), "--journal", torn}, app.ExitUsage, "line 1"},
		"no server":    {[]string{"--database", "postgres://127.0.0.1:1/none"}, app.ExitUnreachable, "connecting to the database"},
	} {
		if r := verifying(t, c.args...); r.code != c.code || !strings.Contains(r.stderr, c.want) {
			t.Errorf("%s: exit code %d, want %d\n%s%s", name, r.code, c.code, r.stdout, r.stderr)
		}
	}
}
