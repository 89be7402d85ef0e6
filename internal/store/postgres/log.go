package postgres

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/lease"
	"github.com/mainstay-io/mainstay/outbox"
)

// headsQuery jumps from the end of one log to the end of the next, over what was there before and some open transaction
// could still see.
const headsQuery = `/* log.heads */
with recursive head as (
    (select topic, lane, last_sequence from log_head order by topic desc, lane desc, last_sequence desc limit 1)
    union all
    select next.* from head h cross join lateral (
        select topic, lane, last_sequence from log_head where (topic, lane) < (h.topic, h.lane)
        order by topic desc, lane desc, last_sequence desc limit 1
    ) as next
)
select topic, lane, last_sequence from head`

type headRow struct {
	Topic    string
	Lane     int
	Sequence int64 `db:"last_sequence"`
}

// Heads answers with the last sequence of every log.
func (s *Store) Heads(ctx context.Context) (map[mainstay.TopicLane]int64, error) {
	if heads := s.tail.ends(); heads != nil {
		return heads, nil
	}
	return s.readHeads(ctx, headsQuery)
}

const floorsQuery = `/* log.floors */ select topic, lane, first_sequence as last_sequence from log_floor`

// FirstRetained answers with the first sequence that is kept of every log of which messages were removed; of the others
// it is 1.
func (s *Store) FirstRetained(ctx context.Context) (map[mainstay.TopicLane]int64, error) {
	return s.readHeads(ctx, floorsQuery)
}

func (s *Store) readHeads(ctx context.Context, query string) (map[mainstay.TopicLane]int64, error) {
	var rows []headRow
	if err := s.db.SelectContext(ctx, &rows, query); err != nil {
		return nil, fmt.Errorf("reading the heads of the logs: %w", translate(ctx, err))
	}
	heads := make(map[mainstay.TopicLane]int64, len(rows))
	for _, r := range rows {
		heads[mainstay.TopicLane{Topic: r.Topic, Lane: r.Lane}] = r.Sequence
	}
	return heads, nil
}

// ReadLog reads messages of the given logs, from memory where it holds the next one.
func (s *Store) ReadLog(ctx context.Context, after map[mainstay.TopicLane]int64, limit int) ([]*mainstay.Message, error) {
	return s.ReadLogIn(ctx, "", after, limit)
}

// errAnotherEra is lease.ErrFenced, as the fence of a unit's era is.
var errAnotherEra = fmt.Errorf("%w: the database may have gone back to an earlier moment", lease.ErrFenced)

// ReadLogIn is ReadLog in an era; "" is any.
func (s *Store) ReadLogIn(ctx context.Context, era string, after map[mainstay.TopicLane]int64, limit int) ([]*mainstay.Message, error) {
	if len(after) == 0 {
		return nil, nil
	}
	share := max(1, limit/len(after))
	out, missing, began := s.tail.next(after, share)
	if era != "" && era != began.era {
		return nil, fmt.Errorf("reading the log: %w", errAnotherEra)
	}
	if len(missing) == 0 {
		return out, nil
	}
	read, same, err := s.readRows(ctx, missing, share, began.era)
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading the log: %w", translate(ctx, err))
	case same:
		s.tail.add(read, began)
	case era != "":
		return nil, fmt.Errorf("reading the log: %w", errAnotherEra)
	}
	return append(out, read...), nil
}

const readPositions = `/* log.read */
select l.topic, l.lane, l.incarnation, l.oldest, l.newest,
       l.first_sequence + greatest(a.after - l.first_sequence + 1, 0) as first_sequence,
       l.positions[greatest(a.after - l.first_sequence + 2, 1) : greatest(a.after - l.first_sequence + 2, 1) + $4 - 1] as positions
from unnest($1::text[], $2::int[], $3::bigint[]) as a(topic, lane, after)
cross join lateral (
    select * from log where log.topic = a.topic and log.lane = a.lane and log.last_sequence > a.after
    order by log.last_sequence limit $4
) as l
order by l.topic, l.lane, l.first_sequence`

type positionsRow struct {
	Topic          string
	Lane           int
	Incarnation    int64
	Oldest, Newest time.Time
	First          int64 `db:"first_sequence"`
	Positions      int64s
}

// int64s scans a bigint[], which the driver hands over as text: {1,2,3}.
type int64s []int64

