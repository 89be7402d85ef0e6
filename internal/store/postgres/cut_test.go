package postgres

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/mainstay-io/mainstay/internal/lane"
	"github.com/mainstay-io/mainstay/internal/lease"
	"github.com/mainstay-io/mainstay/internal/relay"
	"github.com/mainstay-io/mainstay/internal/testkit/pgproxy"
	"github.com/mainstay-io/mainstay/internal/testkit/pgtest"
)

// TestUnit_OnceWhateverTheCommitMeets cuts every third commit, before it reaches the server, while the server is at
// it, and after it was answered. Units are repeated as the engine repeats them, and each takes effect once.
func TestUnit_OnceWhateverTheCommitMeets(t *testing.T) {
	t.Parallel()
	const steps = 30
	url := newDatabase(t)
	p := pgproxy.Start(t, url)
	s := openStore(t, p.URL())
	if _, err := s.db.ExecContext(t.Context(), "create table effect (lane int, step int)"); err != nil {
		t.Fatal(err)
	}
	if err := s.Register(t.Context(), lane.Registration{Consumer: "c", Topics: []string{"orders"}}); err != nil {
		t.Fatal(err)
	}
	p.Cut(pgproxy.Every(3, pgproxy.Before, pgproxy.Amid, pgproxy.After))
	var all sync.WaitGroup
	for n := range testLanes {
		all.Go(func() { advance(t, s, n, steps) })
	}
	all.Wait()
	p.Cut(nil)
	var effects, different int
	count := s.db.QueryRowContext(t.Context(), "select count(*), count(distinct (lane, step)) from effect")
	if err := count.Scan(&effects, &different); err != nil || effects != testLanes*steps || different != effects {
		t.Errorf("%d effects, %d different, error %v; want %d", effects, different, err, testLanes*steps)
	}
	for _, f := range []pgproxy.Fault{pgproxy.Before, pgproxy.Amid, pgproxy.After} {
		if p.Cuts(f) == 0 {
			t.Errorf("inconclusive: no commit was cut in way %d", f)
		}
	}
}

// advance moves a lane's place to the given sequence, one by one, each with an effect.
func advance(t *testing.T, s *Store, n int, steps int64) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var held []lease.Lease
	for len(held) == 0 { // a lease of an answer that was lost is the holder's own
		held, _ = s.Acquire(ctx, "c", []int{n}, "one", time.Minute, false)
		if ctx.Err() != nil {
			t.Error(ctx.Err())
			return
		}
	}
	u := lane.Unit{Consumer: "c", Leases: held}
	for at := placeOf(ctx, t, s, n); at.Sequence < steps; {
		err := s.Unit(ctx, u, func(_ context.Context, tx lane.Tx) error {
			tx.Queue("insert into effect values ($1, $2)", n, at.Sequence+1)
			tx.Move(at, next(at))
			return nil
		})
		switch {
		case err == nil:
			at = next(at)
		case errors.Is(err, lease.ErrFenced): // it had committed
			at = placeOf(ctx, t, s, n)
		case !errors.Is(err, lane.ErrTransient):
			t.Error(err)
			return
		}
	}
}

func placeOf(ctx context.Context, t *testing.T, s *Store, n int) lane.Place {
	ps, err := s.Places(ctx, "c", []int{n})
	if err != nil || len(ps) != 1 {
		t.Errorf("reading the place: %v, %v", ps, err)
		return lane.Place{Sequence: 1 << 40}
	}
	return ps[0]
}

// TestCommit_StillUnderWay: the server is still at the commit of a transaction when its connection is given up and the
// work is done again. Who comes second waits for the first, and then sees what that has done.
func TestCommit_StillUnderWay(t *testing.T) {
	t.Parallel()
	for name, database := range map[string]func(t *testing.T) string{
		"the system's server": func(t *testing.T) string { return newDatabase(t) },
		"one of before": func(t *testing.T) string { // its tuples that are found by where they stand are not looked at again
			url := pgtest.NewVersion(t, beforeRecheck).NewDatabase()
			migrateTo(t, url)
			return url
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := database(t)
			s := openStore(t, url)
			w := newWay(t, s)
			if _, err := s.db.ExecContext(t.Context(), "create table effect (n int)"); err != nil {
				t.Fatal(err)
			}
			unit := func() error {
				return s.Unit(t.Context(), lane.Unit{Consumer: "c", Leases: w.consumer}, func(_ context.Context, tx lane.Tx) error {
					tx.Queue("insert into effect values (1)")
					tx.Move(w.at, next(w.at))
					return nil
				})
			}
			save := func(sequence int64) func() error {
				p := relay.Progress{TopicLane: w.at.TopicLane, Incarnation: 1, Sequence: sequence, MessageID: "m", BrokerPosition: sequence}
				return func() error {
					return s.SaveProgress(t.Context(), relay.Save{Leases: w.relay, Progress: []relay.Progress{p}})
				}
			}
			if first, second := underWay(t, url, "place", unit, unit); first != nil || !isFenced(second) {
				t.Errorf("a unit ended with %v, and again with %v", first, second)
			}
			for _, sequence := range []int64{1, 3} { // the first one makes the row
				if first, second := underWay(t, url, "relay_progress", save(sequence), save(sequence+1)); first != nil || second != nil {
					t.Errorf("saving ended with %v, and again with %v", first, second)
				}
				if ps, err := s.Progress(t.Context()); err != nil || len(ps) != 1 || ps[0].Sequence != sequence+1 {
					t.Errorf("saved is %+v, %v; want %d", ps, err, sequence+1)
				}
			}
			var effects int
			if err := s.db.GetContext(t.Context(), &effects, "select count(*) from effect"); err != nil || effects != 1 {
				t.Errorf("%d effects, %v", effects, err)
			}
		})
	}
}

// beforeRecheck is a release of PostgreSQL that, when an update has waited for another one, does not look again whether
// a row that was found by its ctid is still there.
const beforeRecheck = "17.6.0"

// underWay runs first, and second while first is in its commit, which writes to the table.
func underWay(t *testing.T, url, table string, first, second func() error) (error, error) {
	t.Helper()
	hold, err := pool(t, url).Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer hold.Release()
	execute := func(query string) {
		t.Helper()
		if _, err := hold.Exec(t.Context(), query); err != nil {
			t.Fatal(err)
		}
	}
	waiting := func(n int) {
		t.Helper()
		eventually(t, func() bool {
			var is int
			err := hold.QueryRow(t.Context(), `select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()`).Scan(&is)
			return err == nil && is >= n
		})
	}
	execute(`create or replace function wait() returns trigger language plpgsql as $$ begin perform pg_advisory_xact_lock(4242); return null; end $$`)
	execute("create constraint trigger wait after insert or update on " + table + " deferrable initially deferred for each row execute function wait()")
	execute("select pg_advisory_lock(4242)")
	errs := [2]chan error{make(chan error, 1), make(chan error, 1)}
	for i, do := range []func() error{first, second} {
		go func() { errs[i] <- do() }()
		waiting(i + 1)
	}
	execute("select pg_advisory_unlock(4242)")
	one, two := <-errs[0], <-errs[1]
	execute("drop trigger wait on " + table)
	return one, two
}
