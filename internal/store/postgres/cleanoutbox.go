package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/mainstay-io/mainstay/internal/retention"
)

// The outbox is emptied a day at a time. What a step does depends on what the steps before it have left, all of it in
// the database, so that a cleaner that was killed is continued by another:
//
//	sealed    nobody writes to the day any more and all its messages have sequences, at most those noted with it
//	retired   it was old enough and nobody needed it: the logs' first sequences are beyond it
//	detached  concurrently, so that nobody waits; dropped
//	log       rows whose messages have all been dropped are removed

// day is one partition, or what is left of one.
type day struct {
	Name     string
	EndsAt   time.Time    `db:"ends_at"`
	Attached bool         // to the outbox
	Pending  bool         // its detaching was begun
	SealedAt sql.NullTime `db:"sealed_at"`
	Retired  bool
	Now      time.Time
}

const cleanDays = `/* clean.days */
select d.name, d.ends_at, i.inhrelid is not null as attached, coalesce(i.inhdetachpending, false) as pending, s.sealed_at,
    d.ends_at <= coalesce((select before from cleaned where name = 'outbox'), '-infinity') as retired, clock_timestamp() as now
from (
    select oid, relname as name, (to_date(right(relname, 8), 'YYYYMMDD') + 1)::timestamp at time zone 'UTC' as ends_at
    from pg_class where relnamespace = current_schema()::regnamespace and relkind = 'r' and relname ~ '^outbox_[0-9]{8}$'
) d
left join pg_inherits i on i.inhrelid = d.oid and i.inhparent = 'outbox'::regclass
left join outbox_sealed s on s.ends_at = d.ends_at
order by d.ends_at`

// CleanOutbox implements retention.Store.
func (s *Store) CleanOutbox(ctx context.Context, st retention.Step) (retention.Result, error) {
	var days []day
	if err := s.upkeep.SelectContext(ctx, &days, cleanDays); err != nil {
		return retention.Result{}, fmt.Errorf("listing the outbox's days: %w", translate(ctx, err))
	}
	days = slices.DeleteFunc(days, func(d day) bool { return d.EndsAt.After(d.Now) })
	res := retention.Result{Removed: map[string]int64{}, Oldest: map[string]time.Duration{}}
	for _, d := range days {
		if d.Attached && !d.Retired {
			res.Oldest["outbox"] = d.Now.Sub(d.EndsAt.AddDate(0, 0, -1))
			break
		}
	}
	for _, step := range []func(context.Context, retention.Step, []day, *retention.Result) error{s.sealDays, s.dropDays, s.retireDay, s.cleanLog} {
		if err := step(ctx, st, days, &res); err != nil || res.More || len(res.Holds) > 0 {
			return res, err
		}
	}
	return res, nil
}

// dropDays removes the partitions of days that were retired, those whose detaching was begun first: there can be one.
func (s *Store) dropDays(ctx context.Context, st retention.Step, days []day, res *retention.Result) error {
	if st.DryRun {
		return nil
	}
	retired := slices.DeleteFunc(slices.Clone(days), func(d day) bool { return !d.SealedAt.Valid || !d.Retired && !d.Pending })
	slices.SortStableFunc(retired, func(a, b day) int { return rank(a) - rank(b) })
	for _, d := range retired {
		switch held, err := s.dropDay(ctx, d); {
		case held:
			res.Holds = append(res.Holds, retention.Hold{Reason: retention.HeldByTransaction, For: overdue(d, st)})
			return nil
		case err != nil:
			return err
		}
	}
	return nil
}

func rank(d day) int {
	if d.Pending {
		return 0
	}
	return 1
}

// overdue is for how long a day has been old enough to go.
func overdue(d day, st retention.Step) time.Duration { return d.Now.Sub(d.EndsAt) - st.Limits.Outbox }

// dropDay detaches a partition and drops it; held says that a transaction is in the way, which is the next round's
// business. Names of partitions are the schema's own: letters, digits and an underscore.
func (s *Store) dropDay(ctx context.Context, d day) (held bool, err error) {
	var statements []string
	switch {
	case d.Pending:
		statements = append(statements, "/* clean.finalize */ alter table outbox detach partition "+d.Name+" finalize")
	case d.Attached:
		statements = append(statements, "/* clean.detach */ alter table outbox detach partition "+d.Name+" concurrently")
	}
	if d.Retired {
		statements = append(statements, "/* clean.drop */ drop table "+d.Name)
	}
	for _, statement := range statements {
		_, err := s.upkeep.ExecContext(ctx, statement)
		if pg := pgError(err); pg != nil && pg.Code == codeLockNotAvailable {
			return true, nil
		}
		if err != nil {
			return false, fmt.Errorf("dropping %s: %w", d.Name, translate(ctx, err))
		}
	}
	if !d.Retired {
		return false, nil
	}
	_, err = s.upkeep.ExecContext(ctx, `/* clean.unseal */ delete from outbox_sealed where ends_at = $1`, d.EndsAt)
	return false, translate(ctx, err)
}

