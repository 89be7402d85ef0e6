package migrate

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/pressly/goose/v3"

	"github.com/mainstay-io/mainstay/internal/clock"
	"github.com/mainstay-io/mainstay/migrations"
)

const (
	// lockTimeout bounds the wait of a transaction for a lock: for so long everybody else who wants the table stands
	// behind it. Then they pass for lockPause.
	lockTimeout = 500 * time.Millisecond
	lockPause   = time.Second
)

// Codes of PostgreSQL's errors.
const (
	codeUndefinedTable   = "42P01"
	codeLockNotAvailable = "55P03"
	codeDeadlock         = "40P01"
)

func hasCode(err error, codes ...string) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && slices.Contains(codes, pg.Code)
}

const oldestQuery = `/* migrate.oldest */ select oldest from compatibility`

// oldestProgram is the migration that programs must know to use the schema; 0 before there was such a thing.
func oldestProgram(ctx context.Context, db *sql.DB) (oldest int64, err error) {
	err = db.QueryRowContext(ctx, oldestQuery).Scan(&oldest)
	if err != nil && !hasCode(err, codeUndefinedTable) {
		return 0, fmt.Errorf("reading which programs the schema is for: %w", err)
	}
	return oldest, nil
}

// stepPostgres applies one migration, again and again while it cannot have its locks in a short time.
func (r Runner) stepPostgres(ctx context.Context, m migrations.Migration) ([]*goose.MigrationResult, error) {
	r.Say("applying " + m.Name)
	if m.Function != "" {
		if err := r.fill(ctx, m); err != nil {
			return nil, err
		}
	}
	var applied *goose.MigrationResult
	err := r.patiently(ctx, func(ctx context.Context, w *watch) error {
		p, err := r.open(goose.WithSessionLocker(&session{runner: r, watch: w, alone: m.Alone}))
		if err != nil {
			return err
		}
		applied, err = p.ApplyVersion(ctx, m.Version, true)
		if errors.Is(err, goose.ErrAlreadyApplied) {
			err = nil // by somebody else, meanwhile
		}
		return err
	})
	if err != nil || applied == nil {
		return nil, err
	}
	return []*goose.MigrationResult{applied}, nil
}

// patiently runs do under a watch, and again while it fails for want of a lock, until the patience is at its end.
func (r Runner) patiently(ctx context.Context, do func(context.Context, *watch) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	w := &watch{runner: r, start: clock.Start(), giveUp: cancel}
	stop := w.run(ctx)
	defer func() { cancel(nil); stop() }()
	for {
		err := do(ctx, w)
		var waited *WaitError
		switch cause := context.Cause(ctx); {
		case errors.As(cause, &waited):
			return waited
		case !hasCode(err, codeLockNotAvailable, codeDeadlock):
			return err
		case w.start.Elapsed() > r.Wait:
			return &WaitError{Waited: w.start.Elapsed(), Sessions: w.last()}
		}
		select {
		case <-time.After(lockPause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// lockID is the advisory lock under which PostgreSQL's schema is changed: "mainstay" as bytes.
const lockID int64 = 0x6d61696e73746179

// lockTick is how often the lock is asked for.
const lockTick = 200 * time.Millisecond

// session is the one in which goose works.
type session struct {
	runner Runner
	watch  *watch
	// alone says that the file is not run in a transaction: what it waits for stands behind nobody, and what was done
	// would have to be done again.
	alone bool
}

const (
	prepareQuery = `/* migrate.prepare */
select pg_backend_pid(), set_config('application_name', 'mainstay migrate', false),
       set_config('statement_timeout', '0', false), set_config('lock_timeout', $1, false)`
	restoreQuery = `/* migrate.restore */ reset application_name; reset statement_timeout; reset lock_timeout`
	lockQuery    = `/* migrate.lock */ select pg_try_advisory_lock($1)`
	unlockQuery  = `/* migrate.unlock */ select pg_advisory_unlock($1)`
)

// SessionLock prepares the session and takes the lock by asking again and again: one that stood in line for it would
// hold a snapshot, for which an index that is made concurrently waits.
func (s *session) SessionLock(ctx context.Context, conn *sql.Conn) error {
	limit := lockTimeout.Milliseconds()
	if s.alone {
		limit = 0
	}
	var pid int
	if err := conn.QueryRowContext(ctx, prepareQuery, fmt.Sprint(limit)).Scan(&pid, new(any), new(any), new(any)); err != nil {
		return fmt.Errorf("preparing the session: %w", err)
	}
	tick := time.NewTicker(lockTick)
	defer tick.Stop()
	for {
		var locked bool
		if err := conn.QueryRowContext(ctx, lockQuery, lockID).Scan(&locked); err != nil {
			return fmt.Errorf("taking the lock of migrations: %w", err)
		}
		if locked {
			s.watch.follow(pid)
			return nil
		}
		s.watch.locked()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// SessionUnlock gives the lock and the session's settings back. A session that is broken has lost both.
func (s *session) SessionUnlock(ctx context.Context, conn *sql.Conn) error {
	s.watch.follow(0)
	if err := conn.PingContext(ctx); err != nil {
		return nil //nolint:nilerr // the lock went with the session
	}
	if _, err := conn.ExecContext(ctx, unlockQuery, lockID); err != nil {
		return fmt.Errorf("giving the lock of migrations back: %w", err)
	}
	_, err := conn.ExecContext(ctx, restoreQuery)
	return err
}
