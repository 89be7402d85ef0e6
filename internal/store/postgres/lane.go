package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/lane"
)

// placesLock is the class of two advisory locks. The first keeps a place from being made below what is removed at the
// same time: whoever registers shares it. The second lets one register at a time, so that no place is made twice.
const placesLock = "places"

const (
	registerLock  = `/* consumer.lock */ select pg_advisory_xact_lock_shared($1, 0), pg_advisory_xact_lock($1, 1)`
	registerQuery = `/* consumer.register */
insert into consumer (name, topics, start, registered_at) values ($1, $2, $3, $4)
on conflict (name) do update set topics = excluded.topics`
	registerElsewhere = `/* consumer.elsewhere */
update place set elsewhere = not elsewhere,
    incarnation = case when not elsewhere and sequence = 0 and message_id = '' then 0 else incarnation end
where consumer = $1 and topic = any($2::text[]) and elsewhere <> (topic = any($3::text[]))`
	registerPlaces = `/* consumer.places */
insert into place (consumer, topic, lane, incarnation, sequence, message_id, elsewhere)
select $1, topic, lane, case when topic = any($5::text[]) then 0 else (select incarnation from sequencer_state) end,
    case when $4 then coalesce(h.last_sequence, 0) else coalesce(f.first_sequence - 1, 0) end, '', topic = any($5::text[])
from unnest($2::text[]) as topic cross join generate_series(0, $3::int - 1) as lane
left join log_head h using (topic, lane) left join log_floor f using (topic, lane)
where not exists (select from place p where p.consumer = $1 and p.topic = topic.topic and p.lane = lane.lane)
order by topic, lane`
	beginQuery = `/* consumer.begin */
update place p set incarnation = s.incarnation, sequence = s.sequence
from unnest($2::text[], $3::int[], $4::bigint[], $5::bigint[]) as s(topic, lane, incarnation, sequence)
where p.consumer = $1 and p.topic = s.topic and p.lane = s.lane and p.elsewhere and p.incarnation = 0 and p.sequence = 0`
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
	err = s.do(ctx, nil, func(_ context.Context, t *tx) error {
		t.Queue(registerLock, s.lockClass(placesLock))
		t.Queue(registerQuery, r.Consumer, string(topics), start, t.now)
		elsewhere := append([]string{}, r.Elsewhere...)
		t.Queue(registerElsewhere, r.Consumer, r.Topics, elsewhere)
		t.Queue(registerPlaces, r.Consumer, r.Topics, s.Lanes(), r.Latest, elsewhere)
		return nil
	})
	if err != nil {
		return fmt.Errorf("registering consumer %s: %w", r.Consumer, err)
	}
	return nil
}

// Begin puts places that have not begun to where the consumer begins.
func (s *Store) Begin(ctx context.Context, consumer string, starts []lane.Place) error {
	topics, lanes := make([]string, len(starts)), make([]int, len(starts))
	incarnations, sequences := make([]int64, len(starts)), make([]int64, len(starts))
	for i, p := range starts {
		topics[i], lanes[i], incarnations[i], sequences[i] = p.Topic, p.Lane, p.Incarnation, p.Sequence
	}
	if _, err := s.db.ExecContext(ctx, beginQuery, consumer, topics, lanes, incarnations, sequences); err != nil {
		return fmt.Errorf("setting where %s begins: %w", consumer, translate(ctx, err))
	}
	return nil
}

const placesQuery = `/* lane.places */
select topic, lane, incarnation, sequence, message_id from place where consumer = $1 and lane = any($2::int[])`

// Places reads the places of a consumer in the given lanes.
func (s *Store) Places(ctx context.Context, consumer string, lanes []int) ([]lane.Place, error) {
	var rows []progressRow
	if err := s.db.SelectContext(ctx, &rows, placesQuery, consumer, lanes); err != nil {
		return nil, fmt.Errorf("reading the places of %s: %w", consumer, translate(ctx, err))
	}
	ps := make([]lane.Place, len(rows))
	for i, r := range rows {
		ps[i] = lane.Place{
			TopicLane:   mainstay.TopicLane{Topic: r.Topic, Lane: r.Lane},
			Incarnation: r.Incarnation, Sequence: r.Sequence, MessageID: r.MessageID,
		}
	}
	return ps, nil
}

const linesQuery = `/* lane.lines */
select p.topic, p.lane, coalesce(max(h.last_sequence), 0) as head, min(p.sequence) as place
from place p left join lateral (
    select last_sequence from log_head where topic = p.topic and lane = p.lane order by last_sequence desc limit 1
) as h on true
where p.topic = any($1::text[]) and p.lane = any($2::int[])
group by p.topic, p.lane`

