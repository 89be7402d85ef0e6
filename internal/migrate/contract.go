package migrate

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/migrations"
)

// Contract is Up for the contractions that are due: what programs of the version before need is taken away. It
// answers with *OlderProgramsError while one of them is connected, and with *EarlierError when Up has not been
// through; then it has changed nothing. While it works, such programs cannot start. On SQLite, Up has done it all.
func (r Runner) Contract(ctx context.Context) ([]Status, error) {
	r = r.withDefaults()
	p, newer, err := r.provider(ctx)
	if err != nil || newer || r.Dialect != mainstay.Postgres {
		return nil, err
	}
	pending, err := r.pending(ctx, p)
	if err != nil {
		return nil, err
	}
	if len(pending) > 0 && !isContraction(pending[0]) {
		return nil, &EarlierError{Missing: pending[0].Name}
	}
	var applied []Status
	for _, m := range pending {
		if !isContraction(m) {
			break
		}
		done, err := r.contract(ctx, m)
		if err != nil {
			return nil, fmt.Errorf("contracting: %w", err)
		}
		applied = append(applied, done...)
	}
	return applied, nil
}

// contract applies one contraction while it keeps older programs out.
func (r Runner) contract(ctx context.Context, m Status) (_ []Status, err error) {
	conn, err := r.DB.Conn(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		_, freed := conn.ExecContext(context.WithoutCancel(ctx), admitQuery, m.Needs)
		err = errors.Join(err, freed, conn.Close())
	}()
	if err := exclude(ctx, conn, m.Migration); err != nil {
		return nil, err
	}
	p, err := r.open()
	if err != nil {
		return nil, err
	}
	return r.apply(ctx, p, []Status{m})
}

const (
	// Each lock is tried once: a program that is too old holds its own as long as it has a session.
	excludeQuery = `/* migrate.exclude */
select count(*) from generate_series(1, $1::bigint - 1) as latest where not pg_try_advisory_lock(program_lock(latest))`
	admitQuery = `/* migrate.admit */
select count(pg_advisory_unlock(program_lock(latest))) from generate_series(1, $1::bigint - 1) as latest
join pg_locks l on l.locktype = 'advisory' and l.objsubid = 1 and l.pid = pg_backend_pid()
    and (l.classid::bigint << 32 | l.objid::bigint) = program_lock(latest)`
	// Programs behind a pooler can hold no lock, and say what they know in their name.
	olderQuery = `/* migrate.older */ select ` + sessionColumns + `
where a.datname = current_database() and a.pid <> pg_backend_pid() and (exists (
        select from pg_locks l join generate_series(1, $1::bigint - 1) as latest
        on (l.classid::bigint << 32 | l.objid::bigint) = program_lock(latest)
        where l.pid = a.pid and l.granted and l.locktype = 'advisory' and l.objsubid = 1)
    or substring(a.application_name from ' program ([0-9]{1,9})$')::bigint < $1)
order by a.pid`
)

// exclude takes the locks of all programs that do not know what m needs, or says who they are.
func exclude(ctx context.Context, conn *sql.Conn, m migrations.Migration) error {
	var held int
	if err := conn.QueryRowContext(ctx, excludeQuery, m.Needs).Scan(&held); err != nil {
		return fmt.Errorf("keeping older programs out: %w", err)
	}
	older, err := readSessions(conn.QueryContext(ctx, olderQuery, m.Needs))
	if err != nil {
		return err
	}
	if held > 0 || len(older) > 0 {
		return &OlderProgramsError{Migration: m.Name, Needs: m.Needs, Sessions: older}
	}
	return nil
}
