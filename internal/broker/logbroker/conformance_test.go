package logbroker_test

import (
	"context"
	"database/sql"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/broker"
	"github.com/mainstay-io/mainstay/internal/broker/brokertest"
	"github.com/mainstay-io/mainstay/internal/broker/logbroker"
	"github.com/mainstay-io/mainstay/internal/migrate"
	"github.com/mainstay-io/mainstay/internal/store/postgres"
	"github.com/mainstay-io/mainstay/internal/store/sqlite"
	"github.com/mainstay-io/mainstay/internal/testkit/pgtest"
)

// readSide is a log that numbers what is appended to it, and its reader.
type readSide struct {
	broker.Reader
	append func(ctx context.Context, msgs []*mainstay.Message) error
	heads  map[mainstay.TopicLane]int64
}

func newReadSide(l logbroker.Log, poll time.Duration, add func(context.Context, []*mainstay.Message) error) *readSide {
	return &readSide{Reader: logbroker.New(l, poll), append: add, heads: map[mainstay.TopicLane]int64{}}
}

// Fill appends copies of msgs behind what they need before them.
func (s *readSide) Fill(ctx context.Context, msgs []*mainstay.Message) error {
	var all []*mainstay.Message
	for _, m := range msgs {
		log := m.TopicLane()
		if m.Sequence <= s.heads[log] {
			return fmt.Errorf("the log %v has sequence %d already", log, m.Sequence)
		}
		for missing := s.heads[log] + 1; missing < m.Sequence; missing++ {
			all = append(all, brokertest.Message(log, missing))
		}
		c := *m
		all = append(all, &c)
		s.heads[log] = m.Sequence
	}
	return s.append(ctx, all)
}

// conform runs the suite's read half over logs.
func conform(t *testing.T, open func(t *testing.T) brokertest.ReadSide) {
	t.Helper()
	brokertest.Read(t, open, brokertest.Options{Stamps: true, Skip: map[string]string{
		"DuplicatesAreDelivered":      "a log has every message once",
		"RefilledRecordsAreDelivered": "a log is never filled again: it is what brokers are filled from",
		"StartsInALaterIncarnation":   "a log has each sequence once, whatever its incarnation",
		"ControlCharactersSurvive":    "the outbox refuses them",
	}})
}

func TestConformance_Memory(t *testing.T) {
	t.Parallel()
	conform(t, func(*testing.T) brokertest.ReadSide {
		l := &fakeLog{}
		return newReadSide(l, time.Hour, l.append)
	})
}

// store is what the stores have in common here.
type store interface {
	logbroker.Log
	Run(ctx context.Context, fn func(ctx context.Context, tx mainstay.Tx) error) error
	Close() error
}

// sender appends through the outbox of s.
func sender(s store) func(context.Context, []*mainstay.Message) error {
	return func(ctx context.Context, msgs []*mainstay.Message) error {
		return s.Run(ctx, func(_ context.Context, tx mainstay.Tx) error {
			tx.Send(msgs...)
			return nil
		})
	}
}

func closeLater(t *testing.T, s store) {
	t.Helper()
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

func found(t *testing.T, driver, source string, dialect mainstay.Dialect) {
	t.Helper()
	db, err := sql.Open(driver, source)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close() // a test's connection
	if _, err := migrate.Up(t.Context(), db, dialect, brokertest.Lanes); err != nil {
		t.Fatal(err)
	}
}

func openSQLite(t *testing.T, path string) *sqlite.Store {
	t.Helper()
	s, err := sqlite.Open(t.Context(), sqlite.Config{Path: path, Sync: "OFF"})
	if err != nil {
		t.Fatal(err)
	}
	closeLater(t, s)
	return s
}

func newSQLite(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "test.db")
	found(t, "sqlite", sqlite.DSN(path, "OFF", false), mainstay.SQLite)
	return path
}

func TestConformance_SQLite(t *testing.T) {
	t.Parallel()
	conform(t, func(t *testing.T) brokertest.ReadSide {
		t.Helper()
		s := openSQLite(t, newSQLite(t))
		return newReadSide(s, time.Hour, sender(s))
	})
}

// TestConformance_SQLiteRows reads rows, since what was written is in the memory of another store, and polls, since
// that one wakes nobody here.
func TestConformance_SQLiteRows(t *testing.T) {
	t.Parallel()
	conform(t, func(t *testing.T) brokertest.ReadSide {
		t.Helper()
		path := newSQLite(t)
		return newReadSide(openSQLite(t, path), 5*time.Millisecond, sender(openSQLite(t, path)))
	})
}

func TestConformance_Postgres(t *testing.T) {
	t.Parallel()
	conform(t, func(t *testing.T) brokertest.ReadSide {
		t.Helper()
		url := pgtest.New(t)
		found(t, "pgx", url, mainstay.Postgres)
		s, err := postgres.Open(t.Context(), postgres.Config{URL: url})
		if err != nil {
			t.Fatal(err)
		}
		closeLater(t, s)
		return newReadSide(s, time.Hour, numbered(t, s))
	})
}

// numbered makes s the sequencer, and appends by sending and running rounds until everything has its sequence.
func numbered(t *testing.T, s *postgres.Store) func(context.Context, []*mainstay.Message) error {
	t.Helper()
	ls, err := s.Acquire(t.Context(), "sequencer", []int{0}, "test", time.Minute, true)
	if err != nil || len(ls) != 1 {
		t.Fatal(ls, err)
	}
	if err := s.Prepare(t.Context(), ls[0]); err != nil {
		t.Fatal(err)
	}
	send := sender(s)
	return func(ctx context.Context, msgs []*mainstay.Message) error {
		if err := send(ctx, msgs); err != nil {
			return err
		}
		for {
			n, more, err := s.Round(ctx, ls[0])
			if err != nil || n == 0 && !more {
				return err
			}
		}
	}
}
