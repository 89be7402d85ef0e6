package postgres

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/lane"
)

// laneTx is a unit's transaction for the engine. Its writes are collected, and become one statement of each kind in
// the round trip that commits.
type laneTx struct {
	*tx
	consumer string
	moves    [][2]lane.Place
	park     []lane.Parked
	repark   []lane.Parked
	unpark   []lane.Ref
	dead     []lane.DeadLetter
	ends     map[string][]lane.Ref
	barriers []lane.Barrier
}

func (t *laneTx) Move(from, to lane.Place)         { t.moves = append(t.moves, [2]lane.Place{from, to}) }
func (t *laneTx) Park(ps ...lane.Parked)           { t.park = append(t.park, ps...) }
func (t *laneTx) Repark(ps ...lane.Parked)         { t.repark = append(t.repark, ps...) }
func (t *laneTx) Unpark(refs ...lane.Ref)          { t.unpark = append(t.unpark, refs...) }
func (t *laneTx) DeadLetter(ds ...lane.DeadLetter) { t.dead = append(t.dead, ds...) }
func (t *laneTx) PutBarriers(bs ...lane.Barrier)   { t.barriers = append(t.barriers, bs...) }

func (t *laneTx) EndDeadLetter(end string, refs ...lane.Ref) {
	if t.ends == nil {
		t.ends = map[string][]lane.Ref{}
	}
	t.ends[end] = append(t.ends[end], refs...)
}

// Flush runs what is queued and collected so far.
func (t *laneTx) Flush(ctx context.Context) error {
	if err := t.collect(); err != nil {
		return err
	}
	return t.flush(ctx)
}

// collect queues what was collected. Places move before anything that is queued: a repetition of a unit that did commit
// then fails as fenced, and not by what it inserts again. A message that is unparked and parked again in one unit ends
// up parked.
func (t *laneTx) collect() error {
	queued := t.queued
	t.queued = nil
	t.queueMoves()
	t.queued = append(t.queued, queued...)
	if len(t.unpark) > 0 {
		topics, lanes, sequences := refColumns(t.unpark)
		t.Queue(unparkQuery, t.consumer, topics, lanes, sequences)
	}
	if err := t.queueParked(); err != nil {
		return err
	}
	if err := t.queueDead(); err != nil {
		return err
	}
	t.queueBarriers()
	*t = laneTx{tx: t.tx, consumer: t.consumer}
	return nil
}

// unparkQuery and reparkQuery look up each row by its whole key first. A join would be planned for a table of hardly any
// rows, and read all that the consumer has parked, those included that have just gone, for each row.
const unparkQuery = `/* lane.unpark */
with gone as (
    delete from parked where ctid = any(array(
        select p.ctid from unnest($2::text[], $3::int[], $4::bigint[]) as r(topic, lane, sequence)
        cross join lateral (
            select ctid from parked where consumer = $1 and topic = r.topic and lane = r.lane and sequence = r.sequence
            limit 1
        ) as p
    ))
    returning 1
)
select fence((select count(*) from gone) = cardinality($2::text[]), 'a parked message is not there any more')`

const (
	parkQuery = `/* lane.park */
insert into parked (consumer, topic, lane, sequence, key, state, step_key, op, attempts, due_at, error, message_id, message, parked_at)
select $1, p.*, $14 from unnest($2::text[], $3::int[], $4::bigint[], $5::text[], $6::text[], $7::text[], $8::text[],
    $9::int[], $10::timestamptz[], $11::text[], $12::text[], $13::bytea[]) as p`
	reparkQuery = `/* lane.repark */
with changed as (
    update parked p set state = r.state, attempts = r.attempts, due_at = r.due_at, error = r.error,
        parked_at = coalesce(r.parked_at, p.parked_at)
    from unnest($2::text[], $3::int[], $4::bigint[], $5::text[], $6::int[], $7::timestamptz[], $8::text[], $9::timestamptz[])
        as r(topic, lane, sequence, state, attempts, due_at, error, parked_at)
    cross join lateral (
        select ctid from parked where consumer = $1 and topic = r.topic and lane = r.lane and sequence = r.sequence
        limit 1
    ) as at
    where p.ctid = at.ctid
    returning 1
)
select fence((select count(*) from changed) = cardinality($2::text[]), 'a parked message is not there any more')`
)

