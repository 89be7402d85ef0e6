package sandbox

import (
	"context"
	"database/sql"
	_ "embed" // the schema
	"fmt"
	"hash/fnv"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
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

// transact takes two round trips: all that is read goes with the begin and the locks, all that is written with the
// commit.
func (s *postgresStore) transact(ctx context.Context, ops []*op) error {
	conn, err := s.db.Conn(ctx)
	if err != nil {
		return fmt.Errorf("taking a connection: %w", err)
	}
	defer func() { _ = conn.Close() }() // it goes back to the pool
	return conn.Raw(func(driver any) error {
		c, ok := driver.(*stdlib.Conn)
		if !ok {
			return fmt.Errorf("the connection is a %T, not pgx's", driver)
		}
		return transact(ctx, c.Conn(), ops)
	})
}

// rollbackTimeout bounds a rollback; a connection that does not answer is closed, which has the same effect.
const rollbackTimeout = 2 * time.Second

func transact(ctx context.Context, conn *pgx.Conn, ops []*op) error {
	err := run(ctx, postgresSession{conn, lockHashes(ops)}, ops)
	if err == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTimeout)
	defer cancel()
	if _, failed := conn.Exec(ctx, "rollback"); failed != nil {
		_ = conn.Close(ctx)
	}
	return err
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

// postgresSession is one transaction on a connection, which holds a lock for each of the hashes.
type postgresSession struct {
	conn   *pgx.Conn
	hashes []int32
}

// load begins the transaction, too.
func (s postgresSession) load(ctx context.Context, l *ledger, w wanted) error {
	var b pgx.Batch
	b.Queue("begin isolation level read committed")
	// In a statement of its own: the next one's snapshot sees what those have committed that were waited for.
	b.Queue(lockPostgres, lockClass, s.hashes)
	b.Queue(loadAuthorisationsPostgres, w.keys, w.refs).Query(func(r pgx.Rows) error { return l.readAuthorisations(r) })
	if len(w.captures) > 0 {
		b.Queue(loadCapturesPostgres, w.captures).Query(func(r pgx.Rows) error { return l.readCaptures(r) })
	}
	if len(w.flaky) > 0 {
		b.Queue(loadAttemptsPostgres, w.flaky).Query(func(r pgx.Rows) error { return l.readAttempts(r) })
	}
	if err := s.conn.SendBatch(ctx, &b).Close(); err != nil {
		return fmt.Errorf("locking and reading orders: %w", err)
	}
	return nil
}

// save commits the transaction, too.
func (s postgresSession) save(ctx context.Context, l *ledger) error {
	var b pgx.Batch
	saveAuthorisations(&b, l.dirty)
	saveCaptures(&b, l.dirtyCaptures)
	saveAttempts(&b, l.dirtyAttempts)
	b.Queue("commit")
	if err := s.conn.SendBatch(ctx, &b).Close(); err != nil {
		return fmt.Errorf("saving and committing: %w", err)
	}
	return nil
}

func saveAuthorisations(b *pgx.Batch, as []*authorisation) {
	n := len(as)
	if n == 0 {
		return
	}
	keys, refs, currencies, statuses := make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	tokens, codes, details, hashes := make([]string, n), make([]string, n), make([]string, n), make([][]byte, n)
	amounts, captured, voided := make([]int64, n), make([]int64, n), make([]int64, n)
	for i, a := range as {
		keys[i], refs[i], currencies[i], statuses[i] = a.Key, a.OrderRef, a.Currency, string(a.Status)
		tokens[i], codes[i], details[i], hashes[i] = a.token, a.code, a.detail, a.hash
		amounts[i], captured[i], voided[i] = a.Amount, a.CapturedAmount, a.VoidedAmount
	}
	b.Queue(saveAuthorisationsPostgres,
		keys, refs, amounts, currencies, statuses, captured, voided, tokens, hashes, codes, details)
}

func saveCaptures(b *pgx.Batch, cs []*capture) {
	n := len(cs)
	if n == 0 {
		return
	}
	keys, refs, hashes := make([]string, n), make([]string, n), make([][]byte, n)
	codes, details := make([]string, n), make([]string, n)
	for i, c := range cs {
		keys[i], refs[i], hashes[i], codes[i], details[i] = c.key, c.ref, c.hash, c.code, c.detail
	}
	b.Queue(saveCapturesPostgres, keys, refs, hashes, codes, details)
}

func saveAttempts(b *pgx.Batch, attempts map[string]int) {
	if len(attempts) == 0 {
		return
	}
	var keys []string
	var counts []int32
	for key, n := range attempts {
		keys, counts = append(keys, key), append(counts, int32(n)) //nolint:gosec // a handful
	}
	b.Queue(saveAttemptsPostgres, keys, counts)
}
