package postgres

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/mainstay-io/mainstay/internal/lane"
	"github.com/mainstay-io/mainstay/internal/lease"
	"github.com/mainstay-io/mainstay/internal/testkit/pgproxy"
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
