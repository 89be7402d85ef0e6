package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/outbox"
)

// tx is the transaction of one unit. Cancelling a caller must not interrupt the statements of its neighbours, so
// statements run under the writer's own context.
type tx struct {
	w      *writer
	now    time.Time
	queued []statement
	sent   []*mainstay.Message
	after  []func()
	rows   []*sql.Rows
	// lost is the failure of the database that may have ended the whole transaction; nothing runs after it.
	lost error
}

// statement is one that was queued.
type statement struct {
	sql  string
	args []any
	// missing is the error when it does not change one row; nil when it may change any number.
	missing error
}

func (t *tx) Dialect() mainstay.Dialect { return mainstay.SQLite }
func (t *tx) Now() time.Time            { return t.now }

func (t *tx) ExecContext(_ context.Context, query string, args ...any) (sql.Result, error) {
	if t.lost != nil {
		return nil, t.lost
	}
	st, args, err := t.w.statement(context.Background(), query, args)
	if err != nil {
		return nil, t.failed(err)
	}
	res, err := st.ExecContext(context.Background(), args...)
	return res, t.failed(err)
}

func (t *tx) QueryContext(_ context.Context, query string, args ...any) (*sql.Rows, error) {
	if t.lost != nil {
		return nil, t.lost
	}
	st, args, err := t.w.statement(context.Background(), query, args)
	if err != nil {
		return nil, t.failed(err)
	}
	rows, err := st.QueryContext(context.Background(), args...)
	if err != nil {
		return nil, t.failed(err)
	}
	t.rows = append(t.rows, rows)
	return rows, nil
}

// failed notes an error after which SQLite may have rolled back everything: a statement that ran then would commit
// by itself.
func (t *tx) failed(err error) error {
	if databaseToBlame(err) {
		t.lost = err
	}
	return err
}

// closeRows ends what a handler has left open.
func (t *tx) closeRows() {
	for _, rows := range t.rows {
		_ = rows.Close()
	}
	t.rows = nil
}

func (t *tx) Queue(query string, args ...any) {
	t.queued = append(t.queued, statement{sql: query, args: args})
}

func (t *tx) OnCommit(fn func()) { t.after = append(t.after, fn) }

func (t *tx) Send(msgs ...*mainstay.Message) { t.sent = append(t.sent, msgs...) }

// flush runs what is queued; rows that are inserted alike, one behind the other, are inserted together.
func (t *tx) flush() error {
	queued := t.queued
	t.queued = nil
	switch {
	case len(queued) == 0:
		return nil
	case t.lost != nil:
		return t.lost
	}
	return t.w.conn.Raw(func(conn any) error {
		for len(queued) > 0 {
			n, merged, err := t.w.runQueued(conn, queued)
			if err != nil {
				return fmt.Errorf("running a queued statement: %w", t.failed(err))
			}
			if missing := queued[0].missing; missing != nil && n != 1 {
				return missing
			}
			queued = queued[merged:]
		}
		return nil
	})
}

// queueOne queues a statement that must change one row; if it does not, the unit fails with missing.
func (t *tx) queueOne(missing error, query string, args ...any) {
	t.queued = append(t.queued, statement{sql: query, args: args, missing: missing})
}

// finish is the last thing that a unit does: queued statements, then the outbox. It gives back the
// messages with their sequences.
func (t *tx) finish(ctx context.Context) ([]*mainstay.Message, error) {
	if err := t.flush(); err != nil {
		return nil, err
	}
	if len(t.sent) == 0 {
		return nil, nil
	}
	if err := t.w.store.outbox.Prepare(t.sent); err != nil {
		return nil, err
	}
	if err := t.number(ctx); err != nil {
		return nil, err
	}
	for _, m := range t.sent {
		row := outbox.SQLiteInsert(m)
		t.Queue(row.SQL, row.Args...)
	}
	return t.sent, t.flush()
}

// number moves the heads of the logs on, and gives the messages their places.
func (t *tx) number(ctx context.Context) error {
	counts := map[mainstay.TopicLane]int64{}
	for _, m := range t.sent {
		counts[m.TopicLane()]++
	}
	for log, n := range counts {
		advance := outbox.SQLiteAdvance(log, n)
		var head int64
		if err := queryRow(ctx, t, advance.SQL, advance.Args, &head); err != nil {
			return fmt.Errorf("advancing the log %s/%d: %w", log.Topic, log.Lane, err)
		}
		counts[log] = head - n
	}
	at := t.now.Truncate(time.Microsecond)
	for _, m := range t.sent {
		counts[m.TopicLane()]++
		m.Sequence, m.CreatedAt = counts[m.TopicLane()], at
	}
	return nil
}

type queryer interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// queryRow scans the first row; sql.ErrNoRows when there is none.
func queryRow(ctx context.Context, q queryer, query string, args []any, dest ...any) error {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	if !rows.Next() {
		if err := rows.Err(); err != nil {
			return err
		}
		return sql.ErrNoRows
	}
	return rows.Scan(dest...)
}

// each calls scan for every row.
func each(ctx context.Context, q queryer, scan func(*sql.Rows) error, query string, args ...any) error {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func fromMicros(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
}
