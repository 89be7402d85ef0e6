package postgres

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/outbox"
)

// tx is the transaction of one unit, on one connection.
type tx struct {
	conn   *sql.Conn
	now    time.Time
	queued []outbox.Statement
	sent   []*mainstay.Message
}

func (t *tx) Dialect() mainstay.Dialect { return mainstay.Postgres }
func (t *tx) Now() time.Time            { return t.now }

func (t *tx) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	return t.conn.ExecContext(ctx, query, args...)
}

func (t *tx) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	return t.conn.QueryContext(ctx, query, args...)
}

func (t *tx) Queue(query string, args ...any) {
	t.queued = append(t.queued, outbox.Statement{SQL: query, Args: args})
}

func (t *tx) Send(msgs ...*mainstay.Message) { t.sent = append(t.sent, msgs...) }

// batch runs statements in one round trip; each has a scan for its row, or nil.
type batch struct {
	pgx.Batch
	scans []func(pgx.Row) error
}

func (b *batch) add(scan func(pgx.Row) error, query string, args ...any) {
	b.Queue(query, args...)
	b.scans = append(b.scans, scan)
}

// run sends the batch and reads every answer, up to the first error.
func (t *tx) run(ctx context.Context, b *batch) error {
	return t.conn.Raw(func(dc any) error {
		results := dc.(*stdlib.Conn).Conn().SendBatch(ctx, &b.Batch)
		for _, scan := range b.scans {
			if err := read(results, scan); err != nil {
				return errors.Join(err, results.Close())
			}
		}
		return results.Close()
	})
}

func read(results pgx.BatchResults, scan func(pgx.Row) error) error {
	if scan == nil {
		_, err := results.Exec()
		return err
	}
	return scan(results.QueryRow())
}

type insideKey struct{}

// do runs fn in one transaction and commits it. Statements of the prelude go in the round trip that begins it. After
// an error nothing was written, but for errAmbiguous.
func (s *Store) do(ctx context.Context, prelude *batch, fn func(ctx context.Context, t *tx) error) error {
	if ctx.Value(insideKey{}) != nil {
		return errors.New("a transaction inside a transaction: use the one that is there")
	}
	conn, err := s.db.Conn(ctx)
	if err != nil {
		return fmt.Errorf("taking a connection: %w", err)
	}
	defer conn.Close() //nolint:errcheck // it goes back to the pool
	t := &tx{conn: conn, now: s.cfg.Clock()}
	begin := &batch{}
	begin.add(nil, "begin")
	if prelude != nil {
		for i, q := range prelude.QueuedQueries {
			begin.add(prelude.scans[i], q.SQL, q.Arguments...)
		}
	}
	err = t.run(ctx, begin)
	if err == nil {
		err = call(context.WithValue(ctx, insideKey{}, true), t, fn)
	}
	if err == nil {
		return s.commit(ctx, t)
	}
	t.rollback(ctx)
	return err
}

// call runs fn and turns its panic into an error.
func call(ctx context.Context, t *tx, fn func(ctx context.Context, t *tx) error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &mainstay.PanicError{Value: v, Stack: debug.Stack()}
		}
	}()
	return fn(ctx, t)
}

// commit runs what was queued, appends to the outbox and commits, in one round trip. A caller that leaves does not
// interrupt it: nobody would know the outcome.
func (s *Store) commit(ctx context.Context, t *tx) error {
	last := &batch{}
	for _, q := range t.queued {
		last.add(nil, q.SQL, q.Args...)
	}
	if len(t.sent) > 0 {
		insert, err := s.insert(t.sent)
		if err != nil {
			t.rollback(ctx)
			return err
		}
		last.add(nil, insert.SQL, insert.Args...)
	}
	last.add(nil, "commit")
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*s.cfg.StatementTimeout)
	defer cancel()
	err := t.run(ctx, last)
	switch {
	case err == nil:
		if len(t.sent) > 0 {
			s.appended.wake()
		}
		return nil
	case definite(err):
		t.rollback(ctx)
		return fmt.Errorf("committing: %w", err)
	default:
		t.abandon()
		return fmt.Errorf("%w: committing: %w", errAmbiguous, err)
	}
}

func (s *Store) insert(msgs []*mainstay.Message) (outbox.Statement, error) {
	if err := s.outbox.Prepare(msgs); err != nil {
		return outbox.Statement{}, err
	}
	return outbox.PostgresInsert(msgs)
}

// rollbackTimeout bounds a rollback; a connection that does not answer is closed, which has the same effect.
const rollbackTimeout = 2 * time.Second

func (t *tx) rollback(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTimeout)
	defer cancel()
	if _, err := t.conn.ExecContext(ctx, "rollback"); err != nil {
		t.abandon()
	}
}

// abandon closes the connection instead of giving it back to the pool.
func (t *tx) abandon() {
	_ = t.conn.Raw(func(any) error { return driver.ErrBadConn })
}

// Run runs fn in one transaction and commits it; for the business's own writes outside any handler.
func (s *Store) Run(ctx context.Context, fn func(ctx context.Context, tx mainstay.Tx) error) error {
	return translate(ctx, s.do(ctx, nil, func(ctx context.Context, t *tx) error { return fn(ctx, t) }))
}
