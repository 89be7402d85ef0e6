package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	_ "github.com/jackc/pgx/v5/stdlib"
	"go.uber.org/goleak"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/lease"
	"github.com/mainstay-io/mainstay/internal/migrate"
	"github.com/mainstay-io/mainstay/internal/testkit/pgtest"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

const testLanes = 4

// newDatabase gives the URL of a fresh database with the schema in it.
func newDatabase(t testing.TB) string {
	t.Helper()
	url := pgtest.New(t)
	migrateTo(t, url)
	return url
}

// migrateTo puts the schema into an empty database.
func migrateTo(t testing.TB, url string) {
	t.Helper()
	db, err := sql.Open("pgx", url)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close() // a test's connection
	if _, err := migrate.Up(t.Context(), db, mainstay.Postgres, testLanes); err != nil {
		t.Fatal(err)
	}
}

func openStore(t testing.TB, url string, change ...func(*Config)) *Store {
	t.Helper()
	cfg := Config{URL: url}
	for _, c := range change {
		c(&cfg)
	}
	s, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func newStore(t testing.TB, change ...func(*Config)) *Store {
	t.Helper()
	return openStore(t, newDatabase(t), change...)
}

// lead makes s the sequencer, as the service does.
func lead(t testing.TB, s *Store) lease.Lease {
	t.Helper()
	ls, err := s.Acquire(t.Context(), "sequencer", []int{0}, "test", time.Minute, true)
	if err != nil || len(ls) != 1 {
		t.Fatal(ls, err)
	}
	prepare(t, s, ls[0])
	return ls[0]
}

func prepare(t testing.TB, s *Store, l lease.Lease) {
	t.Helper()
	if err := s.Prepare(t.Context(), l); err != nil {
		t.Fatal(err)
	}
}

// drain runs rounds until there is nothing more.
func drain(t testing.TB, s *Store, l lease.Lease) int {
	t.Helper()
	total := 0
	for {
		n, more, err := s.Round(t.Context(), l)
		if err != nil {
			t.Fatal(err)
		}
		total += n
		if n == 0 && !more {
			return total
		}
	}
}

func message(topic, key string) *mainstay.Message {
	return &mainstay.Message{Topic: topic, Key: key, Type: "test.happened", Payload: []byte("{}")}
}

func send(t testing.TB, s *Store, ms ...*mainstay.Message) {
	t.Helper()
	err := s.Run(t.Context(), func(_ context.Context, tx mainstay.Tx) error {
		tx.Send(ms...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// pool gives connections of the test's own.
func pool(t testing.TB, url string) *pgxpool.Pool {
	t.Helper()
	p, err := pgxpool.New(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func isFenced(err error) bool { return errors.Is(err, lease.ErrFenced) }
