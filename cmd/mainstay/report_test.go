package main

import (
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/migrate"
	"github.com/mainstay-io/mainstay/internal/testkit/pgtest"
	"github.com/mainstay-io/mainstay/internal/testkit/proc"
	invariants "github.com/mainstay-io/mainstay/internal/verify"
	"github.com/mainstay-io/mainstay/migrations"
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

const lonelyOrder = `insert into orders values ('01990000-0000-7000-8000-000000000000', 'anonymous', 'c-1', 'pending', '', '', 'EUR', 100, 'FR', '[]', 1, 1, null)`

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
	notDir := filepath.Join(empty, "mainstay.db")
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
		"a file":       {[]string{"--data", notDir}, app.ExitError, "not a directory"},
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

// TestVerify_RefusesAnotherSchema: neither what a newer program has made nor what an older one has left is checked as
// if it were this one's.
func TestVerify_RefusesAnotherSchema(t *testing.T) {
	t.Parallel()
	latest := migrations.Latest(mainstay.SQLite)
	for name, tc := range map[string]struct {
		change string
		says   []string
	}{
		"newer": {
			"insert into goose_db_version (version_id, is_applied) values (9999, 1)",
			[]string{fmt.Sprintf("version 9999, newer than the %d that this program knows", latest), "hint: Use a program at least as new"},
		},
		"older": {
			fmt.Sprintf("delete from goose_db_version where version_id = %d", latest),
			[]string{fmt.Sprintf("version %d, this program checks version %d", latest-1, latest), "hint: `mainstay migrate up --data DIR`"},
		},
		"none":      {"delete from goose_db_version", []string{"no schema", "hint: `mainstay migrate up`"}},
		"untracked": {"drop table goose_db_version", []string{"no schema", "hint: `mainstay migrate up`"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := dataDir(t, tc.change)
			refusedToVerify(t, tc.says, dir, "--data", dir)
			refusedToVerify(t, nil, dir, "--database", "sqlite:"+filepath.Join(dir, "mainstay.db"))
		})
	}
}

func TestVerify_RefusesAnotherPostgresSchema(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t)
	refusedToVerify(t, []string{"no schema"}, url, "--database", url)
	db, err := sql.Open("pgx", url)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close() // a test's connection
	if _, err := migrate.Up(t.Context(), db, mainstay.Postgres, 4); err != nil {
		t.Fatal(err)
	}
	const change = "update goose_db_version set version_id = $1 where version_id = (select max(version_id) from goose_db_version)"
	for version, says := range map[int64]string{
		9999:                                     "hint: Use a program at least as new",
		migrations.Needed(mainstay.Postgres) - 1: "hint: `mainstay migrate up --database postgres",
	} {
		if _, err := db.ExecContext(t.Context(), "delete from goose_db_version where version_id > $1", version); err != nil {
			t.Fatal(err)
		}
		if _, err := db.ExecContext(t.Context(), "update compatibility set oldest = $1", version); err != nil {
			t.Fatal(err)
		}
		if _, err := db.ExecContext(t.Context(), change, version); err != nil {
			t.Fatal(err)
		}
		refusedToVerify(t, []string{fmt.Sprintf("version %d", version), says}, url, "--database", url)
	}
}

// refusedToVerify wants nothing to be checked; in what must be said, DIR stands for place.
func refusedToVerify(t *testing.T, says []string, place string, args ...string) {
	t.Helper()
	r := verifying(t, args...)
	if r.code != app.ExitConflict || r.stdout != "" {
		t.Errorf("exit code %d, want %d\n%s%s", r.code, app.ExitConflict, r.stdout, r.stderr)
	}
	for _, want := range says {
		if want = strings.ReplaceAll(want, "DIR", place); !strings.Contains(r.stderr, want) {
			t.Errorf("want %q in:\n%s", want, r.stderr)
		}
	}
}

// TestVerify_SaysWhatItMayNotRead: what is there and closed to this user is not called absent.
func TestVerify_SaysWhatItMayNotRead(t *testing.T) {
	t.Parallel()
	for closed, name := range map[string]string{"directory": "", "file": "mainstay.db"} {
		t.Run(closed, func(t *testing.T) {
			t.Parallel()
			dir := dataDir(t, "")
			path := filepath.Join(dir, name)
			if err := os.Chmod(path, 0); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.Chmod(path, 0o700) }) // for the removal
			r := verifyAsNobody(t, dir)
			if r.code != app.ExitError || !strings.Contains(r.stderr, "permission denied") || !strings.Contains(r.stderr, "hint: Run it as the user that runs serve.") {
				t.Errorf("exit code %d\n%s%s", r.code, r.stdout, r.stderr)
			}
		})
	}
}

// verifyAsNobody runs verify on a directory as a user who is not root: as this one, or, for root, as nobody.
func verifyAsNobody(t *testing.T, dir string) result {
	t.Helper()
	if os.Geteuid() != 0 {
		return verifying(t, "--data", dir)
	}
	place := t.TempDir() // beside dir, in a folder that only root may enter until below
	program, err := os.ReadFile(proc.BuildPlain(t, "./cmd/mainstay"))
	bin := filepath.Join(place, "mainstay")
	err = errors.Join(err, os.WriteFile(bin, program, 0o755), os.Chmod(place, 0o755), os.Chmod(filepath.Dir(dir), 0o755))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), bin, "verify", "--data", dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return result{code: cmd.ProcessState.ExitCode(), stdout: stdout.String(), stderr: stderr.String()}
}

func TestReport_NamesWhatNeedsAnOperator(t *testing.T) {
	t.Parallel()
	since := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	text := reportText(invariants.Report{
		Counts: invariants.Counts{NeedsOperator: 4, Owed: []invariants.Amount{{Currency: "EUR", Amount: 2500}}},
		Open: []invariants.Open{
			{OrderID: "o-1", Currency: "EUR", Owed: 2500, DeadLetterSince: &since, Steps: []invariants.Stuck{
				{Step: "authorise", Op: "undo", Code: "retryable", Detail: "two\nlines"},
			}},
			{OrderID: "o-2", Currency: "EUR", Steps: []invariants.Stuck{{Step: "dispatch", Op: "do", Code: "no_reply", Detail: "silence"}}},
		},
	})
	for _, want := range []string{
		`needs you: o-1  void is owed (25.00 EUR); compensation of step authorise failed: retryable, "two\nlines"; dead letter since 2026-01-02T03:04:05Z` + "\n",
		`needs you: o-2  action of step dispatch failed: no_reply, "silence"` + "\n",
		"needs you: and 2 more\n",
		"owed: void 25.00 EUR;",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("want %q in:\n%s", want, text)
		}
	}
}
