package migrate_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pressly/goose/v3"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/migrate"
	"github.com/mainstay-io/mainstay/migrations"
)

// olderSchema is a founded database whose schema has this version.
func olderSchema(t *testing.T, version int64) *sql.DB {
	t.Helper()
	db := open(t, mainstay.Postgres)
	if _, err := migrate.Up(t.Context(), db, mainstay.Postgres, 4); err != nil {
		t.Fatal(err)
	}
	p, err := goose.NewProvider(goose.DialectPostgres, db, migrations.FS(mainstay.Postgres), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.DownTo(t.Context(), version); err != nil {
		t.Fatal(err)
	}
	return db
}

// hold runs a statement in a transaction that stays open, and gives its session.
func hold(t *testing.T, db *sql.DB, statement string) (tx *sql.Tx, pid int) {
	t.Helper()
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.ExecContext(t.Context(), statement); err != nil {
		t.Fatal(err)
	}
	if err := tx.QueryRowContext(t.Context(), "select pg_backend_pid()").Scan(&pid); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tx.Rollback() })
	return tx, pid
}

// TestUp_SaysWhatItWaitsForAndGivesUp: a transaction that holds a lock stands in the way of an index that is made
// concurrently, and of a new column. The migration names its session, gives up in time, and can be repeated.
func TestUp_SaysWhatItWaitsForAndGivesUp(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		version int64
		held    string
	}{
		"concurrent index": {5, "update saga set version = version"},
		"new column":       {10, "select 1 from orders"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := olderSchema(t, test.version)
			tx, pid := hold(t, db, test.held)
			var mu sync.Mutex
			var said strings.Builder
			r := migrate.Runner{DB: db, Dialect: mainstay.Postgres, Wait: time.Second, Say: func(line string) {
				mu.Lock()
				defer mu.Unlock()
				said.WriteString(line + "\n")
			}}
			_, err := r.Up(t.Context(), 4)
			var waited *migrate.WaitError
			if !errors.As(err, &waited) || len(waited.Sessions) != 1 || waited.Sessions[0].PID != pid || waited.Sessions[0].Since.IsZero() {
				t.Fatalf("got %v, want a wait for session %d", err, pid)
			}
			mu.Lock()
			if want := fmt.Sprintf("waiting for session %d (", pid); !strings.Contains(said.String(), want) {
				t.Errorf("it said %q, want %q", said.String(), want)
			}
			mu.Unlock()
			if err := tx.Rollback(); err != nil {
				t.Fatal(err)
			}
			r.Wait = time.Minute
			if _, err := r.Up(t.Context(), 4); err != nil {
				t.Fatal(err)
			}
			var invalid int
			if err := db.QueryRowContext(t.Context(), "select count(*) from pg_index where not indisvalid").Scan(&invalid); err != nil || invalid != 0 {
				t.Errorf("%d indexes are invalid, error %v", invalid, err)
			}
		})
	}
}

// TestContract_IsRefusedWhileOlderProgramsAreConnected goes the way of an upgrade, with a session that says that its
// program is of before.
func TestContract_IsRefusedWhileOlderProgramsAreConnected(t *testing.T) {
	t.Parallel()
	db := olderSchema(t, 10)
	r := migrate.Runner{DB: db, Dialect: mainstay.Postgres}
	var earlier *migrate.EarlierError
	if _, err := r.Contract(t.Context()); !errors.As(err, &earlier) {
		t.Fatalf("before anything else: %v", err)
	}
	applied, err := r.Up(t.Context(), 4)
	if err != nil || len(applied) == 0 || applied[len(applied)-1].Kind == migrations.Contract {
		t.Fatalf("up has applied %v, error %v", applied, err)
	}
	for name, announce := range map[string]string{
		"by a lock": "select pg_advisory_lock_shared(program_lock(10))",
		"by name":   "set application_name = 'mainstay program 10'",
	} {
		older, err := db.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := older.ExecContext(t.Context(), announce); err != nil {
			t.Fatal(err)
		}
		_, err = r.Contract(t.Context())
		var programs *migrate.OlderProgramsError
		if !errors.As(err, &programs) || len(programs.Sessions) != 1 {
			t.Errorf("announced %s: %v", name, err)
		}
		if _, err := older.ExecContext(context.WithoutCancel(t.Context()), "select pg_advisory_unlock_all(); reset application_name"); err != nil {
			t.Fatal(err)
		}
		_ = older.Close()
	}
	applied, err = r.Contract(t.Context())
	if err != nil || len(applied) == 0 || applied[0].Kind != migrations.Contract {
		t.Fatalf("contracted %v, error %v", applied, err)
	}
	var oldest int64
	if err := db.QueryRowContext(t.Context(), "select oldest from compatibility").Scan(&oldest); err != nil || oldest != applied[len(applied)-1].Needs {
		t.Errorf("the schema is for programs that know %d, error %v", oldest, err)
	}
	var locks int
	const left = "select count(*) from pg_locks where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())"
	if err := db.QueryRowContext(t.Context(), left).Scan(&locks); err != nil || locks != 0 {
		t.Errorf("%d advisory locks are left, error %v", locks, err)
	}
}
