package sqlite

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/mainstay-io/mainstay/internal/lane"
	"github.com/mainstay-io/mainstay/internal/lease"
)

const (
	registerQuery = `/* consumer.register */
insert into consumer (name, topics, start, registered_at) values ($1, $2, $3, $4)
on conflict (name) do update set topics = excluded.topics`
	registerPlace = `/* consumer.place */
insert into place (consumer, topic, lane, incarnation, sequence, message_id, elsewhere)
values ($1, $2, $3, 1 - $5, case
    when $4 then coalesce((select last_sequence from log_head where topic = $2 and lane = $3), 0)
    else coalesce((select first_sequence - 1 from log_floor where topic = $2 and lane = $3), 0) end, '', $5)
on conflict (consumer, topic, lane) do update set elsewhere = excluded.elsewhere,
    incarnation = case when excluded.elsewhere = 1 and place.sequence = 0 and place.message_id = '' then 0 else place.incarnation end
where place.elsewhere <> excluded.elsewhere`
	beginPlace = `/* consumer.begin */
update place set incarnation = $4, sequence = $5
where consumer = $1 and topic = $2 and lane = $3 and elsewhere = 1 and incarnation = 0 and sequence = 0`
)

// Register makes a consumer known, with a place in every lane of its topics: the earliest one is before the first
// message that is kept.
func (s *Store) Register(ctx context.Context, r lane.Registration) error {
	topics, err := json.Marshal(r.Topics)
	if err != nil {
		return fmt.Errorf("registering consumer %s: %w", r.Consumer, err)
	}
	start := "earliest"
	if r.Latest {
		start = "latest"
	}
	err = s.do(ctx, s.drain, func(_ context.Context, t *tx) error {
		t.Queue(registerQuery, r.Consumer, string(topics), start, t.now.UnixMicro())
		for _, topic := range r.Topics {
			elsewhere := 0
			if slices.Contains(r.Elsewhere, topic) {
				elsewhere = 1
			}
			for n := range s.Lanes() {
				t.Queue(registerPlace, r.Consumer, topic, n, r.Latest, elsewhere)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("registering consumer %s: %w", r.Consumer, err)
	}
	return nil
}

// Begin puts places that have not begun to where the consumer begins.
func (s *Store) Begin(ctx context.Context, consumer string, starts []lane.Place) error {
	err := s.do(ctx, s.drain, func(_ context.Context, t *tx) error {
		for _, p := range starts {
			t.Queue(beginPlace, consumer, p.Topic, p.Lane, p.Incarnation, p.Sequence)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("setting where %s begins: %w", consumer, err)
	}
	return nil
}

const placesQuery = `/* lane.places */
select topic, lane, incarnation, sequence, message_id from place
where consumer = $1 and lane in (select value from json_each($2))`

// Places reads the places of a consumer in the given lanes.
func (s *Store) Places(ctx context.Context, consumer string, lanes []int) ([]lane.Place, error) {
	var ps []lane.Place
	err := each(ctx, s, func(rows *sql.Rows) error {
		var p lane.Place
		if err := rows.Scan(&p.Topic, &p.Lane, &p.Incarnation, &p.Sequence, &p.MessageID); err != nil {
			return err
		}
		ps = append(ps, p)
		return nil
	}, placesQuery, consumer, array(lanes))
	if err != nil {
		return nil, fmt.Errorf("reading the places of %s: %w", consumer, err)
	}
	return ps, nil
}

const linesQuery = `/* lane.lines */
select p.topic, p.lane, coalesce(max(h.last_sequence), 0), min(p.sequence)
from place p left join log_head h on h.topic = p.topic and h.lane = p.lane
where p.topic in (select value from json_each($1)) and p.lane in (select value from json_each($2))
group by p.topic, p.lane`

// Lines reads how far the logs of topics have been handled.
func (s *Store) Lines(ctx context.Context, topics []string, lanes []int) ([]lane.Line, error) {
	var lines []lane.Line
	err := each(ctx, s, func(rows *sql.Rows) error {
		var l lane.Line
		if err := rows.Scan(&l.Topic, &l.Lane, &l.Head, &l.Place); err != nil {
			return err
		}
		lines = append(lines, l)
		return nil
	}, linesQuery, array(topics), array(lanes))
	if err != nil {
		return nil, fmt.Errorf("reading how far logs are handled: %w", err)
	}
	return lines, nil
}

// array gives v as the JSON array that json_each takes apart; v is a slice of numbers or strings.
func array(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // numbers and strings always encode
	}
	return string(b)
}

const parkedKeysQuery = `/* lane.parked_keys */
select topic, lane, sequence, key, state, step_key, op, attempts, due_at, error, parked_at from parked
where consumer = $1 and lane in (select value from json_each($2)) order by key, sequence`

// ParkedKeys lists what is parked in the given lanes, without bodies.
func (s *Store) ParkedKeys(ctx context.Context, consumer string, lanes []int) ([]lane.Parked, error) {
	var ps []lane.Parked
	err := each(ctx, s, func(rows *sql.Rows) error {
		var p lane.Parked
		if err := scanParked(rows, &p); err != nil {
			return err
		}
		ps = append(ps, p)
		return nil
	}, parkedKeysQuery, consumer, array(lanes))
	if err != nil {
		return nil, fmt.Errorf("listing what %s has parked: %w", consumer, err)
	}
	return ps, nil
}

func scanParked(rows *sql.Rows, p *lane.Parked, more ...any) error {
	var due, parked int64
	dest := append([]any{
		&p.Topic, &p.Lane, &p.Sequence, &p.Key, &p.State, &p.StepKey, &p.Op, &p.Attempts, &due, &p.Error, &parked,
	}, more...)
	if err := rows.Scan(dest...); err != nil {
		return err
	}
	p.Due, p.ParkedAt = fromMicros(due), fromMicros(parked)
	return nil
}

const loadParkedQuery = `/* lane.load_parked */
select topic, lane, sequence, key, state, step_key, op, attempts, due_at, error, parked_at, message from parked
where consumer = $1 and topic = $2 and lane = $3 and sequence = $4`

// LoadParked reads parked messages with their bodies.
func (s *Store) LoadParked(ctx context.Context, consumer string, refs []lane.Ref) ([]lane.Parked, error) {
	var ps []lane.Parked
	for _, r := range refs {
		err := each(ctx, s, func(rows *sql.Rows) error {
			var p lane.Parked
			var message string
			if err := scanParked(rows, &p, &message); err != nil {
				return err
			}
			m, err := decodeMessage(message)
			p.Message = m
			ps = append(ps, p)
			return err
		}, loadParkedQuery, consumer, r.Topic, r.Lane, r.Sequence)
		if err != nil {
			return nil, fmt.Errorf("loading what %s has parked: %w", consumer, err)
		}
	}
	return ps, nil
}

// Unit runs fn in one transaction under the unit's leases.
func (s *Store) Unit(ctx context.Context, u lane.Unit, fn func(ctx context.Context, tx lane.Tx) error) error {
	return s.do(ctx, s.drain, func(ctx context.Context, t *tx) error {
		if err := checkLeases(ctx, t, u.Leases); err != nil {
			return err
		}
		lt := &laneTx{tx: t, consumer: u.Consumer}
		if err := fn(ctx, lt); err != nil {
			return err
		}
		if lt.err != nil {
			return lt.err
		}
		return lt.move(ctx)
	})
}

// laneTx is a unit's transaction for the engine. The first mistake of a method without a result is kept in err.
type laneTx struct {
	*tx
	consumer string
	moves    [][2]lane.Place
	err      error
}

func (t *laneTx) Flush(context.Context) error { return t.flush() }

func (t *laneTx) Move(from, to lane.Place) { t.moves = append(t.moves, [2]lane.Place{from, to}) }

const moveQuery = `/* lane.move */
update place set incarnation = $4, sequence = $5, message_id = $6
where consumer = $1 and topic = $2 and lane = $3 and incarnation = $7 and sequence = $8`

func (t *laneTx) move(ctx context.Context) error {
	for _, m := range t.moves {
		from, to := m[0], m[1]
		n, err := affected(t.ExecContext(ctx, moveQuery, t.consumer, to.Topic, to.Lane,
			to.Incarnation, to.Sequence, to.MessageID, from.Incarnation, from.Sequence))
		if err != nil {
			return fmt.Errorf("moving the place of %s in %s/%d: %w", t.consumer, to.Topic, to.Lane, err)
		}
		if n != 1 {
			return fmt.Errorf("the place of %s in %s/%d is not at %d: %w", t.consumer, to.Topic, to.Lane, from.Sequence, lease.ErrFenced)
		}
	}
	return nil
}

const parkQuery = `/* lane.park */
insert into parked (consumer, topic, lane, sequence, key, state, step_key, op, attempts, due_at, message_id, message, error, parked_at)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)`

func (t *laneTx) Park(ps ...lane.Parked) {
	for _, p := range ps {
		message, err := encodeMessage(p.Message)
		if err != nil {
			t.err = errors.Join(t.err, err)
			return
		}
		t.Queue(parkQuery, t.consumer, p.Topic, p.Lane, p.Sequence, p.Key, string(p.State), p.StepKey, p.Op,
			p.Attempts, micros(p.Due), p.Message.ID, message, p.Error, t.now.UnixMicro())
	}
}

const reparkQuery = `/* lane.repark */
update parked set state = $5, attempts = $6, due_at = $7, error = $8, parked_at = case $9 when 0 then parked_at else $9 end
where consumer = $1 and topic = $2 and lane = $3 and sequence = $4`

func (t *laneTx) Repark(ps ...lane.Parked) {
	for _, p := range ps {
		t.queueOne(errNotParked, reparkQuery, t.consumer, p.Topic, p.Lane, p.Sequence, string(p.State), p.Attempts, micros(p.Due),
			p.Error, micros(p.ParkedAt))
	}
}

var errNotParked = fmt.Errorf("a parked message is not there any more: %w", lease.ErrFenced)

const unparkQuery = `/* lane.unpark */ delete from parked where consumer = $1 and topic = $2 and lane = $3 and sequence = $4`

func (t *laneTx) Unpark(refs ...lane.Ref) {
	for _, r := range refs {
		t.queueOne(errNotParked, unparkQuery, t.consumer, r.Topic, r.Lane, r.Sequence)
	}
}

const (
	deadLetterOnceQuery = `/* deadletter.once */
insert into dead_letter (consumer, topic, lane, sequence, key, message_id, type, message, kind, error, fingerprint, attempts, entered_at, state)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, 'open')
on conflict (consumer, topic, lane, sequence) do nothing`
	deadLetterQuery = `/* deadletter.open */
insert into dead_letter (consumer, topic, lane, sequence, key, message_id, type, message, kind, error, fingerprint, attempts, entered_at, state)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, 'open')
on conflict (consumer, topic, lane, sequence) do update set kind = excluded.kind, error = excluded.error,
    fingerprint = excluded.fingerprint, attempts = excluded.attempts, state = 'open', ended_at = null`
)

func (t *laneTx) DeadLetter(ds ...lane.DeadLetter) {
	for i := range ds {
		t.err = errors.Join(t.err, t.openCase(deadLetterQuery, &ds[i]))
	}
}

func (t *laneTx) openCase(query string, d *lane.DeadLetter) error {
	message, err := encodeMessage(d.Message)
	if err != nil {
		return err
	}
	t.Queue(query, t.consumer, d.Topic, d.Lane, d.Sequence, d.Message.Key, d.Message.ID, d.Message.Type,
		message, d.Kind.String(), d.Error, fingerprint(t.consumer, d), d.Attempts, d.At.UnixMicro())
	return nil
}

// fingerprint groups dead letters that failed alike.
func fingerprint(consumer string, d *lane.DeadLetter) string {
	sum := sha256.Sum256([]byte(consumer + "\x00" + d.Message.Type + "\x00" + d.Kind.String() + "\x00" + d.Error))
	return hex.EncodeToString(sum[:8])
}

const endDeadLetterQuery = `/* deadletter.end */
update dead_letter set state = $5, ended_at = $6
where consumer = $1 and topic = $2 and lane = $3 and sequence = $4 and state in ('open', 'replaying')`

func (t *laneTx) EndDeadLetter(end string, refs ...lane.Ref) {
	for _, r := range refs {
		t.Queue(endDeadLetterQuery, t.consumer, r.Topic, r.Lane, r.Sequence, end, t.now.UnixMicro())
	}
}

const barriersQuery = `/* barrier.read */
select step_key, op, outcome, code, detail, message_id from barrier
where participant = $1 and step_key in (select value from json_each($2))`

func (t *laneTx) Barriers(ctx context.Context, stepKeys []string) ([]lane.Barrier, error) {
	if len(stepKeys) == 0 {
		return nil, nil
	}
	return readBarriers(ctx, t, t.consumer, stepKeys)
}

// Barriers reads what committed units know of a participant's steps, in both directions.
func (s *Store) Barriers(ctx context.Context, consumer string, stepKeys []string) ([]lane.Barrier, error) {
	return readBarriers(ctx, s, consumer, stepKeys)
}

func readBarriers(ctx context.Context, q queryer, consumer string, stepKeys []string) ([]lane.Barrier, error) {
	var bs []lane.Barrier
	err := each(ctx, q, func(rows *sql.Rows) error {
		var b lane.Barrier
		if err := rows.Scan(&b.StepKey, &b.Op, &b.Outcome, &b.Code, &b.Detail, &b.MessageID); err != nil {
			return err
		}
		bs = append(bs, b)
		return nil
	}, barriersQuery, consumer, array(stepKeys))
	if err != nil {
		return nil, fmt.Errorf("reading the barrier of %s: %w", consumer, err)
	}
	return bs, nil
}

const putBarrierQuery = `/* barrier.put */
insert into barrier (participant, step_key, op, outcome, code, detail, message_id, created_at)
values ($1, $2, $3, $4, $5, $6, $7, $8)`

func (t *laneTx) PutBarriers(bs ...lane.Barrier) {
	for _, b := range bs {
		t.Queue(putBarrierQuery, t.consumer, b.StepKey, b.Op, string(b.Outcome), b.Code, b.Detail, b.MessageID, t.now.UnixMicro())
	}
}
