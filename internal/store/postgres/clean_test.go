package postgres

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mainstay-io/mainstay/internal/lane"
	"github.com/mainstay-io/mainstay/internal/lease"
	"github.com/mainstay-io/mainstay/internal/retention"
	"github.com/mainstay-io/mainstay/internal/store/storetest"
)

// ageRows makes rows older by whole days. Messages go to the partition of that day, with their log.
func ageRows(t testing.TB, p *pgxpool.Pool, table, column string, days int) {
	t.Helper()
	statements := fmt.Sprintf("update %s set %s = %s - interval '%d days';", table, column, column, days)
	if table == "outbox" {
		statements = "begin; set local mainstay.rebase = 'on';" + statements +
			fmt.Sprintf("update log set oldest = oldest - interval '%d days', newest = newest - interval '%d days'; commit", days, days)
	}
	execute(t, p, statements)
}

func execute(t testing.TB, p *pgxpool.Pool, statements string) {
	t.Helper()
	if _, err := p.Exec(t.Context(), statements); err != nil {
		t.Fatalf("%s: %v", statements, err)
	}
}

func countRows(t testing.TB, p *pgxpool.Pool, query string) (n int) {
	t.Helper()
	if err := p.QueryRow(t.Context(), query).Scan(&n); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return n
}

func TestStore_Retention(t *testing.T) {
	t.Parallel()
	storetest.Retention(t, func(t *testing.T) *storetest.RetentionFixture {
		t.Helper()
		url := newDatabase(t)
		s, p := openStore(t, url), pool(t, url)
		l := lead(t, s)
		f := &storetest.RetentionFixture{
			Store: s,
			Age:   func(t *testing.T, table, column string, days int) { t.Helper(); ageRows(t, p, table, column, days) },
			Count: func(t *testing.T, table string) int {
				t.Helper()
				return countRows(t, p, "select count(*) from "+table)
			},
		}
		f.Settle = func(t *testing.T) {
			t.Helper()
			drain(t, s, l)
			still(t, s)
		}
		return f
	})
}

// still moves the sequencer's snapshot past everything that has ended, as it does by itself after a while.
func still(t testing.TB, s *Store) {
	t.Helper()
	s.mu.Lock()
	s.seq = nil
	s.mu.Unlock()
	if _, err := s.db.ExecContext(t.Context(), "update sequencer_state set snapshot = pg_current_snapshot(), version = version + 1 where upper is null"); err != nil {
		t.Fatal(err)
	}
}

// cleaning is a database with messages of yesterday that everybody has handled.
type cleaning struct {
	*Store
	pool  *pgxpool.Pool
	seq   lease.Lease
	lease lease.Lease
}

func newCleaning(t *testing.T) *cleaning {
	t.Helper()
	url := newDatabase(t)
	c := &cleaning{Store: openStore(t, url), pool: pool(t, url)}
	c.seq = lead(t, c.Store)
	for i := range 20 {
		send(t, c.Store, message("things", fmt.Sprint("k", i%3)))
	}
	drain(t, c.Store, c.seq)
	ageRows(t, c.pool, "outbox", "created_at", 1)
	still(t, c.Store)
	ls, err := c.Acquire(t.Context(), retention.LeaseName, []int{0}, "test", time.Minute, true)
	if err != nil {
		t.Fatal(err)
	}
	c.lease = ls[0]
	return c
}

func (c *cleaning) step(t *testing.T) retention.Result {
	t.Helper()
	res, err := c.CleanOutbox(t.Context(), retention.Step{Lease: c.lease, Limits: retention.Limits{Outbox: time.Microsecond}, Rows: 1000})
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// run steps until there is nothing more, and once more for what was sealed.
func (c *cleaning) run(t *testing.T) (res retention.Result) {
	t.Helper()
	for again := 2; again > 0; {
		if res = c.step(t); !res.More {
			again--
		}
	}
	return res
}

func heldBy(t *testing.T, res retention.Result, reason string) {
	t.Helper()
	if len(res.Holds) != 1 || res.Holds[0].Reason != reason || res.Holds[0].For <= 0 {
		t.Fatalf("held by %+v, want %s", res.Holds, reason)
	}
}

// TestCleanOutbox_KeepsWhatAnOpenTransactionHasWritten: its rows cannot be seen, and are in the day that is to go.
func TestCleanOutbox_KeepsWhatAnOpenTransactionHasWritten(t *testing.T) {
	t.Parallel()
	c := newCleaning(t)
	tx, err := c.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background())
	_, err = tx.Exec(t.Context(), `insert into outbox (id, lane, topic, key, type, payload, created_at)
values (gen_random_uuid(), 0, 'things', 'k', 't', '', now() - interval '1 day')`)
	if err != nil {
		t.Fatal(err)
	}
	heldBy(t, c.run(t), retention.HeldByTransaction)
	if n := countRows(t, c.pool, "select count(*) from outbox"); n != 20 {
		t.Fatalf("%d messages are left", n)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	heldBy(t, c.run(t), retention.HeldBySequencer)
	if n := drain(t, c.Store, c.seq); n != 1 {
		t.Fatalf("%d messages were numbered, want the late one", n)
	}
	still(t, c.Store)
	if err := c.Register(t.Context(), lane.Registration{Consumer: "late", Topics: []string{"things"}}); err != nil {
		t.Fatal(err)
	}
	heldBy(t, c.run(t), retention.HeldByConsumer)
	execute(t, c.pool, "delete from consumer")
	if res := c.run(t); len(res.Holds) > 0 || countRows(t, c.pool, "select count(*) from outbox") != 0 {
		t.Fatalf("%+v, %d messages are left", res, countRows(t, c.pool, "select count(*) from outbox"))
	}
}

// TestCleanOutbox_WaitsForNobody: a transaction that holds the outbox open delays the end of a day's removal, not those
// who write meanwhile.
func TestCleanOutbox_WaitsForNobody(t *testing.T) {
	t.Parallel()
	c := newCleaning(t)
	tx, err := c.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background())
	if _, err := tx.Exec(t.Context(), "select 1 from outbox limit 1"); err != nil {
		t.Fatal(err)
	}
	heldBy(t, c.run(t), retention.HeldByTransaction)
	if countRows(t, c.pool, "select count(*) from pg_inherits where inhdetachpending") != 1 {
		t.Fatal("the day is not being detached")
	}
	send(t, c.Store, message("things", "k"))
	if n := drain(t, c.Store, c.seq); n != 1 {
		t.Fatalf("%d messages were numbered", n)
	}
	heldBy(t, c.run(t), retention.HeldByTransaction)
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if res := c.run(t); len(res.Holds) > 0 {
		t.Fatalf("still held: %+v", res.Holds)
	}
	if n := countRows(t, c.pool, "select count(*) from outbox"); n != 1 {
		t.Fatalf("%d messages are left", n)
	}
	if n := countRows(t, c.pool, "select count(*) from outbox_sealed s join cleaned on before = ends_at"); n != 0 {
		t.Fatal("the day that is gone is still noted as sealed")
	}
}

