package sandbox

import (
	"context"
	"database/sql"
	_ "embed" // the schema
	"fmt"
	"hash/fnv"
	"slices"
)

//go:embed schema_postgres.sql
var schemaPostgres string

// lockClass sets the sandbox's advisory locks apart from others in the database.
const lockClass = 0x73616e64

const (
	lockSchemaPostgres = `/* sandbox.lock_schema */ select pg_advisory_xact_lock($1, -1)`
	// lockPostgres makes operations of one order wait for each other across processes, also those whose rows are
	// not there yet. The list is sorted, so that groups cannot deadlock.
	lockPostgres = `/* sandbox.lock */
select count(pg_advisory_xact_lock($1, h)) from unnest($2::int[]) as h`
	loadAuthorisationsPostgres = `/* sandbox.load */
select key, order_ref, amount, currency, status, captured, voided, token, hash, code, detail
from sandbox.authorisation
where key = any($1::text[]) or order_ref = any($2::text[])
order by id`
	loadCapturesPostgres = `/* sandbox.load_captures */
select key, order_ref, hash, code, detail from sandbox.capture where key = any($1::text[])`
	loadAttemptsPostgres = `/* sandbox.load_attempts */
select key, attempts from sandbox.attempt where key = any($1::text[])`
	saveAuthorisationsPostgres = `/* sandbox.save */
insert into sandbox.authorisation
       (key, order_ref, amount, currency, status, captured, voided, token, hash, code, detail)
select key, order_ref, amount, currency, status, captured, voided, token, hash, code, detail
from unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::bigint[], $7::bigint[], $8::text[],
            $9::bytea[], $10::text[], $11::text[])
     with ordinality as a (key, order_ref, amount, currency, status, captured, voided, token, hash, code, detail, n)
order by n
on conflict (key) do update set status = excluded.status, captured = excluded.captured, voided = excluded.voided`
	saveCapturesPostgres = `/* sandbox.save_captures */
insert into sandbox.capture (key, order_ref, hash, code, detail)
select * from unnest($1::text[], $2::text[], $3::bytea[], $4::text[], $5::text[])`
	saveAttemptsPostgres = `/* sandbox.save_attempts */
insert into sandbox.attempt (key, attempts)
select * from unnest($1::text[], $2::int[])
on conflict (key) do update set attempts = excluded.attempts`
)

// postgresStore is a store on PostgreSQL; other processes may have it open too.
type postgresStore struct{ db *sql.DB }

func openPostgres(ctx context.Context, db *sql.DB) (*postgresStore, error) {
	s := &postgresStore{db}
	return s, s.migrate(ctx)
}

// migrate makes what is missing. It writes nothing where the store exists, so that less than the owner may open it.
func (s *postgresStore) migrate(ctx context.Context) error {
	var there bool
	const probe = `/* sandbox.probe */ select to_regclass('sandbox.attempt') is not null`
	if err := s.db.QueryRowContext(ctx, probe).Scan(&there); err != nil || there {
		return err
	}
	return s.withTx(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, lockSchemaPostgres, lockClass); err != nil {
			return fmt.Errorf("locking the schema: %w", err)
		}
		if _, err := tx.ExecContext(ctx, schemaPostgres); err != nil {
			return fmt.Errorf("making the schema: %w", err)
		}
		return nil
	})
}

func (s *postgresStore) close() error { return nil }

func (s *postgresStore) withTx(ctx context.Context, fn func(*sql.Tx) error) error {
	tx, err := s.db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted})
	if err != nil {
		return fmt.Errorf("beginning: %w", err)
	}
	defer func() { _ = tx.Rollback() }()
	if err := fn(tx); err != nil {
		return err
	}
	return tx.Commit()
}

func (s *postgresStore) transact(ctx context.Context, ops []*op) error {
	return s.withTx(ctx, func(tx *sql.Tx) error {
		// In a statement of its own: the next one's snapshot sees what those have committed that were waited for.
		if _, err := tx.ExecContext(ctx, lockPostgres, lockClass, lockHashes(ops)); err != nil {
			return fmt.Errorf("locking orders: %w", err)
		}
		return run(ctx, postgresSession{tx}, ops)
	})
}

func lockHashes(ops []*op) []int32 {
	hashes := make([]int32, len(ops))
	for i, o := range ops {
		h := fnv.New32a()
		_, _ = h.Write([]byte(o.ref))
		hashes[i] = int32(h.Sum32() >> 1) // 31 bits
	}
	slices.Sort(hashes)
	return slices.Compact(hashes)
}

type postgresSession struct{ tx *sql.Tx }

func (s postgresSession) query(ctx context.Context, q lookup, lists ...[]string) (*sql.Rows, error) {
	args := make([]any, len(lists))
	for i, list := range lists {
		args[i] = list
	}
	query := loadAuthorisationsPostgres
	switch q {
	case lookupCaptures:
		query = loadCapturesPostgres
	case lookupAttempts:
		query = loadAttemptsPostgres
	case lookupAuthorisations:
	}
	return s.tx.QueryContext(ctx, query, args...)
}

func (s postgresSession) save(ctx context.Context, l *ledger) error {
	if err := s.saveAuthorisations(ctx, l.dirty); err != nil {
		return fmt.Errorf("saving authorisations: %w", err)
	}
	if err := s.saveCaptures(ctx, l.dirtyCaptures); err != nil {
		return fmt.Errorf("saving captures: %w", err)
	}
	if err := s.saveAttempts(ctx, l.dirtyAttempts); err != nil {
		return fmt.Errorf("saving attempts: %w", err)
	}
	return nil
}

func (s postgresSession) saveAuthorisations(ctx context.Context, as []*authorisation) error {
	n := len(as)
	if n == 0 {
		return nil
	}
	keys, refs, currencies, statuses := make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	tokens, codes, details, hashes := make([]string, n), make([]string, n), make([]string, n), make([][]byte, n)
	amounts, captured, voided := make([]int64, n), make([]int64, n), make([]int64, n)
	for i, a := range as {
		keys[i], refs[i], currencies[i], statuses[i] = a.Key, a.OrderRef, a.Currency, string(a.Status)
		tokens[i], codes[i], details[i], hashes[i] = a.token, a.code, a.detail, a.hash
		amounts[i], captured[i], voided[i] = a.Amount, a.CapturedAmount, a.VoidedAmount
	}
	_, err := s.tx.ExecContext(ctx, saveAuthorisationsPostgres,
		keys, refs, amounts, currencies, statuses, captured, voided, tokens, hashes, codes, details)
	return err
}

func (s postgresSession) saveCaptures(ctx context.Context, cs []*capture) error {
	n := len(cs)
	if n == 0 {
		return nil
	}
	keys, refs, hashes := make([]string, n), make([]string, n), make([][]byte, n)
	codes, details := make([]string, n), make([]string, n)
	for i, c := range cs {
		keys[i], refs[i], hashes[i], codes[i], details[i] = c.key, c.ref, c.hash, c.code, c.detail
	}
	_, err := s.tx.ExecContext(ctx, saveCapturesPostgres, keys, refs, hashes, codes, details)
	return err
}

func (s postgresSession) saveAttempts(ctx context.Context, attempts map[string]int) error {
	if len(attempts) == 0 {
		return nil
	}
	var keys []string
	var counts []int32
	for key, n := range attempts {
		keys, counts = append(keys, key), append(counts, int32(n)) //nolint:gosec // a handful
	}
	_, err := s.tx.ExecContext(ctx, saveAttemptsPostgres, keys, counts)
	return err
}
