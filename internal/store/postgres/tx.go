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
	conn *sql.Conn
	now  time.Time
	// first begins the transaction. It goes with the first batch of statements, so that it costs no round trip; nil once
	// it is sent. failed is what became of it, when that was an error: the unit then ends with it, whatever it does.
	first  *batch
	failed error
	began  moment // of what this process remembers
	queued []outbox.Statement
	sent   []*mainstay.Message
	after  []func()
}

func (t *tx) Dialect() mainstay.Dialect { return mainstay.Postgres }
func (t *tx) Now() time.Time            { return t.now }

func (t *tx) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	if err := t.begin(ctx); err != nil {
		return nil, err
	}
	return t.conn.ExecContext(ctx, query, args...)
}

func (t *tx) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	if err := t.begin(ctx); err != nil {
		return nil, err
	}
	return t.conn.QueryContext(ctx, query, args...)
}

func (t *tx) Queue(query string, args ...any) {
	t.queued = append(t.queued, outbox.Statement{SQL: query, Args: args})
}

func (t *tx) Send(msgs ...*mainstay.Message) { t.sent = append(t.sent, msgs...) }
func (t *tx) OnCommit(fn func())             { t.after = append(t.after, fn) }

// takeQueued gives what is queued as a batch.
func (t *tx) takeQueued() *batch {
	b := &batch{}
	for _, q := range t.queued {
		b.add(nil, q.SQL, q.Args...)
	}
	t.queued = nil
	return b
}

// flush runs what is queued, in one round trip.
func (t *tx) flush(ctx context.Context) error {
	b := t.takeQueued()
	if b.Len() == 0 {
		return nil
	}
	if err := t.run(ctx, b); err != nil {
		return fmt.Errorf("running queued statements: %w", err)
	}
	return nil
}

// batch runs statements in one round trip; each has a scan for its rows, or nil.
type batch struct {
	pgx.Batch
	scans []func(pgx.Rows) error
}

func (b *batch) add(scan func(pgx.Rows) error, query string, args ...any) {
	b.Queue(query, args...)
	b.scans = append(b.scans, scan)
}

// begin sends what begins the transaction, if that is still to be done.
func (t *tx) begin(ctx context.Context) error {
	if t.first == nil {
		return t.failed
	}
	return t.run(ctx, &batch{})
}

// run sends the batch, behind what begins the transaction, and reads every answer, up to the first error.
func (t *tx) run(ctx context.Context, b *batch) error {
	if t.first == nil {
		return t.send(ctx, b)
	}
	whole := t.first
	t.first = nil
	for i, q := range b.QueuedQueries {
		whole.add(b.scans[i], q.SQL, q.Arguments...)
	}
	t.failed = translate(ctx, t.send(ctx, whole))
	return t.failed
}

func (t *tx) send(ctx context.Context, b *batch) error {
	return t.raw(func(conn *pgx.Conn) error {
		results := conn.SendBatch(ctx, &b.Batch)
		for _, scan := range b.scans {
			if err := read(results, scan); err != nil {
				return errors.Join(err, results.Close())
			}
		}
		return results.Close()
	})
}

// raw gives the driver's own connection to fn.
func (t *tx) raw(fn func(conn *pgx.Conn) error) error {
	return t.conn.Raw(func(dc any) error {
		c, ok := dc.(*stdlib.Conn)
		if !ok {
			return fmt.Errorf("the connection is a %T, not pgx's", dc)
		}
		return fn(c.Conn())
	})
}

func read(results pgx.BatchResults, scan func(pgx.Rows) error) error {
	if scan == nil {
		_, err := results.Exec()
		return err
	}
	rows, err := results.Query()
	if err != nil {
		return err
	}
	defer rows.Close()
	if err := scan(rows); err != nil {
		return err
	}
	rows.Close()
	return rows.Err()
}

type insideKey struct{}

