package postgres

import (
	"context"
	"database/sql"
	"strings"
	"testing"
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/store/storetest"
)

func TestStore_TellsItsBacklog(t *testing.T) {
	t.Parallel()
	storetest.Backlog(t, func(t *testing.T) (storetest.BacklogStore, func()) {
		s := newStore(t)
		l := lead(t, s)
		return s, func() { drain(t, s, l) }
	})
}

// Scraping must stay cheap however much was handled before: nothing that grows is scanned.
func TestBacklog_ScansNothingThatGrows(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	for name, query := range map[string]string{
		"unhandled": backlogUnhandled, "parked": backlogParked, "dead": backlogDead, "sagas": backlogSagas, "held": backlogHeld,
		"unnumbered": unnumberedFresh, "unnumbered chunk": unnumberedChunk,
	} {
		plan := explain(t, s.db, query)
		for line := range strings.Lines(plan) {
			sorts := strings.HasPrefix(name, "unnumbered") && strings.Contains(line, "->") && strings.Contains(line, "Sort")
			if strings.Contains(line, "Seq Scan on") || sorts {
				t.Errorf("%s: %s in the plan:\n%s", name, strings.TrimSpace(line), plan)
			}
		}
	}
}

// wantUnnumbered compares what the store says with what is in no row of the log.
func wantUnnumbered(t *testing.T, s *Store, when string) {
	t.Helper()
	const query = `select extract(epoch from clock_timestamp() - min(created_at))::float8 from outbox o
		where not exists (select from log where o.position = any(positions))`
	age := func() time.Duration {
		t.Helper()
		var seconds sql.NullFloat64
		if err := s.db.GetContext(t.Context(), &seconds, query); err != nil {
			t.Fatal(err)
		}
		return time.Duration(seconds.Float64 * float64(time.Second))
	}
	least := age()
	b, err := s.Backlog(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if most := age(); b.Unnumbered < least || b.Unnumbered > most {
		t.Fatalf("%s: the oldest is said to wait for %v, which is not from %v to %v", when, b.Unnumbered, least, most)
	}
	if (least == 0) != (b.Unnumbered == 0) {
		t.Fatalf("%s: %v", when, b.Unnumbered)
	}
}

func TestBacklog_TellsHowLongTheSequencerLets(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	l := lead(t, s)
	send(t, s, message("a", "k"))
	send(t, s, message("a", "k"))
	wantUnnumbered(t, s, "two are new")
	drain(t, s, l)
	wantUnnumbered(t, s, "all are numbered")

	late := make(chan struct{})
	begun, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- s.Run(t.Context(), func(ctx context.Context, tx mainstay.Tx) error {
			if _, err := tx.ExecContext(ctx, "select pg_current_xact_id()"); err != nil {
				return err
			}
			tx.Send(message("a", "k"))
			close(begun)
			<-late
			return nil
		})
	}()
	<-begun
	send(t, s, message("a", "k"))
	drain(t, s, l)
	wantUnnumbered(t, s, "one is not committed")
	close(late)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	wantUnnumbered(t, s, "one was committed late")
	send(t, s, message("a", "k"))
	wantUnnumbered(t, s, "one was committed late, and one is new")
	drain(t, s, l)
	wantUnnumbered(t, s, "the late one is numbered")
}

func TestBacklog_TellsHowLongTheRestOfChunksWaits(t *testing.T) {
	t.Parallel()
	s := newStore(t, func(c *Config) { c.Chunk = 3 })
	l := lead(t, s)
	const insert = `insert into outbox (id, topic, lane, key, type, payload, created_at)
		values (gen_random_uuid(), 'a', 0, 'k', 'test.happened', '{}', clock_timestamp() - $1 * interval '1 minute')`
	for minutes := range 8 {
		if _, err := s.db.ExecContext(t.Context(), insert, 8-minutes); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []int{0, 3, 3, 2, 0} {
		n, _, err := s.Round(t.Context(), l)
		if err != nil || n != want {
			t.Fatalf("a round numbered %d, want %d: %v", n, want, err)
		}
		wantUnnumbered(t, s, "among chunks")
	}
}
