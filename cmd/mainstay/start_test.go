package main

import (
	"context"
	"database/sql"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/testkit/load"
	"github.com/mainstay-io/mainstay/internal/testkit/pgtest"
	"github.com/mainstay-io/mainstay/internal/testkit/proc"
	"github.com/mainstay-io/mainstay/migrations"
)

// anyPorts are addresses of the system's choice.
func anyPorts() []string { return []string{"--http", "127.0.0.1:0", "--ops", "127.0.0.1:0"} }

// refused runs `mainstay serve`, which must not start: it ends with the exit code, and its error and hint match the
// patterns.
func refused(t *testing.T, bin string, code int, says []string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	p := proc.Start(t, bin, append([]string{"serve"}, args...)...)
	got, err := p.Wait(ctx)
	if err != nil || got != code {
		t.Errorf("exit code %d, error %v; want %d", got, err, code)
	}
	for _, want := range append(says, `(?m)^hint: .+\.$`) {
		if !regexp.MustCompile(want).MatchString(p.Stderr()) {
			t.Errorf("want %q in:\n%s", want, p.Stderr())
		}
	}
	if p.Stdout() != "" {
		t.Errorf("it says that it has started:\n%s", p.Stdout())
	}
}

func TestServe_RefusesADirectoryInUse(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	bin, dir := proc.Build(t, "./cmd/mainstay"), t.TempDir()
	first := startServer(t, bin, "--data", dir)
	before := first.place(ctx, t, load.OrderOf("tok_ok", "mug-red"))
	says := []string{fmt.Sprintf(`^error: the data directory %s is in use by another mainstay \(process %d\)`, dir, first.PID())}
	for range 3 {
		refused(t, bin, app.ExitConflict, says, append(anyPorts(), "--data", dir)...)
	}
	first.wantEnd(ctx, t, before.ID, "confirmed")
	first.wantEnd(ctx, t, first.place(ctx, t, load.OrderOf("tok_declined", "mug-red")).ID, "cancelled card_declined")
	if ready, err := first.Ready(ctx); err != nil || !ready.Ready {
		t.Errorf("the first one is disturbed: %+v, error %v", ready, err)
	}
	verify(t, "--data", dir)
}

// TestServe_TakenPorts holds the default ports itself, where nobody else does; then a server moves to the next free
// ones and says so. The same addresses given by flag are refused.
func TestServe_TakenPorts(t *testing.T) {
	t.Parallel()
	bin, dir := proc.Build(t, "./cmd/mainstay"), t.TempDir()
	for _, addr := range []string{"127.0.0.1:8080", "127.0.0.1:8081"} {
		if l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", addr); err == nil {
			t.Cleanup(func() { _ = l.Close() })
		} // else it is taken as well
	}
	s := waitServer(t, proc.Start(t, bin, "serve", "--data", dir))
	for _, addr := range []string{s.URL, s.OpsURL} {
		if strings.HasSuffix(addr, ":8080") || strings.HasSuffix(addr, ":8081") {
			t.Errorf("it says that it is at %s, which is somebody else's", addr)
		}
	}
	for _, want := range []string{
		"127.0.0.1:8080 is in use, so --http is " + strings.TrimPrefix(s.URL, "http://") + " this time",
		"127.0.0.1:8081 is in use, so --ops is " + strings.TrimPrefix(s.OpsURL, "http://") + " this time",
	} {
		if !strings.Contains(s.Stdout(), want) {
			t.Errorf("want %q in:\n%s", want, s.Stdout())
		}
	}
	id := s.place(t.Context(), t, load.OrderOf("tok_ok", "mug-red")).ID
	s.wantEnd(t.Context(), t, id, "confirmed")

	for _, flag := range []string{"--http", "--ops"} {
		other := map[string]string{"--http": "--ops", "--ops": "--http"}[flag]
		refused(t, bin, app.ExitConflict, []string{`error: listening on 127\.0\.0\.1:8080 \(flag ` + flag + `\): another process listens there`},
			"--data", t.TempDir(), flag, "127.0.0.1:8080", other, "127.0.0.1:0")
	}
	s.wantEnd(t.Context(), t, id, "confirmed")
	verify(t, "--data", dir)
}

// stopped gives the data directory of a server that has ended one order, and its stopped server's binary.
func stopped(t *testing.T) (bin, dir string) {
	t.Helper()
	bin, dir = proc.Build(t, "./cmd/mainstay"), t.TempDir()
	s := startServer(t, bin, "--data", dir)
	s.wantEnd(t.Context(), t, s.place(t.Context(), t, load.OrderOf("tok_ok", "mug-red")).ID, "confirmed")
	s.Kill()
	return bin, dir
}

