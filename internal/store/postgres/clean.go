package postgres

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/mainstay-io/mainstay/internal/lease"
	"github.com/mainstay-io/mainstay/internal/retention"
	"github.com/mainstay-io/mainstay/saga"
)

// errDry ends the transaction of a dry run.
var errDry = errors.New("nothing is removed in a dry run")

// clean runs a step's statements in one transaction under its lease.
func (s *Store) clean(ctx context.Context, st retention.Step, fn func(ctx context.Context, t *tx) error) error {
	err := s.do(ctx, s.under([]lease.Lease{st.Lease}, ""), func(ctx context.Context, t *tx) error {
		if err := fn(ctx, t); err != nil || !st.DryRun {
			return err
		}
		return errDry
	})
	if errors.Is(err, errDry) {
		return nil
	}
	return err
}

// scanRow scans the one row of a query.
func (t *tx) scanRow(ctx context.Context, query string, args []any, dest ...any) error {
	rows, err := t.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer rows.Close() // rows.Err tells
	if !rows.Next() {
		return errors.Join(rows.Err(), sql.ErrNoRows)
	}
	return rows.Scan(dest...)
}

// slack is for how long after its end an idempotency record stays, so that the clocks of two processes may differ.
const slack = time.Minute

const cleanIdempotency = `/* clean.idempotency */
with old as materialized (
    select principal, route, key from idempotency where expires_at <= $1 order by expires_at limit $2 for update skip locked
), gone as (
    delete from idempotency i using old o where i.principal = o.principal and i.route = o.route and i.key = o.key
    returning i.created_at
), noted as (
    insert into cleaned as c (name, before, removed)
    select 'idempotency', max(created_at) + interval '1 microsecond', count(*) from gone having count(*) > 0
    on conflict (name) do update set before = greatest(c.before, excluded.before), removed = c.removed + excluded.removed
)
select count(*) from gone`

// CleanIdempotency implements retention.Store.
func (s *Store) CleanIdempotency(ctx context.Context, st retention.Step) (retention.Result, error) {
	var n int64
	err := s.clean(ctx, st, func(ctx context.Context, t *tx) error {
		return t.scanRow(ctx, cleanIdempotency, []any{t.now.Add(-slack), st.Rows}, &n)
	})
	return removed(st, "idempotency", n), err
}

func removed(st retention.Step, table string, n int64) retention.Result {
	return retention.Result{Removed: map[string]int64{table: n}, More: n >= int64(st.Rows)}
}

// cleanDeadLetters: a log that is not here is another database's, and says nothing of its messages.
const cleanDeadLetters = `/* clean.dead_letters */
with old as materialized (
    select d.consumer, d.topic, d.lane, d.sequence from dead_letter d
    left join log_head h on h.topic = d.topic and h.lane = d.lane
    left join log_floor f on f.topic = d.topic and f.lane = d.lane
    where d.ended_at < $1 and (h.topic is null or d.sequence < f.first_sequence)
      and not exists (select from parked p where p.consumer = d.consumer and p.topic = d.topic and p.lane = d.lane and p.sequence = d.sequence)
    order by d.ended_at limit $2 for update of d skip locked
), gone as (
    delete from dead_letter d using old o
    where d.consumer = o.consumer and d.topic = o.topic and d.lane = o.lane and d.sequence = o.sequence
    returning d.ended_at
), noted as (
    insert into cleaned as c (name, before, removed)
    select 'dead_letter', max(ended_at) + interval '1 microsecond', count(*) from gone having count(*) > 0
    on conflict (name) do update set before = greatest(c.before, excluded.before), removed = c.removed + excluded.removed
)
select count(*) from gone`

// CleanDeadLetters implements retention.Store.
func (s *Store) CleanDeadLetters(ctx context.Context, st retention.Step) (retention.Result, error) {
	if st.Limits.History <= 0 {
		return retention.Result{}, nil
	}
	var n int64
	err := s.clean(ctx, st, func(ctx context.Context, t *tx) error {
		return t.scanRow(ctx, cleanDeadLetters, []any{t.now.Add(-st.Limits.History), st.Rows}, &n)
	})
	return removed(st, "dead_letter", n), err
}

