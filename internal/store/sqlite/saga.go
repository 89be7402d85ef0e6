package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/orchestrator"
)

const insertSagaQuery = `/* saga.insert */
insert into saga (id, definition, definition_version, correlation_id, key, lane, status, version, data, state, due_at, created_at, updated_at, ended_at)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)`

// Insert adds instances with their first history.
func (s *Store) Insert(_ context.Context, tx mainstay.Tx, rows []*orchestrator.Row, hs []orchestrator.History) error {
	for _, r := range rows {
		state, err := r.State.MarshalJSON() // directly: encoding/json would read it once more
		if err != nil {
			return fmt.Errorf("encoding saga %s: %w", r.ID, err)
		}
		tx.Queue(insertSagaQuery, r.ID, r.Definition, r.DefinitionVersion, r.CorrelationID, r.Key, r.Lane,
			string(r.State.Status), r.Version, r.Data, string(state), nullMicros(r.Due), r.CreatedAt.UnixMicro(),
			r.UpdatedAt.UnixMicro(), nullMicros(r.Ended))
	}
	queueHistory(tx, hs)
	return nil
}

func nullMicros(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UnixMicro()
}

const historyQuery = `/* saga.history */
insert into saga_history (saga_id, version, at, message_id, entry, sent) values ($1, $2, $3, $4, $5, $6)`

func queueHistory(tx mainstay.Tx, hs []orchestrator.History) {
	for _, h := range hs {
		tx.Queue(historyQuery, h.SagaID, h.Version, h.At.UnixMicro(), h.MessageID, h.Entry, array(append([]string{}, h.Sent...)))
	}
}

const loadSagaQuery = `/* saga.load */
select id, definition, definition_version, correlation_id, key, lane, version, data, state, due_at, created_at, updated_at, ended_at
from saga where id in (select value from json_each($1)) order by id`

// Load reads instances; the one writer is lock enough.
func (s *Store) Load(ctx context.Context, tx mainstay.Tx, ids []string) ([]*orchestrator.Row, error) {
	var out []*orchestrator.Row
	err := each(ctx, tx, func(rows *sql.Rows) error {
		r := &orchestrator.Row{}
		var state []byte
		var due, ended sql.NullInt64
		var created, updated int64
		err := rows.Scan(&r.ID, &r.Definition, &r.DefinitionVersion, &r.CorrelationID, &r.Key, &r.Lane, &r.Version, &r.Data,
			&state, &due, &created, &updated, &ended)
		if err != nil {
			return err
		}
		r.Due, r.Ended = fromMicros(due.Int64), fromMicros(ended.Int64)
		r.CreatedAt, r.UpdatedAt = fromMicros(created), fromMicros(updated)
		out = append(out, r)
		return r.State.UnmarshalJSON(state)
	}, loadSagaQuery, array(ids))
	if err != nil {
		return nil, fmt.Errorf("loading sagas: %w", err)
	}
	return out, nil
}

// An instance's data is fixed when it is started. What no index has is written alone where it can be: for every index with
// a column that a statement sets, SQLite takes the entry out and puts one in, be it the same.
const (
	moveSagaQuery = `/* saga.move */
update saga set status = $3, version = $2, state = $4, updated_at = $5 where id = $1 and version = $2 - 1`
	saveSagaQuery = `/* saga.save */
update saga set status = $3, version = $2, state = $4, updated_at = $5, due_at = $6, ended_at = $7
where id = $1 and version = $2 - 1`
)

var errSagaChanged = errors.New("a saga was changed since it was loaded")

// Save writes instances whose Version was raised by one.
func (s *Store) Save(_ context.Context, tx mainstay.Tx, rows []*orchestrator.Row, hs []orchestrator.History) error {
	own, ok := tx.(interface {
		queueOne(missing error, query string, args ...any)
	})
	if !ok {
		return fmt.Errorf("saving sagas in a transaction of another store, a %T", tx)
	}
	for _, r := range rows {
		state, err := r.State.MarshalJSON() // directly: encoding/json would read it once more
		if err != nil {
			return fmt.Errorf("encoding saga %s: %w", r.ID, err)
		}
		query := moveSagaQuery
		args := []any{r.ID, r.Version, string(r.State.Status), string(state), r.UpdatedAt.UnixMicro()}
		if !r.DueKept || !r.Ended.IsZero() {
			query, args = saveSagaQuery, append(args, nullMicros(r.Due), nullMicros(r.Ended))
		}
		own.queueOne(errSagaChanged, query, args...)
	}
	queueHistory(tx, hs)
	return nil
}

const postponeQuery = `/* saga.postpone */ update saga set due_at = $2 where id = $1`

// Postpone writes the Due of instances.
func (s *Store) Postpone(_ context.Context, tx mainstay.Tx, rows []*orchestrator.Row) error {
	for _, r := range rows {
		tx.Queue(postponeQuery, r.ID, nullMicros(r.Due))
	}
	return nil
}

const dueSagaQuery = `/* saga.due */
select id from saga where definition = $1 and lane in (select value from json_each($2)) and due_at <= $3
order by due_at limit $4`

const urgentSagaQuery = `/* saga.urgent */
select id from saga where definition = $1 and lane in (select value from json_each($2)) and due_at <= $3
and created_at <= $5 and status <> 'compensating' order by due_at limit $4`

// Due reads the ids of instances whose time has come.
func (s *Store) Due(ctx context.Context, definition string, lanes []int, now time.Time, limit int) ([]string, error) {
	return s.dueSagas(ctx, dueSagaQuery, definition, array(lanes), now.UnixMicro(), limit)
}

// Urgent reads the ids of instances whose time has come, that go forward and have begun by then.
func (s *Store) Urgent(ctx context.Context, definition string, lanes []int, now, begun time.Time, limit int) ([]string, error) {
	return s.dueSagas(ctx, urgentSagaQuery, definition, array(lanes), now.UnixMicro(), limit, begun.UnixMicro())
}

func (s *Store) dueSagas(ctx context.Context, query string, args ...any) ([]string, error) {
	var ids []string
	err := each(ctx, s, func(rows *sql.Rows) error {
		var id string
		if err := rows.Scan(&id); err != nil {
			return err
		}
		ids = append(ids, id)
		return nil
	}, query, args...)
	if err != nil {
		return nil, fmt.Errorf("reading due sagas: %w", err)
	}
	return ids, nil
}