func TestServe_RefusesWhatItCannotUse(t *testing.T) {
	t.Parallel()
	bin := proc.Build(t, "./cmd/mainstay")
	t.Run("a file in the directory's place", func(t *testing.T) {
		t.Parallel()
		file := filepath.Join(t.TempDir(), "file")
		writeFile(t, file, []byte("not a directory"))
		refused(t, bin, app.ExitError, []string{`^error: making the data directory: .*not a directory`, `--data`}, append(anyPorts(), "--data", file)...)
	})
	t.Run("a directory that cannot be written", func(t *testing.T) {
		t.Parallel()
		dir := tmpfs(t, readOnly, "size=1m")
		refused(t, bin, app.ExitError, []string{`^error: opening the lock of the data directory: .*read-only`, `--data`}, append(anyPorts(), "--data", dir)...)
	})
	for _, name := range []string{"mainstay.db", "gateway.db"} {
		t.Run("a damaged "+name, func(t *testing.T) {
			t.Parallel()
			bin, dir := stopped(t)
			path := filepath.Join(dir, name)
			sound, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			writeFile(t, path, append([]byte(strings.Repeat("garbage ", 64)), sound[512:]...))
			for _, suffix := range []string{"-wal", "-shm"} {
				if err := os.Rename(path+suffix, path+suffix+".away"); err != nil && !os.IsNotExist(err) {
					t.Fatal(err)
				}
			}
			refused(t, bin, app.ExitConflict, []string{`^error: the database file ` + path + ` cannot be read: `, `backup`}, append(anyPorts(), "--data", dir)...)

			writeFile(t, path, sound) // nothing was done to the rest
			for _, suffix := range []string{"-wal", "-shm"} {
				_ = os.Remove(path + suffix)
				_ = os.Rename(path+suffix+".away", path+suffix)
			}
			startServer(t, bin, "--data", dir)
			verify(t, "--data", dir)
		})
	}
	t.Run("a schema of the future", func(t *testing.T) {
		t.Parallel()
		bin, dir := stopped(t)
		file := "file:" + filepath.Join(dir, "mainstay.db")
		execSQL(t, "sqlite", file, `insert into goose_db_version (version_id, is_applied) values (9999, 1)`)
		refused(t, bin, app.ExitConflict, []string{`version 9999, newer than the \d+ that this program knows`}, append(anyPorts(), "--data", dir)...)
		execSQL(t, "sqlite", file, `delete from goose_db_version where version_id = 9999`)
		startServer(t, bin, "--data", dir)
		verify(t, "--data", dir)
	})
}

func TestServe_RefusesAPostgresSchema(t *testing.T) {
	t.Parallel()
	bin, url := proc.Build(t, "./cmd/mainstay"), pgtest.New(t)
	dir := t.TempDir()
	args := append(anyPorts(), "--data", dir, "--database", url)
	up := `mainstay migrate up --database 'postgres`
	refused(t, bin, app.ExitConflict, []string{`^error: .*no schema yet`, up}, args...)

	runCommand(t, bin, "migrate", "up", "--database", url, "--lanes", "4")
	needed := migrations.Needed(mainstay.Postgres)
	execSQL(t, "pgx", url, `update goose_db_version set version_id = -version_id where version_id >= $1`, needed)
	refused(t, bin, app.ExitConflict, []string{fmt.Sprintf(`^error: .*schema has version %d, this binary needs %d`, needed-1, needed), up}, args...)

	var oldest int64
	scanSQL(t, url, &oldest, `select oldest from compatibility`)
	execSQL(t, "pgx", url, `update goose_db_version set version_id = -version_id where version_id < 0`)
	execSQL(t, "pgx", url, `update compatibility set oldest = 9999`)
	refused(t, bin, app.ExitConflict, []string{`^error: .*contracted for binaries that know migration 9999, newer than`}, args...)

	execSQL(t, "pgx", url, `update compatibility set oldest = $1`, oldest)
	s := startServer(t, bin, "--data", dir, "--database", url)
	s.wantEnd(t.Context(), t, s.place(t.Context(), t, load.OrderOf("tok_ok", "mug-red")).ID, "confirmed")
	verify(t, "--database", url)
}

func TestServe_SaysThatAServerIsDown(t *testing.T) {
	t.Parallel()
	bin, nobody := proc.Build(t, "./cmd/mainstay"), proc.FreeAddr(t)
	for flag, url := range map[string]string{"--database": "postgres://me:s3cret@" + nobody + "/orders", "--broker": "nats://me:s3cret@" + nobody} {
		t.Run(flag, func(t *testing.T) {
			t.Parallel()
			says := []string{`^error: (connecting to the .*|opening the broker )` + regexp.QuoteMeta(strings.ReplaceAll(url, "s3cret", "xxxxx")) + `: .*connect`, flag}
			p := proc.Start(t, bin, append(append([]string{"serve"}, anyPorts()...), "--data", t.TempDir(), flag, url)...)
			if code, err := p.Wait(t.Context()); err != nil || code != app.ExitUnreachable {
				t.Errorf("exit code %d, error %v", code, err)
			}
			for _, want := range says {
				if !regexp.MustCompile(want).MatchString(p.Stderr()) {
					t.Errorf("want %q in:\n%s", want, p.Stderr())
				}
			}
			if out := p.Stdout() + p.Stderr(); strings.Contains(out, "s3cret") {
				t.Errorf("the password is told:\n%s", out)
			}
			if strings.Count(p.Stderr(), "\n") != 2 {
				t.Errorf("want an error and a hint, a line each:\n%s", p.Stderr())
			}
		})
	}
}

func writeFile(t testing.TB, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// execSQL runs a statement in a database.
func execSQL(t testing.TB, driver, source, query string, args ...any) {
	t.Helper()
	db, err := sql.Open(driver, source)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close() // the statement's error tells
	if _, err := db.ExecContext(t.Context(), query, args...); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

// scanSQL reads one value of a PostgreSQL database.
func scanSQL(t testing.TB, url string, into any, query string, args ...any) {
	t.Helper()
	db, err := sql.Open("pgx", url)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close() // it is only read
	if err := db.QueryRowContext(t.Context(), query, args...).Scan(into); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}
