package pgtest_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/mainstay-io/mainstay/internal/testkit/pgtest"
)

// victimEnv makes this test binary a process that starts a server and waits to be killed.
const victimEnv = "MAINSTAY_PGTEST_VICTIM"

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestVictim is a test only for the process that TestServer_EndsWhenTheTestsAreKilled starts.
func TestVictim(t *testing.T) {
	if os.Getenv(victimEnv) == "" {
		return
	}
	fmt.Println(pgtest.NewServer(t).DataDir())
	_, _ = io.Copy(io.Discard, os.Stdin)
}

func TestServer_EndsWhenTheTestsAreKilled(t *testing.T) {
	t.Parallel()
	pgtest.NewServer(t) // skips where there is none
	victim := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestVictim$")
	victim.Env = append(os.Environ(), victimEnv+"=1")
	stdin, err := victim.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close() // the victim dies before it could read
	stdout, err := victim.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	data := strings.TrimSpace(line)
	if _, err := os.Stat(data); err != nil {
		t.Fatalf("the victim has no server: %v", err)
	}
	if err := victim.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = victim.Wait() // it was killed
	waitGone(t, filepath.Dir(data))
}

func waitGone(t *testing.T, path string) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s is still there", path)
		}
	}
}

func TestNew_GivesEachTestADatabaseOfItsOwn(t *testing.T) {
	t.Parallel()
	first, second := connect(t, pgtest.New(t)), connect(t, pgtest.New(t))
	run(t, first, "create table mark ()")
	if n := number(t, second, "select count(*) from pg_tables where tablename = 'mark'"); n != 0 {
		t.Error("a table of one database is in the other")
	}
}

func TestNew_IsDurableAsTheProductAsksFor(t *testing.T) {
	t.Parallel()
	conn := connect(t, pgtest.New(t))
	for _, setting := range []string{"fsync", "synchronous_commit", "full_page_writes"} {
		var value string
		if err := conn.QueryRow(t.Context(), "show "+setting).Scan(&value); err != nil {
			t.Fatal(err)
		}
		if value != "on" {
			t.Errorf("%s is %s, want on", setting, value)
		}
	}
}

func TestNew_DropsTheDatabaseWithOpenConnections(t *testing.T) {
	t.Parallel()
	var url, name string
	outside := connect(t, pgtest.New(t))
	t.Run("inner", func(t *testing.T) {
		url = pgtest.New(t)
		left, err := pgx.Connect(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		name = left.Config().Database
	})
	if n := number(t, outside, "select count(*) from pg_database where datname = '"+name+"'"); n != 0 {
		t.Errorf("database %s is still there", name)
	}
}

func TestServer_KeepsWhatWasCommittedOverAKill(t *testing.T) {
	t.Parallel()
	server := pgtest.NewServer(t, "work_mem = '5MB'")
	url := server.NewDatabase()
	conn := connect(t, url)
	run(t, conn, "create table kept (n int)")
	run(t, conn, "insert into kept values (1)")

	server.Kill9()
	if _, err := os.Stat(filepath.Join(server.DataDir(), "postmaster.pid")); err != nil {
		t.Errorf("the server could tidy up behind itself: %v", err)
	}
	if err := conn.Ping(t.Context()); err == nil {
		t.Error("a killed server still answers")
	}
	if _, err := pgx.Connect(t.Context(), url); err == nil {
		t.Error("a killed server accepts connections")
	}
	server.Start()
	again := connect(t, url)
	if n := number(t, again, "select count(*) from kept"); n != 1 {
		t.Errorf("%d rows after the kill, want 1", n)
	}
	if n := number(t, again, "select setting::int from pg_settings where name = 'work_mem'"); n != 5<<10 {
		t.Errorf("work_mem is %d kB, want the test's own setting", n)
	}
	if !strings.Contains(server.Log(), "automatic recovery in progress") {
		t.Errorf("the server did not recover, so it was not killed:\n%s", server.Log())
	}
}

func TestServer_StopsInEachMode(t *testing.T) {
	t.Parallel()
	server := pgtest.NewServer(t)
	for _, mode := range []pgtest.Mode{pgtest.Fast, pgtest.Immediate, pgtest.Smart} {
		server.Stop(mode)
		if _, err := os.Stat(server.DataDir()); err != nil {
			t.Fatalf("the data is gone after %s: %v", mode, err)
		}
		server.Start()
	}
	run(t, connect(t, server.URL()), "select 1")
}

func TestServer_EndsWithTheTest(t *testing.T) {
	t.Parallel()
	var url, data string
	t.Run("inner", func(t *testing.T) {
		server := pgtest.NewServer(t)
		url, data = server.URL(), server.DataDir()
	})
	if _, err := os.Stat(data); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the data directory is still there: %v", err)
	}
	if _, err := pgx.Connect(t.Context(), url); err == nil {
		t.Error("the server still runs")
	}
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
		defer cancel()
		_ = conn.Close(ctx) // some tests take the server away
	})
	return conn
}

func run(t *testing.T, conn *pgx.Conn, statement string) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), statement); err != nil {
		t.Fatal(fmt.Errorf("%s: %w", statement, err))
	}
}

func number(t *testing.T, conn *pgx.Conn, query string) int {
	t.Helper()
	var n int
	if err := conn.QueryRow(t.Context(), query).Scan(&n); err != nil {
		t.Fatal(fmt.Errorf("%s: %w", query, err))
	}
	return n
}

func BenchmarkNew_PaysForItsCommits(b *testing.B) {
	conn, err := pgx.Connect(b.Context(), pgtest.New(b))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = conn.Close(context.Background()) }) // the database goes at once
	if _, err := conn.Exec(b.Context(), "create table mark ()"); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := conn.Exec(b.Context(), "insert into mark default values"); err != nil {
			b.Fatal(err)
		}
	}
}
