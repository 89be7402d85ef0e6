package postgres

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/migrations"
)

// TestOpen_AnnouncesWhatTheBinaryKnows: whoever contracts the schema can have the lock of an older binary only when
// none is connected, and keeps one from starting while it has it.
func TestOpen_AnnouncesWhatTheBinaryKnows(t *testing.T) {
	t.Parallel()
	url := newDatabase(t)
	s := openStore(t, url)
	other, err := pool(t, url).Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Release()
	const take = `select pg_try_advisory_lock(program_lock($1))`
	var free bool
	if err := other.QueryRow(t.Context(), take, migrations.Latest(mainstay.Postgres)).Scan(&free); err != nil || free {
		t.Fatalf("the lock is free while a store is open: %v, error %v", free, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for !free { // the server ends sessions in its own time
		if err := other.QueryRow(t.Context(), take, migrations.Latest(mainstay.Postgres)).Scan(&free); err != nil {
			t.Fatal(err)
		}
	}
	_, err = Open(t.Context(), Config{URL: url, LockTimeout: 50 * time.Millisecond})
	if err == nil || !strings.Contains(err.Error(), "is being contracted") {
		t.Errorf("a store was opened during a contraction: %v", err)
	}
}

// TestOpen_RefusesSessionsAfterAContraction: a binary that was cut off while the schema was contracted does not go on.
func TestOpen_RefusesSessionsAfterAContraction(t *testing.T) {
	t.Parallel()
	for _, pollOnly := range []bool{false, true} {
		url := newDatabase(t)
		s := openStore(t, url, func(c *Config) { c.PollOnly = pollOnly })
		if _, err := s.db.ExecContext(t.Context(), "insert into goose_db_version (version_id, is_applied) values (9999, true)"); err != nil {
			t.Fatal(err)
		}
		openStore(t, url) // expanded, and no more
		if _, err := s.db.ExecContext(t.Context(), "update compatibility set oldest = 9999"); err != nil {
			t.Fatal(err)
		}
		held, err := s.db.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer held.Close()
		s.db.SetMaxIdleConns(0)
		var schema *SchemaError
		if _, err := s.db.ExecContext(t.Context(), "select 1"); !errors.As(err, &schema) || !schema.Newer() {
			t.Errorf("poll only %v: a new session gave %v", pollOnly, err)
		}
	}
}