const (
	// cleanSagas: sagas whose commands have left the outbox, so that none of them can come to a consumer any more. What
	// a person has decided stays, as nothing else tells why the ledgers are as they are.
	cleanSagas = `/* clean.sagas */
select s.id, s.state from saga s
where s.ended_at < $1 and s.ended_at < (select before - interval '1 minute' from cleaned where name = 'outbox')
  and s.state not like '%"code":"skipped"%' and s.state not like '%"code":"marked_done"%'
  and s.key not in (select key from parked)
  and s.id not in (select regexp_replace(step_key, '/[^/]*$', '') from parked)
  and s.key not in (select key from dead_letter where state in ('open', 'replaying'))
order by s.ended_at limit $2 for update skip locked`
	removeSagas = `/* clean.remove_sagas */
with outcomes as (
    delete from barrier where step_key = any($2::text[]) returning 1
), history as (
    delete from saga_history where saga_id = any($1::text[]) returning 1
), gone as (
    delete from saga where id = any($1::text[]) returning ended_at
), noted as (
    insert into cleaned as c (name, before, removed)
    select 'saga', max(ended_at) + interval '1 microsecond', count(*) from gone having count(*) > 0
    on conflict (name) do update set before = greatest(c.before, excluded.before), removed = c.removed + excluded.removed
)
select (select count(*) from outcomes), (select count(*) from history), (select count(*) from gone)`
)

// CleanSagas implements retention.Store.
func (s *Store) CleanSagas(ctx context.Context, st retention.Step) (retention.Result, error) {
	if st.Limits.History <= 0 {
		return retention.Result{}, nil
	}
	var outcomes, history, sagas int64
	err := s.clean(ctx, st, func(ctx context.Context, t *tx) error {
		ids, steps, err := t.endedSagas(ctx, st)
		if err != nil || len(ids) == 0 {
			return err
		}
		return t.scanRow(ctx, removeSagas, []any{ids, steps}, &outcomes, &history, &sagas)
	})
	return retention.Result{
		Removed: map[string]int64{"barrier": outcomes, "saga_history": history, "saga": sagas}, More: sagas >= int64(st.Rows),
	}, err
}

// endedSagas locks sagas that may go, and names them and their steps.
func (t *tx) endedSagas(ctx context.Context, st retention.Step) (ids, steps []string, err error) {
	rows, err := t.QueryContext(ctx, cleanSagas, t.now.Add(-st.Limits.History), st.Rows)
	if err != nil {
		return nil, nil, fmt.Errorf("looking for ended sagas: %w", err)
	}
	defer rows.Close() // rows.Err tells
	for rows.Next() {
		var id string
		var stored []byte
		if err := rows.Scan(&id, &stored); err != nil {
			return nil, nil, fmt.Errorf("looking for ended sagas: %w", err)
		}
		var state saga.State
		if err := json.Unmarshal(stored, &state); err != nil {
			return nil, nil, fmt.Errorf("decoding saga %s: %w", id, err)
		}
		ids = append(ids, id)
		for i := range state.Steps {
			steps = append(steps, id+"/"+state.Steps[i].Name)
		}
	}
	return ids, steps, rows.Err()
}

// cleanBarrier looks at the outcomes behind a place in the primary key. Both directions of a step go together: an
// action that came again after its outcome was forgotten, and its compensation's was not, would be taken for new.
const cleanBarrier = `/* clean.barrier */
with page as materialized (
    select step_key, participant, op, created_at from barrier
    where (step_key, participant, op) > ($1, $2, $3) order by step_key, participant, op limit $4
), gone as (
    delete from barrier b using page p
    where b.step_key = p.step_key and b.participant = p.participant and b.op = p.op and p.created_at < $5
      and not exists (select from barrier y where y.step_key = p.step_key and y.created_at >= $5)
      and not exists (select from saga s where s.id = regexp_replace(p.step_key, '/[^/]*$', ''))
      and p.step_key not in (select step_key from parked)
    returning b.created_at
), noted as (
    insert into cleaned as c (name, before, removed)
    select 'barrier', max(created_at) + interval '1 microsecond', count(*) from gone having count(*) > 0
    on conflict (name) do update set before = greatest(c.before, excluded.before), removed = c.removed + excluded.removed
)
select (select count(*) from gone), (select count(*) from page),
    coalesce((select jsonb_build_array(step_key, participant, op)::text from page order by step_key desc, participant desc, op desc limit 1), '')`

// CleanBarrier implements retention.Store. The cursor is the last primary key as a JSON array.
func (s *Store) CleanBarrier(ctx context.Context, st retention.Step) (retention.Result, error) {
	if st.Limits.Barrier <= 0 {
		return retention.Result{}, nil
	}
	after := make([]string, 3)
	if st.Cursor != "" {
		if err := json.Unmarshal([]byte(st.Cursor), &after); err != nil || len(after) != 3 {
			return retention.Result{}, fmt.Errorf("reading the cursor %q: %w", st.Cursor, err)
		}
	}
	var n, looked int64
	var cursor string
	err := s.clean(ctx, st, func(ctx context.Context, t *tx) error {
		return t.scanRow(ctx, cleanBarrier, []any{after[0], after[1], after[2], st.Rows, t.now.Add(-st.Limits.Barrier)}, &n, &looked, &cursor)
	})
	res := retention.Result{Removed: map[string]int64{"barrier": n}, More: looked >= int64(st.Rows)}
	if res.More {
		res.Cursor = cursor
	}
	return res, err
}
