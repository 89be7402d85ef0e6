package postgres

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/mainstay-io/mainstay/internal/obs"
)

// All of these visit what waits and no more, but for the tables consumer, place and log_head, which are small.
const (
	backlogUnhandled = `/* backlog.unhandled */
select p.consumer as name, p.topic as other, sum(greatest(coalesce(h.last_sequence, 0) - p.sequence, 0))::bigint as count,
       extract(epoch from now() - min(o.created_at))::float8 as oldest
from place p left join log_head h using (topic, lane)
left join lateral (
    select oldest, newest, positions[greatest(p.sequence - first_sequence + 2, 1)] as position
    from log where log.topic = p.topic and log.lane = p.lane and log.last_sequence > p.sequence
    order by log.last_sequence limit 1
) as l on true
left join lateral (
    select created_at from outbox where position = l.position and created_at between l.oldest and l.newest
) as o on true
group by p.consumer, p.topic`
	backlogParked = `/* backlog.parked */
select c.name, '' as other, count(p.parked_at) as count, extract(epoch from now() - min(p.parked_at))::float8 as oldest
from consumer c left join parked p on p.consumer = c.name and p.state <> 'dead'
group by c.name`
	backlogDead = `/* backlog.dead */
select consumer as name, '' as other, count(*) as count, extract(epoch from now() - min(entered_at))::float8 as oldest
from dead_letter where state = 'open'
group by consumer`
	backlogSagas = `/* backlog.sagas */
select definition as name, status as other, count(*) as count, extract(epoch from now() - min(created_at))::float8 as oldest
from saga where ended_at is null
group by definition, status`
	backlogHeld = `/* backlog.held */
select c.name, '' as other, count(l.lane) as count, null::float8 as oldest
from (select name from consumer union select name from lease where name = '` + relayConsumer + `') as c
left join lease l on l.name = c.name and l.expires_at > now()
group by c.name`
)

type depthRow struct {
	Name, Other string
	Count       int64
	Oldest      sql.NullFloat64 // seconds
}

func (r depthRow) depth() obs.Depth {
	age := time.Duration(r.Oldest.Float64 * float64(time.Second))
	return obs.Depth{Count: r.Count, Oldest: max(0, age)}
}

// Backlog implements obs.BacklogReader. Of what the sequencer has not numbered yet, only the age is in it.
func (s *Store) Backlog(ctx context.Context) (obs.Backlog, error) {
	b := obs.Backlog{
		Unhandled: map[obs.ConsumerTopic]obs.Depth{},
		Parked:    map[string]obs.Depth{},
		Dead:      map[string]obs.Depth{relayConsumer: {}},
		Sagas:     map[obs.SagaStatus]obs.Depth{},
		Unheld:    map[string]int{},
	}
	tx, err := s.db.BeginTxx(ctx, &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true})
	if err != nil {
		return b, fmt.Errorf("reading the backlog: %w", translate(ctx, err))
	}
	defer tx.Rollback() // it has only read
	for _, part := range []struct {
		query string
		put   func(r depthRow)
	}{
		{backlogUnhandled, func(r depthRow) { b.Unhandled[obs.ConsumerTopic{Consumer: r.Name, Topic: r.Other}] = r.depth() }},
		{backlogParked, func(r depthRow) { b.Parked[r.Name], b.Dead[r.Name] = r.depth(), obs.Depth{} }},
		{backlogDead, func(r depthRow) { b.Dead[r.Name] = r.depth() }},
		{backlogHeld, func(r depthRow) { b.Unheld[r.Name] = s.Lanes() - int(r.Count) }},
		{backlogSagas, func(r depthRow) { b.Sagas[obs.SagaStatus{Saga: r.Name, Status: r.Other}] = r.depth() }},
	} {
		if err := readDepths(ctx, tx, part.query, part.put); err != nil {
			return b, fmt.Errorf("reading the backlog: %w", translate(ctx, err))
		}
	}
	if b.Unnumbered, err = unnumbered(ctx, tx); err != nil {
		return b, fmt.Errorf("reading the backlog: %w", translate(ctx, err))
	}
	return b, nil
}

func readDepths(ctx context.Context, tx *sqlx.Tx, query string, put func(depthRow)) error {
	var rows []depthRow
	if err := tx.SelectContext(ctx, &rows, query); err != nil {
		return err
	}
	for _, r := range rows {
		put(r)
	}
	return nil
}
