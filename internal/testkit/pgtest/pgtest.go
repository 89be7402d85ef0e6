// Package pgtest gives tests a real PostgreSQL.
//
// New answers with the URL of a fresh database. The server behind it comes from, in this order:
//
//  1. MAINSTAY_TEST_POSTGRES, a postgres:// URL of a role that may create databases;
//  2. the binaries on this machine (PATH, the places where packages put them, pg_config): one server is started for
//     the test process in a temporary directory, on a free port of 127.0.0.1, as an unprivileged user if the tests
//     run as root.
//
// Without either the test is skipped and says so; scripts/test installs the system's package first where it can,
// and where CI=true a server that could have been installed and was not is a failure.
//
// A server that was started here ends with the test process, however that ends: a supervising shell holds a pipe to
// it, stops the server when the pipe closes and removes its files. The server is as durable as in production (fsync
// and synchronous_commit are on), since the product refuses to run on less. Where the system has a file system in
// memory, the server of tests lies there, which makes a new database about four times as fast; that of benchmarks and
// those of NewServer are always on the disk.
//
// NewVersion starts other versions, whose binaries are Maven artefacts; it needs mvn and xz, and skips without them.
//
// Everything may be called from parallel tests.
package pgtest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Env names the variable that points the tests to a running server.
const Env = "MAINSTAY_TEST_POSTGRES"

// settleTimeout bounds each statement that this package runs on its own account.
const settleTimeout = time.Minute

// New gives the URL of a fresh, empty database, which is dropped with its connections when the test ends. It skips
// the test if there is no PostgreSQL.
func New(t testing.TB) string {
	t.Helper()
	return createDatabase(t, sharedURL(t), "template0")
}

// inMemory and onDisk start the servers of this test process, or say why there is none. What they keep must stay
// reachable: a pipe that is collected as garbage is a pipe that is closed, and the supervisor would stop the server.
var (
	inMemory = sync.OnceValues(func() (*server, error) { return startShared(memoryDir()) })
	onDisk   = sync.OnceValues(func() (*server, error) { return startShared(os.TempDir()) })
)

func startShared(base string) (*server, error) {
	bin, err := findBinaries()
	if err != nil {
		return nil, err
	}
	s, err := initServer(bin, base, nil)
	if err != nil {
		return nil, err
	}
	if err := s.start(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(s.dir))
	}
	return s, nil
}

func sharedURL(t testing.TB) string {
	t.Helper()
	if given := os.Getenv(Env); given != "" {
		return given
	}
	shared := inMemory
	if _, ok := t.(*testing.B); ok {
		shared = onDisk // what is measured there must pay for its commits
	}
	s, err := shared()
	failOrSkip(t, err)
	return s.url()
}

// failOrSkip skips the test when the machine has no PostgreSQL and cannot be blamed for it, and fails it when there
// should have been one.
func failOrSkip(t testing.TB, err error) {
	t.Helper()
	switch {
	case err == nil:
	case errors.Is(err, errNone) && !mustHave():
		t.Skipf("skipped: %v", err)
	default:
		t.Fatalf("PostgreSQL for the test: %v", err)
	}
}

// mustHave tells whether this is a CI machine on which PostgreSQL could have been installed.
func mustHave() bool {
	_, err := exec.LookPath("apt-get")
	return os.Getenv("CI") == "true" && os.Geteuid() == 0 && err == nil
}

func ping(server string) error {
	return execute(server, "select 1")
}

// createDatabase makes a database next to the one that server names, from the given template.
func createDatabase(t testing.TB, server, template string) string {
	t.Helper()
	name := "mainstay_test_" + strings.ToLower(rand.Text()[:16])
	fresh, err := withDatabase(server, name)
	if err != nil {
		t.Fatalf("reading %s: %v", Env, err)
	}
	if err := execute(server, "create database "+name+" template "+template); err != nil {
		t.Fatalf("creating a database for the test: %v", err)
	}
	t.Cleanup(func() {
		if err := execute(server, "drop database if exists "+name+" with (force)"); err != nil {
			t.Logf("dropping the test's database: %v", err)
		}
	})
	return fresh
}

// withDatabase is server with another database's name in its path.
func withDatabase(server, name string) (string, error) {
	u, err := url.Parse(server)
	if err != nil {
		return "", err
	}
	if u.Scheme != "postgres" && u.Scheme != "postgresql" {
		return "", fmt.Errorf("want a postgres:// URL, got scheme %q", u.Scheme)
	}
	u.Path = "/" + name
	return u.String(), nil
}

// execute runs one statement on a connection of its own. It does not take the test's context, which has ended when
// the cleanup runs.
func execute(server, statement string) error {
	ctx, cancel := context.WithTimeout(context.Background(), settleTimeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, server)
	if err != nil {
		return err
	}
	defer conn.Close(ctx) // the statement's own answer is what counts
	_, err = conn.Exec(ctx, statement)
	return err
}