const (
	sealWait = `/* clean.seal_wait */ set local lock_timeout = '500ms'`
	// sealLock waits for those who have written to the day and not ended: their rows cannot be seen yet.
	sealLock = `/* clean.seal_lock */ lock table %s in share mode`
	// sealDay: whatever is visible in the sequencer's snapshot has a sequence, so none is above the heads of now.
	sealDay = `/* clean.seal */
with sealed as (
    insert into outbox_sealed (ends_at, heads)
    select $1, coalesce((select jsonb_agg(jsonb_build_object('topic', topic, 'lane', lane, 'last_sequence', last_sequence)) from log_head), '[]')
    from sequencer_state q
    where q.upper is null
      and not exists (select from %s where xid >= pg_snapshot_xmin(q.snapshot) and not pg_visible_in_snapshot(xid, q.snapshot))
    on conflict do nothing returning 1
)
select count(*) from sealed`
)

// sealDays seals what has ended. A day that cannot be sealed yet holds nothing back before its time.
func (s *Store) sealDays(ctx context.Context, st retention.Step, days []day, res *retention.Result) error {
	for _, d := range days {
		if !d.Attached || d.Pending || d.Retired || d.SealedAt.Valid {
			continue
		}
		reason, err := s.seal(ctx, st, d)
		if err != nil {
			return err
		}
		if reason != "" && st.Limits.Outbox > 0 && overdue(d, st) > 0 {
			res.Holds = append(res.Holds, retention.Hold{Reason: reason, For: overdue(d, st)})
		}
		if reason != "" {
			return nil
		}
	}
	return nil
}

// seal answers with who is in the way, "" when the day was sealed.
func (s *Store) seal(ctx context.Context, st retention.Step, d day) (reason string, err error) {
	var sealed int64
	err = s.clean(ctx, st, func(ctx context.Context, t *tx) error {
		for _, statement := range []string{sealWait, fmt.Sprintf(sealLock, d.Name)} {
			if _, err := t.ExecContext(ctx, statement); err != nil {
				return err
			}
		}
		return t.scanRow(ctx, fmt.Sprintf(sealDay, d.Name), []any{d.EndsAt}, &sealed)
	})
	switch pg := pgError(err); {
	case pg != nil && pg.Code == codeLockNotAvailable:
		return retention.HeldByTransaction, nil
	case err != nil:
		return "", fmt.Errorf("sealing %s: %w", d.Name, err)
	case sealed == 0:
		return retention.HeldBySequencer, nil
	}
	return "", nil
}

const (
	// retireLock keeps consumers from registering before what is removed at the same time.
	retireLock = `/* clean.retire_lock */ select pg_advisory_xact_lock($1, 0)`
	// retireNeeds: a place, or the relay's progress, in an earlier incarnation is behind the next one's first sequence.
	retireNeeds = `/* clean.needs */
with sealed as (
    select h.topic, h.lane, h.last_sequence
    from outbox_sealed s cross join lateral jsonb_to_recordset(s.heads) as h(topic text, lane int, last_sequence bigint)
    where s.ends_at = $1
), readers as (
    select 'consumer' as reason, consumer as name, topic, lane, incarnation, sequence from place
    union all
    select 'relay', h.topic, h.topic, h.lane, coalesce(r.incarnation, 0), coalesce(r.sequence, 0)
    from sealed h left join relay_progress r using (topic, lane) where $2 or exists (select from relay_progress)
    union all
    select 'refill', topic, topic, lane, 9223372036854775807, sequence from refill
)
select r.reason, r.name from readers r join sealed h using (topic, lane)
where least(r.sequence, (select min(i.first_sequence) - 1 from incarnation i
    where i.topic = r.topic and i.lane = r.lane and i.id > r.incarnation)) < h.last_sequence
group by r.reason, r.name order by r.reason, r.name`
	retireDay = `/* clean.retire */
with sealed as (
    select h.topic, h.lane, h.last_sequence + 1 as first_sequence, h.last_sequence + 1 - coalesce(f.first_sequence, 1) as gone
    from outbox_sealed s cross join lateral jsonb_to_recordset(s.heads) as h(topic text, lane int, last_sequence bigint)
    left join log_floor f on f.topic = h.topic and f.lane = h.lane
    where s.ends_at = $1
), floors as (
    insert into log_floor as f (topic, lane, first_sequence) select topic, lane, first_sequence from sealed order by topic, lane
    on conflict (topic, lane) do update set first_sequence = greatest(f.first_sequence, excluded.first_sequence)
), noted as (
    insert into cleaned as c (name, before, removed) select 'outbox', $1, (select coalesce(sum(greatest(gone, 0)), 0) from sealed)
    on conflict (name) do update set before = greatest(c.before, excluded.before), removed = c.removed + excluded.removed
)
select coalesce(sum(greatest(gone, 0)), 0)::bigint from sealed`
)