// TestCleanOutbox_GoesOnAfterAKill: what a cleaner has begun, another one ends.
func TestCleanOutbox_GoesOnAfterAKill(t *testing.T) {
	t.Parallel()
	c := newCleaning(t)
	for {
		if c.step(t); countRows(t, c.pool, "select count(*) from cleaned") > 0 {
			break // retired, and nothing dropped
		}
	}
	name := ""
	err := c.pool.QueryRow(t.Context(), "select relname from pg_class where relname = 'outbox_' || to_char((select before from cleaned) at time zone 'UTC' - interval '1 day', 'YYYYMMDD')").Scan(&name)
	if err != nil {
		t.Fatal(err)
	}
	execute(t, c.pool, "alter table outbox detach partition "+name) // and killed again
	ls, err := c.Acquire(t.Context(), retention.LeaseName, []int{0}, "another", time.Minute, true)
	if err != nil {
		t.Fatal(err)
	}
	c.lease = ls[0]
	c.run(t)
	if n := countRows(t, c.pool, "select count(*) from pg_class where relname = '"+name+"'"); n != 0 {
		t.Error("the detached day was not dropped")
	}
	if n := countRows(t, c.pool, "select count(*) from log"); n != 0 {
		t.Errorf("%d rows of the log are left", n)
	}
}

// TestCleanOutbox_ARestoredCopyNumbersNothingAnew: basing the outbox anew numbers what the log lacks, so the log must
// not lack what is there.
func TestCleanOutbox_ARestoredCopyNumbersNothingAnew(t *testing.T) {
	t.Parallel()
	c := newCleaning(t)
	for i := range 10 { // of today, numbered before yesterday is sealed
		send(t, c.Store, message("things", fmt.Sprint("k", i%3)))
	}
	drain(t, c.Store, c.seq)
	still(t, c.Store)
	c.run(t)
	if n := countRows(t, c.pool, "select count(*) from outbox"); n != 10 {
		t.Fatalf("%d messages are left", n)
	}
	execute(t, c.pool, "update meta set identity = '1/1/1'") // as another cluster would find it
	l := lead(t, c.Store)
	if n := drain(t, c.Store, l); n != 0 {
		t.Errorf("%d messages were numbered again", n)
	}
}

// TestMakeRoom_WaitsForNobody: days are added beside a transaction that writes to the outbox.
func TestMakeRoom_WaitsForNobody(t *testing.T) {
	t.Parallel()
	c := newCleaning(t)
	last := ""
	err := c.pool.QueryRow(t.Context(), "select max(c.relname) from pg_inherits i join pg_class c on c.oid = i.inhrelid where i.inhparent = 'outbox'::regclass").Scan(&last)
	if err != nil {
		t.Fatal(err)
	}
	execute(t, c.pool, "drop table "+last)
	tx, err := c.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background())
	if _, err := tx.Exec(t.Context(), `insert into outbox (id, lane, topic, key, type, payload) values (gen_random_uuid(), 0, 'things', 'k', 't', '')`); err != nil {
		t.Fatal(err)
	}
	until, err := c.MakeRoom(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if left := time.Until(until); left < partitionsAhead*24*time.Hour {
		t.Errorf("there is room for %v", left)
	}
	if n := countRows(t, c.pool, "select count(*) from pg_inherits i join pg_class c on c.oid = i.inhrelid where c.relname = '"+last+"'"); n != 1 {
		t.Error("the day was not made again")
	}
}