// Lines reads how far the logs of topics have been handled.
func (s *Store) Lines(ctx context.Context, topics []string, lanes []int) ([]lane.Line, error) {
	var rows []struct {
		Topic       string
		Lane        int
		Head, Place int64
	}
	if err := s.db.SelectContext(ctx, &rows, linesQuery, topics, lanes); err != nil {
		return nil, fmt.Errorf("reading how far logs are handled: %w", translate(ctx, err))
	}
	lines := make([]lane.Line, len(rows))
	for i, r := range rows {
		lines[i] = lane.Line{TopicLane: mainstay.TopicLane{Topic: r.Topic, Lane: r.Lane}, Head: r.Head, Place: r.Place}
	}
	return lines, nil
}

type parkedRow struct {
	Topic    string
	Lane     int
	Sequence int64
	Key      string
	State    string
	StepKey  string `db:"step_key"`
	Op       string
	Attempts int
	Due      *time.Time `db:"due_at"`
	Error    string
	ParkedAt time.Time `db:"parked_at"`
	Message  []byte
}

func (r *parkedRow) parked() (lane.Parked, error) {
	p := lane.Parked{
		Ref: lane.Ref{TopicLane: mainstay.TopicLane{Topic: r.Topic, Lane: r.Lane}, Sequence: r.Sequence},
		Key: r.Key, State: lane.ParkedState(r.State), StepKey: r.StepKey, Op: r.Op, Attempts: r.Attempts,
		Due: utc(r.Due), Error: r.Error, ParkedAt: r.ParkedAt.UTC(),
	}
	if r.Message == nil {
		return p, nil
	}
	p.Message = &mainstay.Message{}
	if err := json.Unmarshal(r.Message, p.Message); err != nil {
		return p, fmt.Errorf("decoding parked message %s/%d/%d: %w", r.Topic, r.Lane, r.Sequence, err)
	}
	return p, nil
}

func parkedRows(rows []parkedRow) ([]lane.Parked, error) {
	ps := make([]lane.Parked, 0, len(rows))
	for i := range rows {
		p, err := rows[i].parked()
		if err != nil {
			return nil, err
		}
		ps = append(ps, p)
	}
	return ps, nil
}

const parkedKeysQuery = `/* lane.parked_keys */
select topic, lane, sequence, key, state, step_key, op, attempts, due_at, error, parked_at
from parked where consumer = $1 and lane = any($2::int[]) order by key collate "C", sequence`

// ParkedKeys lists what is parked in the given lanes, without bodies.
func (s *Store) ParkedKeys(ctx context.Context, consumer string, lanes []int) ([]lane.Parked, error) {
	var rows []parkedRow
	if err := s.db.SelectContext(ctx, &rows, parkedKeysQuery, consumer, lanes); err != nil {
		return nil, fmt.Errorf("listing what %s has parked: %w", consumer, translate(ctx, err))
	}
	return parkedRows(rows)
}

const loadParkedQuery = `/* lane.load_parked */
select p.topic, p.lane, p.sequence, p.key, p.state, p.step_key, p.op, p.attempts, p.due_at, p.error, p.parked_at, p.message
from unnest($2::text[], $3::int[], $4::bigint[]) with ordinality as r(topic, lane, sequence, n)
cross join lateral (
    select * from parked where consumer = $1 and topic = r.topic and lane = r.lane and sequence = r.sequence limit 1
) as p
order by r.n`

// LoadParked reads parked messages with their bodies, in the order of refs.
func (s *Store) LoadParked(ctx context.Context, consumer string, refs []lane.Ref) ([]lane.Parked, error) {
	var rows []parkedRow
	topics, lanes, sequences := refColumns(refs)
	if err := s.db.SelectContext(ctx, &rows, loadParkedQuery, consumer, topics, lanes, sequences); err != nil {
		return nil, fmt.Errorf("loading what %s has parked: %w", consumer, translate(ctx, err))
	}
	return parkedRows(rows)
}

func refColumns(refs []lane.Ref) (topics []string, lanes []int, sequences []int64) {
	for _, r := range refs {
		topics, lanes, sequences = append(topics, r.Topic), append(lanes, r.Lane), append(sequences, r.Sequence)
	}
	return topics, lanes, sequences
}

// Unit runs fn in one transaction under the unit's leases, in its era: the one that its lanes were read in.
func (s *Store) Unit(ctx context.Context, u lane.Unit, fn func(ctx context.Context, tx lane.Tx) error) error {
	return s.do(ctx, s.under(u.Leases, u.Era), func(ctx context.Context, t *tx) error {
		lt := &laneTx{tx: t, consumer: u.Consumer}
		if err := fn(ctx, lt); err != nil {
			return err
		}
		return lt.collect()
	})
}

// utc gives the zero time for a null.
func utc(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.UTC()
}

// nullTime gives a null for the zero time.
func nullTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
