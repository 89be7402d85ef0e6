package postgres

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/mainstay-io/mainstay/internal/clock"
)

const dueSagas = `/* saga.due */
select id from saga where definition = $1 and lane = any($2::int[]) and due_at <= $3 and due_at > $5 order by due_at, id limit $4`

const urgentSagas = `/* saga.urgent */
select id from saga where definition = $1 and lane = any($2::int[]) and due_at <= $3
and created_at <= $5 and status <> 'compensating' order by due_at, id limit $4`

// Every change of a saga leaves an entry in the index of what is due. A vacuum removes it, but not while a transaction is
// open that could still see it: whoever looked from the beginning would pass a million of them in ten minutes. So a look
// begins shortly before the one that found nothing, and only now and then at the beginning.
const (
	// lookBack is how much later than another process's clock a timer may be set, and committed.
	lookBack = 10 * time.Second
	// lookAgain is how often a look begins at the beginning.
	lookAgain = 30 * time.Second
	// maxCalm bounds what is remembered of shares of the lanes that were others' since.
	maxCalm = 64
)

// calm remembers up to when nothing was due.
type calm struct {
	mu    sync.Mutex
	until map[string]calmUntil // by definition and lanes
}

type calmUntil struct {
	time.Time
	whole clock.Mono // when the look began at the beginning
}

// since is where a look at what is due now may begin; the zero time for the beginning.
func (c *calm) since(of string, now time.Time) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	last, ok := c.until[of]
	if !ok || now.Before(last.Time) || last.whole.Elapsed() > lookAgain {
		return time.Time{}
	}
	return last.Add(-lookBack)
}

// found notes what a look that began there has found.
func (c *calm) found(of string, since, now time.Time, ids int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if ids > 0 {
		return
	}
	next := calmUntil{now, c.until[of].whole}
	if since.IsZero() {
		next.whole = clock.Start()
	}
	if c.until == nil || len(c.until) > maxCalm {
		c.until = map[string]calmUntil{}
	}
	c.until[of] = next
}

// Due reads the ids of instances whose time has come. One that is set to a time which had passed already when it was
// written may be found half a minute later.
func (s *Store) Due(ctx context.Context, definition string, lanes []int, now time.Time, limit int) ([]string, error) {
	of := fmt.Sprint(definition, lanes)
	since := s.calm.since(of, now)
	ids, err := s.dueSagas(ctx, dueSagas, definition, lanes, now, limit, since)
	if err == nil {
		s.calm.found(of, since, now, len(ids))
	}
	return ids, err
}

// Urgent reads the ids of instances whose time has come, that go forward and have begun by then.
func (s *Store) Urgent(ctx context.Context, definition string, lanes []int, now, begun time.Time, limit int) ([]string, error) {
	return s.dueSagas(ctx, urgentSagas, definition, lanes, now, limit, begun)
}

func (s *Store) dueSagas(ctx context.Context, query string, args ...any) ([]string, error) {
	var ids []string
	if err := s.db.SelectContext(ctx, &ids, query, args...); err != nil {
		return nil, fmt.Errorf("reading due sagas: %w", translate(ctx, err))
	}
	return ids, nil
}
