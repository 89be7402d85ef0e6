package postgres

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/clock"
	"github.com/mainstay-io/mainstay/internal/lease"
)

// sequencerState is the state row as this process has last seen it, with its snapshots taken apart for the round.
// A round that finds another version in the row does nothing, and reads it again.
type sequencerState struct {
	Version     int64
	Epoch       int64
	Era         string
	Incarnation int64
	// Xmax and Xip are of the snapshot: everything visible in it is numbered.
	Xmax string
	Xip  string // xid8[]
	// Upper and After are set while a large difference is taken in chunks.
	Upper *string
	After *int64 `db:"after_position"`

	moved clock.Mono
}

const stateQuery = `/* sequencer.state */
select version, epoch, database_era() as era, incarnation, pg_snapshot_xmax(snapshot)::text as xmax,
       array(select pg_snapshot_xip(snapshot))::text as xip, upper::text as upper, after_position
from sequencer_state order by sequencer_state.version desc limit 1`

// idleMove is how often the snapshot of an idle sequencer moves on, so that it never refers to the distant past.
const idleMove = 10 * time.Second

// A round is one statement, so that what it reads and the snapshot that it stores are of the same instant. Unseen
// are the transactions that had not begun in the stored snapshot ($1) and those that were under way in it ($7); a
// row of theirs is numbered if it is visible now. The state row is the guard: a sequencer that had to wait for it
// finds a later version there and numbers nothing, since its view of the outbox is older than that row. Nor does it in
// another era ($6) than that in which it read the row: a database that went back has other transactions under the same
// ids, and may well come to the same version.
//
// Each branch over the outbox costs a scan of every partition, to be set up if not to be run: so a round has the one
// for transactions that were under way only where there were any.
const (
	// roundFresh: everything, if that is not more than $2. Else the round does nothing, and noteLarge follows.
	roundFresh = `/* sequencer.round */
with fresh as materialized (
    select position, created_at, topic, lane from outbox where xid >= $1::xid8`
	roundUnderWay = `
    union all
    select position, created_at, topic, lane from outbox where xid = any($7::xid8[])`
	roundGuard = `
    limit $2::bigint + 1
), size as (
    select count(*) as n, database_era() = $6 as same from fresh
), guard as (
    update sequencer_state s set version = s.version + 1, epoch = $4, moved_at = clock_timestamp(),
        snapshot = pg_current_snapshot()
    from size
    where s.version = $3 and s.epoch <= $4 and same and n <= $2 and (n > 0 or $5)
    returning s.*, true as take
)`
	// noteLarge keeps where a difference that is too large for a round ends: chunks follow.
	noteLarge = `/* sequencer.note */
update sequencer_state s set version = s.version + 1, epoch = $3, moved_at = clock_timestamp(), upper = pg_current_snapshot(),
    after_position = coalesce(least((select min(position) from outbox where xid >= $1::xid8),
                                    (select min(position) from outbox where xid = any($4::xid8[]))), 1) - 1
where s.version = $2 and s.epoch <= $3 and database_era() = $5`
	// roundChunk: the next $2 of the difference between the snapshot and $8, behind position $9.
	roundChunk = `/* sequencer.chunk */
with fresh as materialized (
    select position, created_at, topic, lane from outbox
    where position > $9::bigint and (xid >= $1::xid8 or xid = any($7::xid8[])) and pg_visible_in_snapshot(xid, $8::pg_snapshot)
    order by position limit $2::bigint
), size as (
    select count(*) as n, count(*) < $2 as drained, max(position) as last, database_era() = $6 as same from fresh
), guard as (
    update sequencer_state s set version = s.version + 1, epoch = $4, moved_at = clock_timestamp(),
        snapshot = case when drained then s.upper else s.snapshot end,
        upper = case when drained then null else s.upper end,
        after_position = case when drained then null else size.last end
    from size
    where s.version = $3 and s.epoch <= $4 and same and $5
    returning s.*, true as take
)`
	// roundNumber is the rest of a round and of a chunk. Heads are found from their end: a key that is always the same
	// leads to all versions that some open transaction could still see. No two rounds insert the same one, since the
	// second finds another version in the state row.
	roundNumber = `, batch as (
    select topic, lane, array_agg(position order by position) as positions, count(*) as n,
           min(created_at) as oldest, max(created_at) as newest
    from fresh where (select take from guard) group by topic, lane
), known as materialized (
    select b.topic, b.lane, b.n, h.ctid as at, h.last_sequence
    from batch b left join lateral (
        select ctid, last_sequence from log_head where topic = b.topic and lane = b.lane order by last_sequence desc limit 1
    ) as h on true
), grown as (
    update log_head h set last_sequence = k.last_sequence + k.n from known k where h.ctid = k.at
    returning h.topic, h.lane, h.last_sequence
), begun as (
    insert into log_head (topic, lane, last_sequence) select topic, lane, n from known where at is null
    returning topic, lane, last_sequence
), head as (
    select * from grown union all select * from begun
), logged as (
    insert into log (topic, lane, first_sequence, last_sequence, incarnation, oldest, newest, positions)
    select b.topic, b.lane, h.last_sequence - b.n + 1, h.last_sequence, g.incarnation, b.oldest, b.newest, b.positions
    from batch b join head h on h.topic = b.topic and h.lane = b.lane cross join guard g
)
select size.n, size.same, g.take, g.version, g.epoch, g.incarnation, pg_snapshot_xmax(g.snapshot)::text as xmax,
       case when g.take is not null then array(select pg_snapshot_xip(g.snapshot))::text end as xip,
       g.upper::text as upper, g.after_position, b.topic, b.lane, h.last_sequence as head, b.positions`
	roundAnswer = `
from size left join guard g on true left join (batch b join head h on h.topic = b.topic and h.lane = b.lane) on true`
	// roundWhole answers with what it has numbered, too, a row for each message, where that is not more than 256: but for
	// those that memory does not keep (tailPayload). Each is looked up by its whole key, as hash joins are not switched
	// off here.
	roundWhole = `,
       null::bigint as position, null::text as id, null::timestamptz as created_at, null::text as key, null::text as type,
       null::text as aggregatetype, null::text as aggregateid, null::jsonb as headers, null::bytea as payload` + roundAnswer + `
union all
select 0, true, true, null, null, null, null, null, null, null, null, null, null, null,
       m.position, m.id::text, m.created_at, m.key, m.type, m.aggregatetype, m.aggregateid, m.headers, m.payload
from guard cross join (select * from fresh where (select n from size) <= 256) as f cross join lateral (
    select * from outbox where position = f.position and created_at = f.created_at and octet_length(payload) <= 8192 limit 1
) as m`
)

