package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/mainstay-io/mainstay/internal/obs"
)

// All of these visit what waits and no more, but for the tables consumer, place and log_head, which are small.
const (
	backlogUnhandled = `/* backlog.unhandled */
select p.consumer, p.topic, sum(max(coalesce(h.last_sequence, 0) - p.sequence, 0)), min((
    select o.created_at from outbox o
    where o.topic = p.topic and o.lane = p.lane and o.sequence > p.sequence order by o.sequence limit 1))
from place p left join log_head h on h.topic = p.topic and h.lane = p.lane
group by p.consumer, p.topic`
	backlogParked = `/* backlog.parked */
select c.name, '', count(p.parked_at), min(p.parked_at)
from consumer c left join parked p on p.consumer = c.name and p.state <> 'dead'
group by c.name`
	backlogDead = `/* backlog.dead */
select consumer, '', count(*), min(entered_at)
from dead_letter indexed by dead_letter_open where state in ('open', 'replaying') and state = 'open'
group by consumer`
	backlogSagas = `/* backlog.sagas */
select definition, status, count(*), min(created_at)
from saga indexed by saga_open where ended_at is null
group by definition, status`
	backlogHeld = `/* backlog.held */
select c.name, count(l.lane)
from (select name from consumer union select name from lease where name = '` + relayConsumer + `') as c
left join lease l on l.name = c.name and l.expires_at > $1
group by c.name`
)

// Backlog implements obs.BacklogReader.
func (s *Store) Backlog(ctx context.Context) (obs.Backlog, error) {
	b := obs.Backlog{
		Unhandled: map[obs.ConsumerTopic]obs.Depth{},
		Parked:    map[string]obs.Depth{},
		Dead:      map[string]obs.Depth{relayConsumer: {}},
		Sagas:     map[obs.SagaStatus]obs.Depth{},
		Unheld:    map[string]int{},
	}
	tx, err := s.reads.BeginTx(ctx, nil)
	if err != nil {
		return b, fmt.Errorf("reading the backlog: %w", err)
	}
	defer tx.Rollback() // it has only read
	now := s.cfg.Clock()
	for _, part := range []struct {
		query string
		put   func(a, b string, d obs.Depth)
	}{
		{backlogUnhandled, func(consumer, topic string, d obs.Depth) {
			b.Unhandled[obs.ConsumerTopic{Consumer: consumer, Topic: topic}] = d
		}},
		{backlogParked, func(consumer, _ string, d obs.Depth) { b.Parked[consumer], b.Dead[consumer] = d, obs.Depth{} }},
		{backlogDead, func(consumer, _ string, d obs.Depth) { b.Dead[consumer] = d }},
		{backlogSagas, func(name, status string, d obs.Depth) { b.Sagas[obs.SagaStatus{Saga: name, Status: status}] = d }},
	} {
		if err := readDepths(ctx, tx, now, part.query, part.put); err != nil {
			return b, fmt.Errorf("reading the backlog: %w", err)
		}
	}
	if err := s.readHeld(ctx, tx, now, b.Unheld); err != nil {
		return b, fmt.Errorf("reading the backlog: %w", err)
	}
	return b, nil
}

// readHeld counts the lanes of each name that nobody holds.
func (s *Store) readHeld(ctx context.Context, q queryer, now time.Time, unheld map[string]int) error {
	return each(ctx, q, func(rows *sql.Rows) error {
		var name string
		var held int
		err := rows.Scan(&name, &held)
		unheld[name] = s.Lanes() - held
		return err
	}, backlogHeld, micros(now))
}

// readDepths hands rows of two names, a count and the oldest time, if there is one, to put.
func readDepths(ctx context.Context, q queryer, now time.Time, query string, put func(a, b string, d obs.Depth)) error {
	return each(ctx, q, func(rows *sql.Rows) error {
		var name, other string
		var count int64
		var oldest sql.NullInt64
		if err := rows.Scan(&name, &other, &count, &oldest); err != nil {
			return err
		}
		d := obs.Depth{Count: count}
		if oldest.Valid {
			d.Oldest = max(0, now.Sub(fromMicros(oldest.Int64)))
		}
		put(name, other, d)
		return nil
	}, query)
}