// do runs fn in one transaction and commits it. The prelude's statements come before all others, in the round trip of
// the first of them; one that must fail the unit fails by itself, since the commit may be in the same round trip. An
// error is translated by where it comes from (see translate and translateWork). After one nothing was written, but
// for errAmbiguous.
func (s *Store) do(ctx context.Context, prelude *batch, fn func(ctx context.Context, t *tx) error) error {
	if ctx.Value(insideKey{}) != nil {
		return errors.New("a transaction inside a transaction: use the one that is there")
	}
	conn, err := s.db.Conn(ctx)
	if err != nil {
		return translate(ctx, fmt.Errorf("taking a connection: %w", err))
	}
	defer conn.Close() // it goes back to the pool
	t := &tx{conn: conn, now: s.cfg.Clock(), first: begin(prelude), began: s.tail.moment()}
	err = call(context.WithValue(ctx, insideKey{}, true), t, fn)
	switch {
	case t.failed != nil:
		t.rollback(ctx)
		return t.failed
	case err != nil:
		err = translateWork(err, t.broken())
		t.rollback(ctx)
		return err
	}
	return translate(ctx, s.commit(ctx, t))
}

// begin says the isolation, whatever the default of the database is: what is read behind a lock is to be as the lock's last
// holder has left it.
func begin(prelude *batch) *batch {
	b := &batch{}
	b.add(nil, "begin isolation level read committed")
	if prelude != nil {
		for i, q := range prelude.QueuedQueries {
			b.add(prelude.scans[i], q.SQL, q.Arguments...)
		}
	}
	return b
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
	last := t.takeQueued()
	var at []written
	if len(t.sent) > 0 {
		insert, err := s.insert(t.sent)
		if err != nil {
			t.rollback(ctx)
			return err
		}
		if s.tail.leads() {
			last.add(func(rows pgx.Rows) error { return scanWritten(rows, &at) }, insert.SQL+returnWritten, insert.Args...)
		} else {
			last.add(nil, insert.SQL, insert.Args...)
		}
	}
	last.add(committed, "commit")
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*s.cfg.StatementTimeout)
	defer cancel()
	err := t.run(ctx, last)
	switch {
	case err == nil:
		if len(t.sent) > 0 {
			s.tail.committed(t.sent, at, t.began)
			s.sayAppended()
		}
		for _, fn := range t.after {
			fn()
		}
		return nil
	case definite(err), errors.Is(err, errAborted):
		t.rollback(ctx)
		return fmt.Errorf("committing: %w", err)
	default:
		t.abandon()
		return fmt.Errorf("%w: committing: %w", errAmbiguous, err)
	}
}

const returnWritten = ` returning position, created_at`

// errAborted: fn went on after a statement of its had failed, and PostgreSQL answers such a commit with a rollback.
var errAborted = errors.New("the transaction had failed before it was committed")

func committed(rows pgx.Rows) error {
	rows.Close()
	if rows.Err() == nil && rows.CommandTag().String() != "COMMIT" {
		return errAborted
	}
	return rows.Err()
}

func (s *Store) insert(msgs []*mainstay.Message) (outbox.Statement, error) {
	if err := s.outbox.Prepare(msgs); err != nil {
		return outbox.Statement{}, err
	}
	return outbox.PostgresInsert(msgs), nil
}

// rollbackTimeout bounds a rollback; a connection that does not answer is closed, which has the same effect.
const rollbackTimeout = 2 * time.Second

func (t *tx) rollback(ctx context.Context) {
	if t.first != nil {
		return // it has not begun
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTimeout)
	defer cancel()
	if _, err := t.conn.ExecContext(ctx, "rollback"); err != nil {
		t.abandon()
	}
}

// broken tells that the connection is gone.
func (t *tx) broken() bool {
	closed := true
	err := t.raw(func(conn *pgx.Conn) error {
		closed = conn.IsClosed()
		return nil
	})
	return closed || err != nil
}

// abandon closes the connection instead of giving it back to the pool.
func (t *tx) abandon() {
	_ = t.conn.Raw(func(any) error { return driver.ErrBadConn })
}

// Run runs fn in one transaction and commits it; for the business's own writes outside any handler.
func (s *Store) Run(ctx context.Context, fn func(ctx context.Context, tx mainstay.Tx) error) error {
	return s.do(ctx, nil, func(ctx context.Context, t *tx) error { return fn(ctx, t) })
}
