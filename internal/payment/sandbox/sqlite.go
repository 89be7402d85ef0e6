package sandbox

import (
	"context"
	"database/sql"
	_ "embed" // the schema
	"encoding/json"
	"fmt"
)

//go:embed schema_sqlite.sql
var schemaSQLite string

const (
	loadAuthorisationsSQLite = `/* sandbox.load */
select key, order_ref, amount, currency, status, captured, voided, token, hash, code, detail
from authorisation
where key in (select value from json_each($1)) or order_ref in (select value from json_each($2))
order by id`
	loadCapturesSQLite = `/* sandbox.load_captures */
select key, order_ref, hash, code, detail from capture where key in (select value from json_each($1))`
	loadAttemptsSQLite = `/* sandbox.load_attempts */
select key, attempts from attempt where key in (select value from json_each($1))`
	saveAuthorisationSQLite = `/* sandbox.save */
insert into authorisation (key, order_ref, amount, currency, status, captured, voided, token, hash, code, detail)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
on conflict (key) do update set status = excluded.status, captured = excluded.captured, voided = excluded.voided`
	saveCaptureSQLite = `/* sandbox.save_capture */
insert into capture (key, order_ref, hash, code, detail) values ($1, $2, $3, $4, $5)`
	saveAttemptSQLite = `/* sandbox.save_attempt */
insert into attempt (key, attempts) values ($1, $2) on conflict (key) do update set attempts = excluded.attempts`
)

type lookup int

const (
	lookupAuthorisations lookup = iota // by keys, and by order references
	lookupCaptures                     // by keys
	lookupAttempts                     // by keys
)

// sqliteStore is a store on one SQLite connection, used by the writer only.
type sqliteStore struct {
	conn                                    *sql.Conn
	lookups                                 map[lookup]*sql.Stmt
	saveAuthorisation, saveCapture, attempt *sql.Stmt
}

func openSQLite(ctx context.Context, db *sql.DB) (_ *sqliteStore, err error) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = conn.Close()
		}
	}()
	for _, q := range []string{
		"pragma busy_timeout = 5000", "pragma journal_mode = wal", "pragma synchronous = full",
		"pragma wal_autocheckpoint = 4000", "pragma journal_size_limit = 33554432", schemaSQLite,
	} {
		if _, err := conn.ExecContext(ctx, q); err != nil {
			return nil, fmt.Errorf("preparing the database: %w", err)
		}
	}
	s := &sqliteStore{conn: conn, lookups: map[lookup]*sql.Stmt{}}
	return s, s.prepare(ctx)
}

func (s *sqliteStore) prepare(ctx context.Context) (err error) {
	prepare := func(query string) *sql.Stmt {
		if err != nil {
			return nil
		}
		var stmt *sql.Stmt
		stmt, err = s.conn.PrepareContext(ctx, query)
		return stmt
	}
	s.lookups[lookupAuthorisations] = prepare(loadAuthorisationsSQLite)
	s.lookups[lookupCaptures] = prepare(loadCapturesSQLite)
	s.lookups[lookupAttempts] = prepare(loadAttemptsSQLite)
	s.saveAuthorisation = prepare(saveAuthorisationSQLite)
	s.saveCapture = prepare(saveCaptureSQLite)
	s.attempt = prepare(saveAttemptSQLite)
	if err != nil {
		return fmt.Errorf("preparing statements: %w", err)
	}
	return nil
}

// close gives the connection back; its statements die with the database.
func (s *sqliteStore) close() error { return s.conn.Close() }

// transact is not interrupted: a local file keeps nobody waiting, and a context that can end costs a goroutine for
// every statement.
func (s *sqliteStore) transact(ctx context.Context, ops []*op) error {
	ctx = context.WithoutCancel(ctx)
	if _, err := s.conn.ExecContext(ctx, "begin immediate"); err != nil {
		return fmt.Errorf("beginning: %w", err)
	}
	err := run(ctx, s, ops)
	if err == nil {
		_, err = s.conn.ExecContext(ctx, "commit")
	}
	if err != nil {
		_, _ = s.conn.ExecContext(ctx, "rollback") // fails when the failed commit has rolled back already
	}
	return err
}

func (s *sqliteStore) load(ctx context.Context, l *ledger, w wanted) error {
	if err := s.query(ctx, lookupAuthorisations, l.readAuthorisations, w.keys, w.refs); err != nil {
		return err
	}
	if len(w.captures) > 0 {
		if err := s.query(ctx, lookupCaptures, l.readCaptures, w.captures); err != nil {
			return err
		}
	}
	if len(w.flaky) > 0 {
		return s.query(ctx, lookupAttempts, l.readAttempts, w.flaky)
	}
	return nil
}

func (s *sqliteStore) query(ctx context.Context, q lookup, read func(rows) error, lists ...[]string) error {
	args := make([]any, len(lists))
	for i, list := range lists {
		b, err := json.Marshal(list)
		if err != nil {
			return err
		}
		args[i] = string(b)
	}
	rows, err := s.lookups[q].QueryContext(ctx, args...) //nolint:rowserrcheck // read does
	if err != nil {
		return fmt.Errorf("looking up: %w", err)
	}
	defer func() { _ = rows.Close() }()
	return read(rows)
}

func (s *sqliteStore) save(ctx context.Context, l *ledger) error {
	for _, a := range l.dirty {
		_, err := s.saveAuthorisation.ExecContext(ctx, a.Key, a.OrderRef, a.Amount, a.Currency, string(a.Status),
			a.CapturedAmount, a.VoidedAmount, a.token, a.hash, a.code, a.detail)
		if err != nil {
			return fmt.Errorf("saving an authorisation: %w", err)
		}
	}
	for _, c := range l.dirtyCaptures {
		if _, err := s.saveCapture.ExecContext(ctx, c.key, c.ref, c.hash, c.code, c.detail); err != nil {
			return fmt.Errorf("saving a capture: %w", err)
		}
	}
	for key, n := range l.dirtyAttempts {
		if _, err := s.attempt.ExecContext(ctx, key, n); err != nil {
			return fmt.Errorf("saving an attempt: %w", err)
		}
	}
	return nil
}