// retireDay gives up the oldest day, if it is old enough and nobody needs it. Its age counts from when it was sealed:
// what a long transaction has written into it was numbered later, and before what is younger.
func (s *Store) retireDay(ctx context.Context, st retention.Step, days []day, res *retention.Result) error {
	at := slices.IndexFunc(days, func(d day) bool { return d.Attached && !d.Pending && !d.Retired })
	if at < 0 || st.Limits.Outbox <= 0 {
		return nil
	}
	d := days[at]
	if !d.SealedAt.Valid || d.Now.Sub(d.SealedAt.Time) < st.Limits.Outbox || overdue(d, st) < 0 {
		return nil
	}
	var gone int64
	err := s.clean(ctx, st, func(ctx context.Context, t *tx) error {
		if _, err := t.ExecContext(ctx, retireLock, s.lockClass(placesLock)); err != nil {
			return err
		}
		var err error
		if res.Holds, err = t.needs(ctx, d, st); err != nil || len(res.Holds) > 0 {
			return err
		}
		return t.scanRow(ctx, retireDay, []any{d.EndsAt}, &gone)
	})
	if err != nil {
		return fmt.Errorf("retiring %s: %w", d.Name, err)
	}
	res.Removed["outbox"] = gone
	res.More = len(res.Holds) == 0 && !st.DryRun
	return nil
}

// needs says who needs messages of a day.
func (t *tx) needs(ctx context.Context, d day, st retention.Step) ([]retention.Hold, error) {
	rows, err := t.QueryContext(ctx, retireNeeds, d.EndsAt, st.Limits.Published)
	if err != nil {
		return nil, err
	}
	defer rows.Close() // rows.Err tells
	var holds []retention.Hold
	for rows.Next() {
		h := retention.Hold{For: overdue(d, st)}
		if err := rows.Scan(&h.Reason, &h.Name); err != nil {
			return nil, err
		}
		holds = append(holds, h)
	}
	return holds, rows.Err()
}

// cleanLogRows: from the beginning of each log up to the first row with a message that is still there, so that what
// stays is dense.
const cleanLogRows = `/* clean.log */
with first as materialized (
    select l.topic, l.lane, l.first_sequence,
        bool_and(l.last_sequence < f.first_sequence and l.newest < b.before) over (partition by l.topic, l.lane order by l.first_sequence) as gone
    from cleaned b cross join log_floor f cross join lateral (
        select topic, lane, first_sequence, last_sequence, newest from log
        where log.topic = f.topic and log.lane = f.lane order by first_sequence limit $1
    ) as l where b.name = 'outbox'
), gone as (
    delete from log l using first where first.gone and l.topic = first.topic and l.lane = first.lane and l.first_sequence = first.first_sequence
    returning 1
)
select count(*) from gone`

// cleanLog removes rows of the log whose messages are gone: no partition of theirs is there any more.
func (s *Store) cleanLog(ctx context.Context, st retention.Step, _ []day, res *retention.Result) error {
	var n int64
	each := max(1, st.Rows/16) // of a log
	err := s.clean(ctx, st, func(ctx context.Context, t *tx) error {
		return t.scanRow(ctx, cleanLogRows, []any{each}, &n)
	})
	if err != nil {
		return fmt.Errorf("cleaning the log: %w", err)
	}
	res.Removed["log"] = n
	res.More = n > 0 && n >= int64(each)
	return nil
}

// partitionsAhead is for how many days there is a partition already.
const partitionsAhead = 7

const makeRoomQuery = `/* outbox.make_room */ select create_outbox_partitions($1)`

const roomQuery = `/* outbox.room */
select coalesce(max((to_date(right(c.relname, 8), 'YYYYMMDD') + 1)::timestamp at time zone 'UTC'), '1970-01-01 00:00:00Z')
from pg_inherits i join pg_class c on c.oid = i.inhrelid
where i.inhparent = 'outbox'::regclass and c.relname ~ '^outbox_[0-9]{8}$'`

// MakeRoom makes the outbox's partitions ahead of time.
func (s *Store) MakeRoom(ctx context.Context) (time.Time, error) {
	var made int
	failed := s.upkeep.GetContext(ctx, &made, makeRoomQuery, partitionsAhead)
	if failed != nil {
		failed = fmt.Errorf("creating partitions: %w", translate(ctx, failed))
	}
	var until time.Time
	if err := s.upkeep.GetContext(ctx, &until, roomQuery); err != nil {
		return time.Time{}, errors.Join(failed, fmt.Errorf("looking for the outbox's last partition: %w", translate(ctx, err)))
	}
	return until, failed
}