// Scan takes the array's text, or a null.
func (a *int64s) Scan(src any) error {
	if src == nil {
		return nil
	}
	text, ok := src.(string)
	if !ok {
		return fmt.Errorf("scanning %T as a bigint[]", src)
	}
	for field := range strings.FieldsFuncSeq(strings.Trim(text, "{}"), func(r rune) bool { return r == ',' }) {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return fmt.Errorf("scanning a bigint[]: %w", err)
		}
		*a = append(*a, n)
	}
	return nil
}

// place is what the log says of one position.
type place struct {
	mainstay.TopicLane
	incarnation, sequence int64
}

// readRows reads from the database; same says that it was all the time in the era.
func (s *Store) readRows(ctx context.Context, after map[mainstay.TopicLane]int64, share int, era string) (ms []*mainstay.Message, same bool, err error) {
	var topics []string
	var lanes []int
	var sequences []int64
	for log, sequence := range after {
		topics, lanes, sequences = append(topics, log.Topic), append(lanes, log.Lane), append(sequences, sequence)
	}
	var rows []positionsRow
	if err := s.db.SelectContext(ctx, &rows, readPositions, topics, lanes, sequences, share); err != nil {
		return nil, false, err
	}
	if len(rows) == 0 {
		return nil, true, nil
	}
	known := s.tail.moment().current
	if slices.ContainsFunc(rows, func(r positionsRow) bool { return r.Incarnation > known }) {
		if _, err := s.Seam(ctx); err != nil {
			return nil, false, err
		}
	}
	return s.readOutbox(ctx, rows, share, era)
}

// readOutboxQuery says with each row whether the database is in the era: what the log said before was then said in it,
// too, as eras do not come back.
const readOutboxQuery = `/* log.read_outbox */
select id::text as id, position, created_at, key, type, aggregatetype, aggregateid, headers, payload, (select database_era() = $4) as same
from outbox where position = any($1::bigint[]) and created_at between $2 and $3`

type outboxRow struct {
	ID            string
	Position      int64
	CreatedAt     time.Time `db:"created_at"`
	Key           string
	Type          string
	AggregateType string
	AggregateID   string
	Headers       []byte
	Payload       []byte
	Same          bool
}

// readOutbox fetches the first share messages of each log, in the order of the rows; see readRows.
func (s *Store) readOutbox(ctx context.Context, rows []positionsRow, share int, era string) (ms []*mainstay.Message, same bool, err error) {
	places := map[int64]place{}
	var order []int64
	count := map[mainstay.TopicLane]int{}
	oldest, newest := rows[0].Oldest, rows[0].Newest
	for _, r := range rows {
		log := mainstay.TopicLane{Topic: r.Topic, Lane: r.Lane}
		take := min(share-count[log], len(r.Positions))
		if take <= 0 {
			continue
		}
		count[log] += take
		for i, position := range r.Positions[:take] {
			places[position] = place{log, r.Incarnation, r.First + int64(i)}
			order = append(order, position)
		}
		if r.Oldest.Before(oldest) {
			oldest = r.Oldest
		}
		if r.Newest.After(newest) {
			newest = r.Newest
		}
	}
	var found []outboxRow
	if err := s.db.SelectContext(ctx, &found, readOutboxQuery, order, oldest, newest, era); err != nil {
		return nil, false, err
	}
	byPosition := make(map[int64]*mainstay.Message, len(found))
	for _, r := range found {
		at := places[r.Position]
		m, err := r.message(at)
		if err != nil {
			return nil, false, err
		}
		m.Since = s.tail.since(at.TopicLane, at.incarnation)
		byPosition[r.Position] = m
	}
	ms = make([]*mainstay.Message, 0, len(order))
	for _, position := range order {
		if m := byPosition[position]; m != nil { // nil: its partition is gone; the reader sees the gap
			ms = append(ms, m)
		}
	}
	return ms, len(found) == 0 || found[0].Same, nil
}

func (r *outboxRow) message(at place) (*mainstay.Message, error) {
	m := &mainstay.Message{
		ID: r.ID, Topic: at.Topic, Lane: at.Lane, Key: r.Key, Type: r.Type,
		AggregateType: r.AggregateType, AggregateID: r.AggregateID, Payload: r.Payload,
		CreatedAt: r.CreatedAt.UTC(), Incarnation: at.incarnation, Sequence: at.sequence,
	}
	return m, outbox.DecodeAttributes(r.Headers, m)
}
