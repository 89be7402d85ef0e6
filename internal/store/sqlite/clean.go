package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/lease"
	"github.com/mainstay-io/mainstay/internal/retention"
	"github.com/mainstay-io/mainstay/saga"
)

// errDry ends the unit of a dry run.
var errDry = errors.New("nothing is removed in a dry run")

// clean runs a step as one unit under its lease. Pages that it frees are used again by what is written next, so the
// file does not grow by what is removed in time.
func (s *Store) clean(ctx context.Context, st retention.Step, fn func(ctx context.Context, t *tx) error) error {
	err := s.do(ctx, s.intake, func(ctx context.Context, t *tx) error {
		if err := checkLeases(ctx, t, []lease.Lease{st.Lease}); err != nil {
			return err
		}
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

const noteCleaned = `/* clean.note */
insert into cleaned (name, before, removed) values ($1, $2, $3)
on conflict (name) do update set before = max(before, excluded.before), removed = removed + excluded.removed`

// note writes down that rows were removed, none of which is younger than newest.
func (t *tx) note(table string, newest, n int64) {
	if n > 0 {
		t.Queue(noteCleaned, table, newest+1, n)
	}
}

// MakeRoom implements retention.Store: there is always room.
func (s *Store) MakeRoom(context.Context) (time.Time, error) { return time.Time{}, nil }

const (
	// firstNeeded is where the oldest message stands that a consumer has not handled ($1 is 0), the relay has not
	// published (1) or a refill has not published again (2), and who that is. Without any progress nothing is
	// published, unless $2 says so.
	firstNeeded = `/* clean.needed */
select o.position, o.created_at, r.name from (
    select consumer as name, topic, lane, sequence from place where $1 = 0
    union all
    select h.topic, h.topic, h.lane, coalesce(p.sequence, 0)
    from log_head h left join relay_progress p on p.topic = h.topic and p.lane = h.lane
    where $1 = 1 and ($2 or exists (select 1 from relay_progress))
    union all
    select topic, topic, lane, sequence from refill where $1 = 2
) r join outbox o on o.topic = r.topic and o.lane = r.lane and o.sequence = (
    select min(sequence) from outbox n where n.topic = r.topic and n.lane = r.lane and n.sequence > r.sequence)
order by o.position limit 1`
	oldMessages = `/* clean.outbox */
select position, created_at, topic, lane, sequence from outbox order by position limit $1`
	removeMessages = `/* clean.remove_messages */ delete from outbox where position <= $1`
	raiseFloor     = `/* clean.floor */
insert into log_floor (topic, lane, first_sequence) values ($1, $2, $3)
on conflict (topic, lane) do update set first_sequence = excluded.first_sequence`
)

// CleanOutbox implements retention.Store. Messages leave in the order of their positions, whatever their logs.
func (s *Store) CleanOutbox(ctx context.Context, st retention.Step) (res retention.Result, err error) {
	if st.Limits.Outbox <= 0 {
		return res, nil
	}
	err = s.clean(ctx, st, func(ctx context.Context, t *tx) error {
		res = retention.Result{Removed: map[string]int64{}, Oldest: map[string]time.Duration{}}
		return t.cleanOutbox(ctx, st, &res)
	})
	return res, err
}

func (t *tx) cleanOutbox(ctx context.Context, st retention.Step, res *retention.Result) error {
	before := t.now.Add(-st.Limits.Outbox).UnixMicro()
	needed, err := t.needed(ctx, st, before, res)
	if err != nil {
		return err
	}
	floors := map[mainstay.TopicLane]int64{}
	var last, newest, n int64
	more := true
	err = each(ctx, t, func(rows *sql.Rows) error {
		var position, created, sequence int64
		var log mainstay.TopicLane
		if err := rows.Scan(&position, &created, &log.Topic, &log.Lane, &sequence); err != nil || !more {
			return err
		}
		if created >= before || needed > 0 && position >= needed {
			more = false
			res.Oldest["outbox"] = t.now.Sub(fromMicros(created))
			return nil
		}
		last, newest, floors[log] = position, max(newest, created), sequence+1
		n++
		return nil
	}, oldMessages, st.Rows)
	if err != nil || n == 0 {
		return err
	}
	t.Queue(removeMessages, last)
	for log, first := range floors {
		t.Queue(raiseFloor, log.Topic, log.Lane, first)
	}
	t.note("outbox", newest, n)
	res.Removed["outbox"], res.More = n, more && n >= int64(st.Rows)
	return nil
}

// needed is the position of the oldest message that somebody needs, 0 for none; it is a hold when it is old enough to
// go.
func (t *tx) needed(ctx context.Context, st retention.Step, before int64, res *retention.Result) (int64, error) {
	first := int64(0)
	for i, reason := range []string{retention.HeldByConsumer, retention.HeldByRelay, retention.HeldByRefill} {
		var position, created int64
		var name string
		err := queryRow(ctx, t, firstNeeded, []any{i, st.Limits.Published}, &position, &created, &name)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			continue
		case err != nil:
			return 0, fmt.Errorf("looking for who needs old messages: %w", err)
		}
		if created < before {
			res.Holds = append(res.Holds, retention.Hold{Reason: reason, Name: name, For: time.Duration(before-created) * time.Microsecond})
		}
		if first == 0 || position < first {
			first = position
		}
	}
	return first, nil
}

const (
	oldRecords = `/* clean.idempotency */
select count(*), coalesce(max(created_at), 0) from (select created_at from idempotency where expires_at <= $1 order by expires_at limit $2) x`
	removeRecords = `/* clean.remove_records */
delete from idempotency where (principal, route, key) in (
    select principal, route, key from idempotency where expires_at <= $1 order by expires_at limit $2)`
)

// CleanIdempotency implements retention.Store.
func (s *Store) CleanIdempotency(ctx context.Context, st retention.Step) (retention.Result, error) {
	var n, newest int64
	err := s.clean(ctx, st, func(ctx context.Context, t *tx) error {
		if err := queryRow(ctx, t, oldRecords, []any{t.now.UnixMicro(), st.Rows}, &n, &newest); err != nil || n == 0 {
			return err
		}
		t.Queue(removeRecords, t.now.UnixMicro(), st.Rows)
		t.note("idempotency", newest, n)
		return nil
	})
	return removed(st, "idempotency", n), err
}

func removed(st retention.Step, table string, n int64) retention.Result {
	return retention.Result{Removed: map[string]int64{table: n}, More: n >= int64(st.Rows)}
}

const (
	oldCases = `/* clean.dead_letters */
select d.consumer, d.topic, d.lane, d.sequence, d.ended_at from dead_letter d
left join log_head h on h.topic = d.topic and h.lane = d.lane
left join log_floor f on f.topic = d.topic and f.lane = d.lane
where d.ended_at < $1 and (h.topic is null or d.sequence < f.first_sequence)
  and not exists (select 1 from parked p where p.consumer = d.consumer and p.topic = d.topic and p.lane = d.lane and p.sequence = d.sequence)
order by d.ended_at limit $2`
	removeCase = `/* clean.remove_case */ delete from dead_letter where consumer = $1 and topic = $2 and lane = $3 and sequence = $4`
)

// CleanDeadLetters implements retention.Store.
func (s *Store) CleanDeadLetters(ctx context.Context, st retention.Step) (retention.Result, error) {
	if st.Limits.History <= 0 {
		return retention.Result{}, nil
	}
	var n int64
	err := s.clean(ctx, st, func(ctx context.Context, t *tx) error {
		n = 0
		newest := int64(0)
		err := each(ctx, t, func(rows *sql.Rows) error {
			var consumer, topic string
			var lane, sequence, ended int64
			if err := rows.Scan(&consumer, &topic, &lane, &sequence, &ended); err != nil {
				return err
			}
			t.Queue(removeCase, consumer, topic, lane, sequence)
			n, newest = n+1, max(newest, ended)
			return nil
		}, oldCases, t.now.Add(-st.Limits.History).UnixMicro(), st.Rows)
		t.note("dead_letter", newest, n)
		return err
	})
	return removed(st, "dead_letter", n), err
}

const (
	// cleanSagas: sagas whose commands have left the outbox, so that none of them can come to a consumer any more. What
	// a person has decided stays, as nothing else tells why the ledgers are as they are.
	cleanSagas = `/* clean.sagas */
select s.id, s.state, s.ended_at from saga s
where s.ended_at < $1 and s.ended_at < (select before - 60000000 from cleaned where name = 'outbox')
  and s.state not like '%"code":"skipped"%' and s.state not like '%"code":"marked_done"%'
  and s.key not in (select key from parked)
  and s.id not in (select rtrim(rtrim(step_key, replace(step_key, '/', '')), '/') from parked)
  and s.key not in (select key from dead_letter where state in ('open', 'replaying'))
order by s.ended_at limit $2`
	nextParticipant = `/* clean.participant */ select participant from barrier where participant > $1 order by participant limit 1`
	removeOutcomes  = `/* clean.remove_outcomes */ delete from barrier where participant = $2 and step_key = $1`
	removeHistory   = `/* clean.remove_history */ delete from saga_history where saga_id = $1`
	removeSaga      = `/* clean.remove_saga */ delete from saga where id = $1`
)

// CleanSagas implements retention.Store.
func (s *Store) CleanSagas(ctx context.Context, st retention.Step) (retention.Result, error) {
	if st.Limits.History <= 0 {
		return retention.Result{}, nil
	}
	var res retention.Result
	err := s.clean(ctx, st, func(ctx context.Context, t *tx) error {
		res = retention.Result{Removed: map[string]int64{}}
		return t.cleanSagas(ctx, st, &res)
	})
	return res, err
}

// ended is a saga that may go.
type ended struct {
	id    string
	state saga.State
	at    int64
}

func (t *tx) cleanSagas(ctx context.Context, st retention.Step, res *retention.Result) error {
	var old []ended
	err := each(ctx, t, func(rows *sql.Rows) error {
		var e ended
		var state string
		if err := rows.Scan(&e.id, &state, &e.at); err != nil {
			return err
		}
		old = append(old, e)
		return json.Unmarshal([]byte(state), &old[len(old)-1].state)
	}, cleanSagas, t.now.Add(-st.Limits.History).UnixMicro(), max(1, st.Rows/10))
	if err != nil {
		return fmt.Errorf("looking for ended sagas: %w", err)
	}
	participants, err := t.participants(ctx)
	if err != nil {
		return err
	}
	newest := int64(0)
	for i := range old {
		if err := t.removeSaga(ctx, &old[i], participants, res); err != nil {
			return fmt.Errorf("removing saga %s: %w", old[i].id, err)
		}
		newest = max(newest, old[i].at)
	}
	t.note("saga", newest, int64(len(old)))
	res.More = len(old) >= max(1, st.Rows/10)
	return nil
}

// participants are those that the barrier knows, each found by its first row.
func (t *tx) participants(ctx context.Context) (names []string, err error) {
	for name := ""; ; names = append(names, name) {
		err := queryRow(ctx, t, nextParticipant, []any{name}, &name)
		if errors.Is(err, sql.ErrNoRows) {
			return names, nil
		}
		if err != nil {
			return nil, fmt.Errorf("looking for participants: %w", err)
		}
	}
}

func (t *tx) removeSaga(ctx context.Context, e *ended, participants []string, res *retention.Result) error {
	remove := func(table, query string, args ...any) error {
		n, err := affected(t.ExecContext(ctx, query, args...))
		res.Removed[table] += n
		return err
	}
	for i := range e.state.Steps {
		for _, participant := range participants {
			if err := remove("barrier", removeOutcomes, e.id+"/"+e.state.Steps[i].Name, participant); err != nil {
				return err
			}
		}
	}
	return errors.Join(remove("saga_history", removeHistory, e.id), remove("saga", removeSaga, e.id))
}

const (
	barrierPage = `/* clean.barrier */
select participant, step_key, op, created_at from barrier where (participant, step_key, op) > ($1, $2, $3)
order by participant, step_key, op limit $4`
	// removeOutcome removes both directions of a step together: an action that came again after its outcome was
	// forgotten, and its compensation's was not, would be taken for new.
	removeOutcome = `/* clean.remove_outcome */
delete from barrier where participant = $1 and step_key = $2
  and not exists (select 1 from barrier y where y.participant = $1 and y.step_key = $2 and y.created_at >= $3)
  and not exists (select 1 from saga where id = rtrim(rtrim($2, replace($2, '/', '')), '/'))
  and $2 not in (select step_key from parked)`
)

// CleanBarrier implements retention.Store. The cursor is the last primary key as a JSON array.
func (s *Store) CleanBarrier(ctx context.Context, st retention.Step) (retention.Result, error) {
	if st.Limits.Barrier <= 0 {
		return retention.Result{}, nil
	}
	after := [3]string{}
	if st.Cursor != "" {
		if err := json.Unmarshal([]byte(st.Cursor), &after); err != nil {
			return retention.Result{}, fmt.Errorf("reading the cursor %q: %w", st.Cursor, err)
		}
	}
	var res retention.Result
	err := s.clean(ctx, st, func(ctx context.Context, t *tx) error {
		res = retention.Result{Removed: map[string]int64{}}
		return t.cleanBarrier(ctx, st, after, &res)
	})
	return res, err
}

func (t *tx) cleanBarrier(ctx context.Context, st retention.Step, after [3]string, res *retention.Result) error {
	before := t.now.Add(-st.Limits.Barrier).UnixMicro()
	type outcome struct {
		key     [3]string
		created int64
	}
	var page []outcome
	err := each(ctx, t, func(rows *sql.Rows) error {
		var o outcome
		err := rows.Scan(&o.key[0], &o.key[1], &o.key[2], &o.created)
		page = append(page, o)
		return err
	}, barrierPage, after[0], after[1], after[2], st.Rows)
	if err != nil {
		return err
	}
	var total, newest int64
	for _, o := range page {
		if o.created >= before {
			continue
		}
		n, err := affected(t.ExecContext(ctx, removeOutcome, o.key[0], o.key[1], before))
		if err != nil {
			return err
		}
		if n > 0 {
			total, newest = total+n, max(newest, o.created)
		}
	}
	t.note("barrier", newest, total)
	res.Removed["barrier"] = total
	if len(page) < st.Rows {
		return nil
	}
	cursor, err := json.Marshal(page[len(page)-1].key)
	res.More, res.Cursor = true, string(cursor)
	return err
}