type roundRow struct {
	N           int
	Same        bool
	Take        *bool
	Version     *int64
	Epoch       *int64
	Incarnation *int64
	Xmax, Xip   *string
	Upper       *string
	After       *int64 `db:"after_position"`
	// One row for each log that has grown; all of them are alike in what is above.
	Topic     *string
	Lane      *int
	Head      *int64
	Positions int64s
	// Of a message that was numbered; Position is nil in the rows of what is above.
	Position      *int64
	ID            *string
	At            *time.Time `db:"created_at"`
	Key           *string
	Type          *string
	AggregateType *string
	AggregateID   *string
	Headers       []byte
	Payload       []byte
}

// Round numbers what is new, in one transaction and one round trip.
func (s *Store) Round(ctx context.Context, l lease.Lease) (numbered int, more bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, 2*sequencerTimeout)
	defer cancel()
	if s.seq == nil || !s.tail.leads() { // what was in memory was of another era
		if err := s.readState(ctx, l); err != nil {
			return 0, false, err
		}
	}
	rows, messages, err := s.round(ctx, l)
	if err != nil {
		s.forgetState()
		return 0, false, fmt.Errorf("running a round: %w", translate(ctx, err))
	}
	row := rows[0]
	switch {
	case row.Take != nil:
	case !row.Same:
		s.forgetState()
		return 0, false, fmt.Errorf("running a round: %w", errAnotherEra)
	case s.seq.Upper == nil && row.N == 0:
		s.tail.grow(s.seq.Era, s.seq.Incarnation, nil, nil)
		return 0, false, nil // there is nothing new
	case s.seq.Upper == nil && row.N > s.cfg.Chunk:
		return 0, true, s.takeInChunks(ctx, l)
	default:
		return 0, true, s.readState(ctx, l) // it is another one by now
	}
	numbered = row.N
	// Behind the last chunk is what came after the difference had been noted.
	more = s.seq.Upper != nil
	s.seq = &sequencerState{
		Version: *row.Version, Epoch: *row.Epoch, Era: s.seq.Era, Incarnation: *row.Incarnation, Xmax: *row.Xmax, Xip: *row.Xip,
		Upper: row.Upper, After: row.After, moved: clock.Start(),
	}
	s.tail.grow(s.seq.Era, s.seq.Incarnation, grownLogs(rows), messages)
	if numbered > 0 {
		s.news.say(grown)
	}
	return numbered, more, nil
}