// parkedColumns are parked messages as arrays, one for each column.
type parkedColumns struct {
	refs                           []lane.Ref
	keys, states, steps, ops, errs []string
	ids                            []string
	attempts                       []int
	due                            []time.Time
	parkedAt                       []*time.Time // nil leaves it
	messages                       [][]byte
}

func (c *parkedColumns) add(p lane.Parked) {
	c.refs = append(c.refs, p.Ref)
	c.keys, c.states = append(c.keys, p.Key), append(c.states, string(p.State))
	c.steps, c.ops = append(c.steps, p.StepKey), append(c.ops, p.Op)
	c.attempts, c.due, c.errs = append(c.attempts, p.Attempts), append(c.due, p.Due), append(c.errs, text(p.Error))
	var parkedAt *time.Time
	if !p.ParkedAt.IsZero() {
		parkedAt = &p.ParkedAt
	}
	c.parkedAt = append(c.parkedAt, parkedAt)
}

func (t *laneTx) queueParked() error {
	if len(t.park) > 0 {
		c := &parkedColumns{}
		for _, p := range t.park {
			message, err := encode(p.Message)
			if err != nil {
				return err
			}
			c.add(p)
			c.ids, c.messages = append(c.ids, p.Message.ID), append(c.messages, message)
		}
		topics, lanes, sequences := refColumns(c.refs)
		t.Queue(parkQuery, t.consumer, topics, lanes, sequences, c.keys, c.states, c.steps, c.ops,
			c.attempts, c.due, c.errs, c.ids, c.messages, t.now)
	}
	if len(t.repark) > 0 {
		c := &parkedColumns{}
		for _, p := range t.repark {
			c.add(p)
		}
		topics, lanes, sequences := refColumns(c.refs)
		t.Queue(reparkQuery, t.consumer, topics, lanes, sequences, c.states, c.attempts, c.due, c.errs, c.parkedAt)
	}
	return nil
}

const (
	deadLetterInsert = `/* deadletter.open */
insert into dead_letter (consumer, topic, lane, sequence, key, message_id, type, message, kind, error, fingerprint, attempts, entered_at, state)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, 'open')
on conflict (consumer, topic, lane, sequence) `
	// deadLetterReopen: the case of a message that was replayed and failed again.
	deadLetterReopen = deadLetterInsert + `do update set kind = excluded.kind, error = excluded.error,
    fingerprint = excluded.fingerprint, attempts = excluded.attempts, state = 'open', ended_at = null`
	endDeadLetterQuery = `/* deadletter.end */
update dead_letter d set state = $5, ended_at = $6
from unnest($2::text[], $3::int[], $4::bigint[]) as r(topic, lane, sequence)
where d.consumer = $1 and d.topic = r.topic and d.lane = r.lane and d.sequence = r.sequence
  and d.state in ('open', 'replaying')`
)

// queueDead ends cases before it opens others: a message may leave one end and come back.
func (t *laneTx) queueDead() error {
	for end, refs := range t.ends {
		topics, lanes, sequences := refColumns(refs)
		t.Queue(endDeadLetterQuery, t.consumer, topics, lanes, sequences, end, t.now)
	}
	for _, d := range t.dead {
		if err := t.queueDeadLetter(deadLetterReopen, d); err != nil {
			return err
		}
	}
	return nil
}

func (t *laneTx) queueDeadLetter(query string, d lane.DeadLetter) error {
	message, err := encode(d.Message)
	if err != nil {
		return err
	}
	t.Queue(query, t.consumer, d.Topic, d.Lane, d.Sequence, d.Message.Key, d.Message.ID, d.Message.Type,
		message, d.Kind.String(), text(d.Error), fingerprint(t.consumer, d), d.Attempts, d.At)
	return nil
}

