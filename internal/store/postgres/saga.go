package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/orchestrator"
)

const (
	insertSagas = `/* saga.insert */
insert into saga (id, version, status, data, state, due_at, updated_at, ended_at,
    definition, definition_version, correlation_id, key, lane, created_at)
select * from unnest($1::text[], $2::bigint[], $3::text[], $4::bytea[], $5::text[], $6::timestamptz[], $7::timestamptz[],
    $8::timestamptz[], $9::text[], $10::int[], $11::text[], $12::text[], $13::int[], $14::timestamptz[])`
	saveSagas = `/* saga.save */
with saved as (
    update saga s set version = r.version, status = r.status, data = r.data, state = r.state, due_at = r.due_at,
        updated_at = r.updated_at, ended_at = r.ended_at
    from unnest($1::text[], $2::bigint[], $3::text[], $4::bytea[], $5::text[], $6::timestamptz[], $7::timestamptz[],
        $8::timestamptz[]) as r(id, version, status, data, state, due_at, updated_at, ended_at)
    where s.id = r.id and s.version = r.version - 1
    returning 1
)
select fence((select count(*) from saved) = cardinality($1::text[]), 'a saga has another version by now', '40001')`
	insertHistory = `/* saga.history */
insert into saga_history (saga_id, version, at, message_id, entry, sent)
select * from unnest($1::text[], $2::bigint[], $3::timestamptz[], $4::text[], $5::text[], $6::text[]::jsonb[])`
)

// sagaColumns are the changing parts of instances as arrays, one for each column.
type sagaColumns struct {
	ids      []string
	versions []int64
	statuses []string
	data     [][]byte
	states   []string
	due      []*time.Time
	updated  []time.Time
	ended    []*time.Time
}

func columnsOf(rows []*orchestrator.Row) (*sagaColumns, error) {
	c := &sagaColumns{}
	for _, r := range rows {
		state, err := r.State.MarshalJSON() // directly: encoding/json would read it once more
		if err != nil {
			return nil, fmt.Errorf("encoding saga %s: %w", r.ID, err)
		}
		c.ids, c.versions = append(c.ids, r.ID), append(c.versions, r.Version)
		c.statuses, c.states = append(c.statuses, string(r.State.Status)), append(c.states, string(state))
		c.data = append(c.data, bytesOf(r.Data))
		c.due, c.ended = append(c.due, nullTime(r.Due)), append(c.ended, nullTime(r.Ended))
		c.updated = append(c.updated, r.UpdatedAt)
	}
	return c, nil
}

func (c *sagaColumns) args() []any {
	return []any{c.ids, c.versions, c.statuses, c.data, c.states, c.due, c.updated, c.ended}
}

// bytesOf gives an empty value for none, so that no null is stored.
func bytesOf(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

// Insert adds instances with their first history, in the round trip that commits.
func (s *Store) Insert(_ context.Context, tx mainstay.Tx, rows []*orchestrator.Row, hs []orchestrator.History) error {
	if len(rows) > 0 {
		c, err := columnsOf(rows)
		if err != nil {
			return err
		}
		n := len(rows)
		definitions, correlations, keys := make([]string, n), make([]string, n), make([]string, n)
		versions, lanes, created := make([]int, n), make([]int, n), make([]time.Time, n)
		for i, r := range rows {
			definitions[i], versions[i], correlations[i] = r.Definition, r.DefinitionVersion, r.CorrelationID
			keys[i], lanes[i], created[i] = r.Key, r.Lane, r.CreatedAt
		}
		tx.Queue(insertSagas, append(c.args(), definitions, versions, correlations, keys, lanes, created)...)
	}
	return queueHistory(tx, hs)
}

// Save writes instances whose Version was raised by one, in the round trip that commits.
func (s *Store) Save(_ context.Context, tx mainstay.Tx, rows []*orchestrator.Row, hs []orchestrator.History) error {
	if len(rows) > 0 {
		c, err := columnsOf(rows)
		if err != nil {
			return err
		}
		tx.Queue(saveSagas, c.args()...)
	}
	return queueHistory(tx, hs)
}

func queueHistory(tx mainstay.Tx, hs []orchestrator.History) error {
	if len(hs) == 0 {
		return nil
	}
	n := len(hs)
	ids, messages, entries, sent := make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	versions, at := make([]int64, n), make([]time.Time, n)
	for i, h := range hs {
		list, err := json.Marshal(append([]string{}, h.Sent...))
		if err != nil {
			return fmt.Errorf("encoding the history of saga %s: %w", h.SagaID, err)
		}
		ids[i], messages[i], entries[i], sent[i] = h.SagaID, h.MessageID, text(h.Entry), string(list)
		versions[i], at[i] = h.Version, h.At
	}
	tx.Queue(insertHistory, ids, versions, at, messages, entries, sent)
	return nil
}

const postponeSagas = `/* saga.postpone */
update saga s set due_at = r.due_at from unnest($1::text[], $2::timestamptz[]) as r(id, due_at) where s.id = r.id`

// Postpone writes the Due of instances, in the round trip that commits.
func (s *Store) Postpone(_ context.Context, tx mainstay.Tx, rows []*orchestrator.Row) error {
	ids, due := make([]string, len(rows)), make([]*time.Time, len(rows))
	for i, r := range rows {
		ids[i], due[i] = r.ID, nullTime(r.Due)
	}
	tx.Queue(postponeSagas, ids, due)
	return nil
}

const loadSagas = `/* saga.load */
select id, definition, definition_version, correlation_id, key, lane, version, data, state, due_at, created_at, updated_at, ended_at
from saga where id = any($1::text[]) order by id for update`

// runner is a transaction of this store, whatever stands around it.
type runner interface {
	run(ctx context.Context, b *batch) error
}

// Load reads and locks instances, in the order of their ids.
func (s *Store) Load(ctx context.Context, tx mainstay.Tx, ids []string) ([]*orchestrator.Row, error) {
	t, ok := tx.(runner)
	if !ok {
		return nil, fmt.Errorf("loading sagas: the transaction is a %T, not this store's", tx)
	}
	var out []*orchestrator.Row
	load := &batch{}
	load.add(func(rows pgx.Rows) error {
		for rows.Next() {
			r, err := scanSaga(rows)
			if err != nil {
				return err
			}
			out = append(out, r)
		}
		return rows.Err()
	}, loadSagas, ids)
	if err := t.run(ctx, load); err != nil {
		return nil, fmt.Errorf("loading sagas: %w", err)
	}
	return out, nil
}

func scanSaga(rows pgx.Rows) (*orchestrator.Row, error) {
	r := &orchestrator.Row{}
	var state []byte
	var due, ended *time.Time
	err := rows.Scan(&r.ID, &r.Definition, &r.DefinitionVersion, &r.CorrelationID, &r.Key, &r.Lane, &r.Version, &r.Data,
		&state, &due, &r.CreatedAt, &r.UpdatedAt, &ended)
	if err != nil {
		return nil, err
	}
	if err := r.State.UnmarshalJSON(state); err != nil {
		return nil, fmt.Errorf("decoding saga %s: %w", r.ID, err)
	}
	r.Due, r.Ended, r.CreatedAt, r.UpdatedAt = utc(due), utc(ended), r.CreatedAt.UTC(), r.UpdatedAt.UTC()
	return r, nil
}
