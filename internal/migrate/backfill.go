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
	doneQuery      = `/* migrate.done */ select exists (select 1 from goose_db_version where version_id = $1 and is_applied)`
	beginFillQuery = `/* migrate.begin_backfill */
insert into backfill (version, after, filled) values ($1, '', 0)
on conflict (version) do update set version = excluded.version
returning after, filled`
	fillQuery     = `/* migrate.fill */ select last, filled from %s($1, $2)`
	noteFillQuery = `/* migrate.note_backfill */ update backfill set after = $2, filled = $3 where version = $1`
	filledQuery   = `/* migrate.filled */ select version, filled from backfill`
)

// sayEvery is how often a backfill tells how far it is.
const sayEvery = 2 * time.Second

// fill fills a chunk in a transaction, notes in it how far that is, and rests as long as it took, until nothing is
// left. It goes on where an earlier one was cut, and several at once take turns. One that somebody else has done to its
// end meanwhile is done.
func (r Runner) fill(ctx context.Context, m migrations.Migration) error {
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

// fillChunk fills one chunk, under the lock of migrations; more says that there may be another.
func (r Runner) fillChunk(ctx context.Context, m migrations.Migration, w *watch) (filled int64, more bool, err error) {
	conn, err := r.DB.Conn(ctx)
	if err != nil {
		return 0, false, err
	}
	defer conn.Close()
	s := &session{runner: r, watch: w}
	if err := s.SessionLock(ctx, conn); err != nil {
		return 0, false, err
	}
	defer func() { err = errors.Join(err, s.SessionUnlock(context.WithoutCancel(ctx), conn)) }()
	tx, err := conn.BeginTx(ctx, nil)
	if err != nil {
		return 0, false, err
	}
	defer tx.Rollback() // after the commit it does nothing
	var done bool
	if err := tx.QueryRowContext(ctx, doneQuery, m.Version).Scan(&done); err != nil || done {
		return 0, false, err
	}
	var (
		after string
		last  sql.NullString
		n     int64
	)
	if err := tx.QueryRowContext(ctx, beginFillQuery, m.Version).Scan(&after, &filled); err != nil {
		return 0, false, err
	}
	if err := tx.QueryRowContext(ctx, fmt.Sprintf(fillQuery, m.Function), after, r.Chunk).Scan(&last, &n); err != nil {
		return 0, false, err
	}
	if last.Valid {
		after = last.String
	}
	if _, err := tx.ExecContext(ctx, noteFillQuery, m.Version, after, filled+n); err != nil {
		return 0, false, err
	}
	return filled + n, last.Valid, tx.Commit()
}

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
