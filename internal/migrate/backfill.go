package migrate

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/mainstay-io/mainstay/internal/clock"
	"github.com/mainstay-io/mainstay/migrations"
)

const (
	beginFillQuery = `/* migrate.begin_backfill */
insert into backfill (version, after, filled) values ($1, '', 0) on conflict do nothing`
	lockFillQuery = `/* migrate.lock_backfill */ select after, filled from backfill where version = $1 for update`
	fillQuery     = `/* migrate.fill */ select last, filled from %s($1, $2)`
	noteFillQuery = `/* migrate.note_backfill */ update backfill set after = $2, filled = $3 where version = $1`
	filledQuery   = `/* migrate.filled */ select version, filled from backfill`
)

// sayEvery is how often a backfill tells how far it is.
const sayEvery = 2 * time.Second

// fill fills a chunk in a transaction, notes in it how far that is, and rests as long as it took, until nothing is
// left. It goes on where an earlier one was cut, and several at once take turns.
func (r Runner) fill(ctx context.Context, m migrations.Migration) error {
	if _, err := r.DB.ExecContext(ctx, beginFillQuery, m.Version); err != nil {
		return fmt.Errorf("beginning to fill: %w", err)
	}
	var said clock.Mono
	for first := true; ; first = false {
		var (
			filled int64
			more   bool
		)
		began := clock.Start()
		err := r.patiently(ctx, func(ctx context.Context, w *watch) (err error) {
			filled, more, err = r.fillChunk(ctx, m, w)
			return err
		})
		if err != nil {
			return fmt.Errorf("filling: %w", err)
		}
		if first || !more || said.Elapsed() > sayEvery {
			said = clock.Start()
			r.Say(fmt.Sprintf("%s: %d rows filled", m.Name, filled))
		}
		if !more {
			return nil
		}
		select {
		case <-time.After(began.Elapsed()):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// fillChunk fills one chunk; more says that there may be another.
func (r Runner) fillChunk(ctx context.Context, m migrations.Migration, w *watch) (filled int64, more bool, err error) {
	tx, err := r.DB.BeginTx(ctx, nil)
	if err != nil {
		return 0, false, err
	}
	defer tx.Rollback() // after the commit it does nothing
	var pid int
	if err := tx.QueryRowContext(ctx, prepareFillQuery, fmt.Sprint(lockTimeout.Milliseconds())).Scan(&pid, new(any), new(any)); err != nil {
		return 0, false, err
	}
	w.follow(pid)
	defer w.follow(0)
	var after string
	switch err := tx.QueryRowContext(ctx, lockFillQuery, m.Version).Scan(&after, &filled); {
	case errors.Is(err, sql.ErrNoRows):
		return filled, false, nil // somebody else has done it
	case err != nil:
		return 0, false, err
	}
	var (
		last sql.NullString
		n    int64
	)
	if err := tx.QueryRowContext(ctx, fmt.Sprintf(fillQuery, m.Function), after, r.Chunk).Scan(&last, &n); err != nil {
		return 0, false, err
	}
	if !last.Valid {
		return filled + n, false, tx.Commit()
	}
	if _, err := tx.ExecContext(ctx, noteFillQuery, m.Version, last.String, filled+n); err != nil {
		return 0, false, err
	}
	return filled + n, true, tx.Commit()
}

const prepareFillQuery = `/* migrate.prepare_backfill */
select pg_backend_pid(), set_config('application_name', 'mainstay migrate', true), set_config('lock_timeout', $1, true)`

// backfilled says how many rows were filled of backfills that are not done.
func backfilled(ctx context.Context, db *sql.DB) (map[int64]int64, error) {
	filled := map[int64]int64{}
	rows, err := db.QueryContext(ctx, filledQuery)
	if hasCode(err, codeUndefinedTable) {
		return filled, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading how far backfills are: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var version, n int64
		if err := rows.Scan(&version, &n); err != nil {
			return nil, fmt.Errorf("reading how far backfills are: %w", err)
		}
		filled[version] = n
	}
	return filled, rows.Err()
}