// fingerprint groups dead letters that failed alike.
func fingerprint(consumer string, d lane.DeadLetter) string {
	sum := sha256.Sum256([]byte(consumer + "\x00" + d.Message.Type + "\x00" + d.Kind.String() + "\x00" + d.Error))
	return hex.EncodeToString(sum[:8])
}

const barriersQuery = `/* barrier.read */
select step_key, op, outcome, code, detail, message_id from barrier where participant = $1 and step_key = any($2::text[])`

func (t *laneTx) Barriers(ctx context.Context, stepKeys []string) ([]lane.Barrier, error) {
	if len(stepKeys) == 0 {
		return nil, nil
	}
	var bs []lane.Barrier
	read := &batch{}
	read.add(func(rows pgx.Rows) error {
		for rows.Next() {
			var b lane.Barrier
			if err := rows.Scan(&b.StepKey, &b.Op, &b.Outcome, &b.Code, &b.Detail, &b.MessageID); err != nil {
				return err
			}
			bs = append(bs, b)
		}
		return rows.Err()
	}, barriersQuery, t.consumer, stepKeys)
	if err := t.run(ctx, read); err != nil {
		return nil, fmt.Errorf("reading the barrier of %s: %w", t.consumer, err)
	}
	return bs, nil
}

const putBarriersQuery = `/* barrier.put */
insert into barrier (participant, step_key, op, outcome, code, detail, message_id, created_at)
select $1, b.*, $8 from unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[]) as b`

func (t *laneTx) queueBarriers() {
	if len(t.barriers) == 0 {
		return
	}
	n := len(t.barriers)
	keys, ops, outcomes := make([]string, n), make([]string, n), make([]string, n)
	codes, details, ids := make([]string, n), make([]string, n), make([]string, n)
	for i, b := range t.barriers {
		keys[i], ops[i], outcomes[i] = b.StepKey, b.Op, string(b.Outcome)
		codes[i], details[i], ids[i] = text(b.Code), text(b.Detail), b.MessageID
	}
	t.Queue(putBarriersQuery, t.consumer, keys, ops, outcomes, codes, details, ids, t.now)
}

// moveQuery looks up each place by where it was, so that it finds none of the versions before. An update that has waited
// for another one looks again at the columns of the row that is there then, not at its ctid (PostgreSQL before 17.7).
const moveQuery = `/* lane.move */
with moved as (
    update place p set incarnation = m.incarnation, sequence = m.sequence, message_id = m.message_id
    from unnest($2::text[], $3::int[], $4::bigint[], $5::bigint[], $6::text[], $7::bigint[], $8::bigint[])
        as m(topic, lane, incarnation, sequence, message_id, was_incarnation, was_sequence)
    cross join lateral (
        select ctid from place where consumer = $1 and topic = m.topic and lane = m.lane and sequence = m.was_sequence
          and incarnation = m.was_incarnation limit 1
    ) as at
    where p.ctid = at.ctid and p.sequence = m.was_sequence and p.incarnation = m.was_incarnation
    returning 1
)
select fence((select count(*) from moved) = cardinality($2::text[]), 'a place is not where it was')`

func (t *laneTx) queueMoves() {
	if len(t.moves) == 0 {
		return
	}
	n := len(t.moves)
	topics, lanes, ids := make([]string, n), make([]int, n), make([]string, n)
	incarnations, sequences := make([]int64, n), make([]int64, n)
	wasIncarnations, wasSequences := make([]int64, n), make([]int64, n)
	for i, m := range t.moves {
		from, to := m[0], m[1]
		topics[i], lanes[i], ids[i] = to.Topic, to.Lane, to.MessageID
		incarnations[i], sequences[i] = to.Incarnation, to.Sequence
		wasIncarnations[i], wasSequences[i] = from.Incarnation, from.Sequence
	}
	t.Queue(moveQuery, t.consumer, topics, lanes, incarnations, sequences, ids, wasIncarnations, wasSequences)
}

// encode gives the whole envelope for the parked and dead_letter tables.
func encode(m *mainstay.Message) ([]byte, error) {
	b, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encoding message %s: %w", m.ID, err)
	}
	return b, nil
}
