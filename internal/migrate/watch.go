package migrate

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/mainstay-io/mainstay/internal/clock"
)

const (
	// watchTick is how often is looked at who is in the way, and remindEvery how often the same is said again.
	watchTick   = 100 * time.Millisecond
	remindEvery = 10 * time.Second
)

// watch tells who is in the way of the session that changes the schema, and gives up when the patience with them is at
// its end. It looks from a session of its own.
type watch struct {
	runner Runner
	start  clock.Mono
	giveUp context.CancelCauseFunc

	mu       sync.Mutex
	pid      int  // of the session that changes the schema; 0 when it is not at work
	queueing bool // it waits for another one that does
	seen     []Session

	// Only the watching goroutine uses these.
	told      []int
	toldAt    clock.Mono
	blocked   bool
	blockedAt clock.Mono
}

// follow says which session is at work; 0 is none.
func (w *watch) follow(pid int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pid, w.queueing = pid, false
}

// locked says that somebody else changes the schema.
func (w *watch) locked() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queueing = true
}

// last are the sessions that were in the way when last looked.
func (w *watch) last() []Session {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.seen
}

// run looks until ctx ends; the answer waits for that.
func (w *watch) run(ctx context.Context) (wait func()) {
	var all sync.WaitGroup
	all.Go(func() {
		tick := time.NewTicker(watchTick)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				w.look(ctx)
			case <-ctx.Done():
				return
			}
		}
	})
	return all.Wait
}

const (
	sessionColumns = `a.pid, coalesce(nullif(a.application_name, ''), 'unnamed'), coalesce(host(a.client_addr), ''), coalesce(a.state, ''),
       coalesce(a.xact_start, 'epoch'), coalesce(left(a.query, 120), '')
from pg_stat_activity a`
	blockersQuery = `/* migrate.blockers */ select ` + sessionColumns + ` where a.pid = any(pg_blocking_pids($1)) order by a.pid`
	holderQuery   = `/* migrate.holder */ select ` + sessionColumns + `
join pg_locks l on l.pid = a.pid and l.granted and l.locktype = 'advisory' and l.objsubid = 1
where (l.classid::bigint << 32 | l.objid::bigint) = $1
  and l.database = (select oid from pg_database where datname = current_database())`
)

// look asks once. An error is no news: the next look may have some.
func (w *watch) look(ctx context.Context) {
	w.mu.Lock()
	pid, queueing := w.pid, w.queueing
	w.mu.Unlock()
	var (
		found []Session
		err   error
	)
	switch {
	case queueing:
		found, err = readSessions(w.runner.DB.QueryContext(ctx, holderQuery, lockID))
	case pid != 0:
		found, err = readSessions(w.runner.DB.QueryContext(ctx, blockersQuery, pid))
	}
	if err != nil {
		return
	}
	if len(found) == 0 {
		w.blocked = false
		return
	}
	w.mu.Lock()
	w.seen = found
	w.mu.Unlock()
	w.tell(found)
}

// tell says what is waited for when that is news, and gives up in the end.
func (w *watch) tell(found []Session) {
	if !w.blocked {
		w.blocked, w.blockedAt = true, clock.Start()
	}
	waited := w.blockedAt.Elapsed()
	if waited > w.runner.Wait {
		w.giveUp(&WaitError{Waited: waited, Sessions: found})
		return
	}
	pids := make([]int, len(found))
	for i, s := range found {
		pids[i] = s.PID
	}
	if slices.Equal(pids, w.told) && w.toldAt.Elapsed() < remindEvery {
		return
	}
	w.told, w.toldAt = pids, clock.Start()
	for _, s := range found {
		w.runner.Say(fmt.Sprintf("waiting for %s", s))
	}
}

func readSessions(rows *sql.Rows, err error) ([]Session, error) {
	if err != nil {
		return nil, fmt.Errorf("looking who is in the way: %w", err)
	}
	defer rows.Close()
	var found []Session
	for rows.Next() {
		var s Session
		if err := rows.Scan(&s.PID, &s.Application, &s.Client, &s.State, &s.Since, &s.Query); err != nil {
			return nil, fmt.Errorf("looking who is in the way: %w", err)
		}
		if s.Since.Unix() == 0 {
			s.Since = time.Time{}
		}
		found = append(found, s)
	}
	return found, rows.Err()
}