func grownLogs(rows []roundRow) []numbered {
	var logs []numbered
	for _, r := range rows {
		if r.Topic != nil {
			logs = append(logs, numbered{mainstay.TopicLane{Topic: *r.Topic, Lane: *r.Lane}, *r.Head, r.Positions})
		}
	}
	return logs
}

// round answers with one row at least, and with messages that it has numbered, by position, if they are wanted.
func (s *Store) round(ctx context.Context, l lease.Lease) (rows []roundRow, messages map[int64]*mainstay.Message, err error) {
	st := s.seq
	args := []any{st.Xmax, s.cfg.Chunk, st.Version, l.Epoch, st.moved.Elapsed() > idleMove, st.Era}
	var query string
	switch {
	case st.Upper != nil:
		query = roundChunk + roundNumber + roundAnswer
		args[4] = true
		args = append(args, st.Xip, *st.Upper, *st.After)
	case st.Xip != noXids:
		query = roundFresh + roundUnderWay + roundGuard + roundNumber + s.answer()
		args = append(args, st.Xip)
	default:
		query = roundFresh + roundGuard + roundNumber + s.answer()
	}
	if err := s.seqDB.SelectContext(ctx, &rows, query, args...); err != nil {
		return nil, nil, err
	}
	messages = map[int64]*mainstay.Message{}
	for _, r := range rows {
		if r.Position == nil {
			continue
		}
		if messages[*r.Position], err = r.message(); err != nil {
			return nil, nil, err
		}
	}
	return slices.DeleteFunc(rows, func(r roundRow) bool { return r.Position != nil }), messages, nil
}

// answer is how a round ends.
func (s *Store) answer() string {
	if s.tail.wanted() {
		return roundWhole
	}
	return roundAnswer
}

// message is what a row has of a message; where it stands in its log is still to be said.
func (r *roundRow) message() (*mainstay.Message, error) {
	row := outboxRow{
		ID: *r.ID, CreatedAt: *r.At, Key: *r.Key, Type: *r.Type, AggregateType: *r.AggregateType, AggregateID: *r.AggregateID,
		Headers: r.Headers, Payload: r.Payload,
	}
	return row.message(place{})
}

// noXids is an empty array of transaction ids.
const noXids = "{}"

// takeInChunks lets the difference be taken in chunks from the next round on. Where somebody else has moved the state
// row, that is found when it is read.
func (s *Store) takeInChunks(ctx context.Context, l lease.Lease) error {
	st := s.seq
	if _, err := s.seqDB.ExecContext(ctx, noteLarge, st.Xmax, st.Version, l.Epoch, st.Xip, st.Era); err != nil {
		s.forgetState()
		return fmt.Errorf("noting a large difference: %w", translate(ctx, err))
	}
	return s.readState(ctx, l)
}

// readState reads the state row; lease.ErrFenced when a later lease has written it, or in another era than Prepare's.
func (s *Store) readState(ctx context.Context, l lease.Lease) error {
	s.forgetState()
	st := sequencerState{moved: clock.Start()}
	if err := s.seqDB.GetContext(ctx, &st, stateQuery); err != nil {
		return fmt.Errorf("reading the sequencer's state: %w", translate(ctx, err))
	}
	if st.Epoch > l.Epoch {
		return fmt.Errorf("the sequencer's state has epoch %d: %w", st.Epoch, lease.ErrFenced)
	}
	if st.Era != s.prepared {
		return fmt.Errorf("reading the sequencer's state: %w", errAnotherEra)
	}
	heads, err := s.readHeads(ctx, headsQuery)
	if err != nil {
		return err
	}
	s.seq = &st
	s.tail.lead(heads)
	return nil
}

// forgetState makes the next round read the state row first.
func (s *Store) forgetState() {
	s.seq = nil
	s.tail.follow()
}
