package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/lane"
	"github.com/mainstay-io/mainstay/internal/lease"
	"github.com/mainstay-io/mainstay/internal/relay"
	"github.com/mainstay-io/mainstay/outbox"
)

// tailSize is how many of a log's latest messages are kept in memory, at least; at most twice as many.
const tailSize = 2048

// tail keeps the end of every log in memory: what was just written is what is read next.
type tail struct {
	mu   sync.Mutex
	logs map[mainstay.TopicLane][]*mainstay.Message // dense in sequence
	// stamp tells the incarnation of a sequence, and where it begins.
	stamp func(log mainstay.TopicLane, sequence int64) (id, since int64)
}

func newTail(stamp func(mainstay.TopicLane, int64) (int64, int64)) *tail {
	return &tail{logs: map[mainstay.TopicLane][]*mainstay.Message{}, stamp: stamp}
}

// add appends committed messages, in commit order, and gives them their incarnation.
func (t *tail) add(ms []*mainstay.Message) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, m := range ms {
		m.Incarnation, m.Since = t.stamp(m.TopicLane(), m.Sequence)
		log := t.logs[m.TopicLane()]
		if n := len(log); n > 0 && log[n-1].Sequence+1 != m.Sequence {
			log = nil // somebody else has written in between: memory must be dense
		}
		if len(log) >= 2*tailSize {
			log = append(make([]*mainstay.Message, 0, 2*tailSize), log[tailSize:]...)
		}
		t.logs[m.TopicLane()] = append(log, m)
	}
}

// after gives messages behind a sequence; false when memory does not reach back that far.
func (t *tail) after(log mainstay.TopicLane, sequence int64, limit int) ([]*mainstay.Message, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	ms := t.logs[log]
	if len(ms) == 0 || ms[0].Sequence > sequence+1 {
		return nil, false
	}
	skip := sequence + 1 - ms[0].Sequence
	if skip >= int64(len(ms)) {
		return nil, true
	}
	ms = ms[skip:]
	return ms[:min(limit, len(ms))], true
}

// wakes signals readers of the log; signals are coalesced.
type wakes struct {
	mu   sync.Mutex
	subs map[chan struct{}]struct{}
}

func (w *wakes) wake() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.subs {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// Wake gives a channel that has a value after the log grew.
func (s *Store) Wake() (<-chan struct{}, func()) {
	c := make(chan struct{}, 1)
	s.wakes.mu.Lock()
	defer s.wakes.mu.Unlock()
	if s.wakes.subs == nil {
		s.wakes.subs = map[chan struct{}]struct{}{}
	}
	s.wakes.subs[c] = struct{}{}
	return c, func() {
		s.wakes.mu.Lock()
		defer s.wakes.mu.Unlock()
		delete(s.wakes.subs, c)
	}
}

// followers are told what the log has grown by.
type followers struct {
	mu   sync.Mutex // held while they are told
	next int
	subs map[int]func([]*mainstay.Message)
}

func (f *followers) tell(ms []*mainstay.Message) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, deliver := range f.subs {
		deliver(ms)
	}
}

// Follow calls deliver with what each transaction adds to the log from now on, after its commit and in the order of the
// log. Nothing is written meanwhile, so deliver must not block, and it must not change the slice or the messages. Once
// stop has returned it is not called any more.
func (s *Store) Follow(deliver func([]*mainstay.Message)) (stop func()) {
	f := &s.followers
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.subs == nil {
		f.subs = map[int]func([]*mainstay.Message){}
	}
	f.next++
	n := f.next
	f.subs[n] = deliver
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.subs, n)
	}
}

const headsQuery = `/* log.heads */ select topic, lane, last_sequence from log_head`

// Heads answers with the last sequence of every log.
func (s *Store) Heads(ctx context.Context) (map[mainstay.TopicLane]int64, error) {
	return readHeads(ctx, s, headsQuery)
}

const floorsQuery = `/* log.floors */ select topic, lane, first_sequence from log_floor`

// FirstRetained answers with the first sequence that is kept of every log of which messages were removed; of the others
// it is 1.
func (s *Store) FirstRetained(ctx context.Context) (map[mainstay.TopicLane]int64, error) {
	return readHeads(ctx, s, floorsQuery)
}

func readHeads(ctx context.Context, q queryer, query string, args ...any) (map[mainstay.TopicLane]int64, error) {
	heads := map[mainstay.TopicLane]int64{}
	err := each(ctx, q, func(rows *sql.Rows) error {
		var log mainstay.TopicLane
		var head int64
		if err := rows.Scan(&log.Topic, &log.Lane, &head); err != nil {
			return err
		}
		heads[log] = head
		return nil
	}, query, args...)
	if err != nil {
		return nil, fmt.Errorf("reading the heads of the logs: %w", err)
	}
	return heads, nil
}

// ReadLogIn is ReadLog: a file that is open does not go back to an earlier moment.
func (s *Store) ReadLogIn(ctx context.Context, _ string, after map[mainstay.TopicLane]int64, limit int) ([]*mainstay.Message, error) {
	return s.ReadLog(ctx, after, limit)
}

// ReadLog reads messages of the given logs, from memory where it reaches back far enough.
func (s *Store) ReadLog(ctx context.Context, after map[mainstay.TopicLane]int64, limit int) ([]*mainstay.Message, error) {
	if len(after) == 0 {
		return nil, nil
	}
	each := max(1, limit/len(after))
	var out []*mainstay.Message
	for log, sequence := range after {
		ms, ok := s.tail.after(log, sequence, each)
		if !ok {
			var err error
			if ms, err = s.readRows(ctx, log, sequence, each); err != nil {
				return nil, fmt.Errorf("reading the log %s/%d after %d: %w", log.Topic, log.Lane, sequence, err)
			}
		}
		out = append(out, ms...)
	}
	return out, nil
}

const readLogQuery = `/* log.read */
select id, sequence, key, type, aggregatetype, aggregateid, headers, payload, created_at
from outbox where topic = $1 and lane = $2 and sequence > $3 order by sequence limit $4`

func (s *Store) readRows(ctx context.Context, log mainstay.TopicLane, after int64, limit int) ([]*mainstay.Message, error) {
	var ms []*mainstay.Message
	err := each(ctx, s, func(rows *sql.Rows) error {
		m := &mainstay.Message{Topic: log.Topic, Lane: log.Lane}
		var headers []byte
		var created int64
		err := rows.Scan(&m.ID, &m.Sequence, &m.Key, &m.Type, &m.AggregateType, &m.AggregateID, &headers, &m.Payload, &created)
		if err != nil {
			return err
		}
		m.Incarnation, m.Since = s.incarnation(log, m.Sequence)
		m.CreatedAt = fromMicros(created)
		ms = append(ms, m)
		return outbox.DecodeAttributes(headers, m)
	}, readLogQuery, log.Topic, log.Lane, after, limit)
	return ms, err
}

const progressQuery = `/* relay.progress */
select topic, lane, incarnation, sequence, message_id, broker_position from relay_progress`

// Progress reads how far every log was published.
func (s *Store) Progress(ctx context.Context) ([]relay.Progress, error) {
	var ps []relay.Progress
	err := each(ctx, s, func(rows *sql.Rows) error {
		var p relay.Progress
		ps = append(ps, p)
		q := &ps[len(ps)-1]
		return rows.Scan(&q.Topic, &q.Lane, &q.Incarnation, &q.Sequence, &q.MessageID, &q.BrokerPosition)
	}, progressQuery)
	if err != nil {
		return nil, fmt.Errorf("reading the relay's progress: %w", err)
	}
	return ps, nil
}

const saveProgressQuery = `/* relay.save_progress */
insert into relay_progress (topic, lane, incarnation, sequence, message_id, broker_position, epoch)
values ($1, $2, $3, $4, $5, $6, $7)
on conflict (topic, lane) do update set incarnation = excluded.incarnation, sequence = excluded.sequence,
    message_id = excluded.message_id, broker_position = excluded.broker_position, epoch = excluded.epoch`

// SaveProgress writes progress, and moves refills, under the leases of their lanes.
func (s *Store) SaveProgress(ctx context.Context, save relay.Save) error {
	leases, ps := save.Leases, save.Progress
	epochs := map[int]int64{}
	for _, l := range leases {
		epochs[l.Lane] = l.Epoch
	}
	return s.do(ctx, s.drain, func(ctx context.Context, t *tx) error {
		if err := checkLeases(ctx, t, leases); err != nil {
			return err
		}
		if is := s.past.Load().Current; save.Incarnation > 0 && save.Incarnation != is {
			return fmt.Errorf("saving progress in incarnation %d, and it is %d: %w", save.Incarnation, is, lease.ErrFenced)
		}
		for _, p := range ps {
			epoch, ok := epochs[p.Lane]
			if !ok {
				return fmt.Errorf("saving progress of %s/%d without a lease: %w", p.Topic, p.Lane, lease.ErrFenced)
			}
			t.Queue(saveProgressQuery, p.Topic, p.Lane, p.Incarnation, p.Sequence, p.MessageID, p.BrokerPosition, epoch)
		}
		for _, a := range save.Refills {
			queueAdvance(t, a)
		}
		return nil
	})
}

const minPlacesQuery = `/* relay.min_places */ select topic, lane, min(sequence) from place group by topic, lane`

// MinPlaces answers with the lowest place of any consumer by log.
func (s *Store) MinPlaces(ctx context.Context) (map[mainstay.TopicLane]int64, error) {
	return readHeads(ctx, s, minPlacesQuery)
}

// relayConsumer is the consumer in whose name the relay's dead letters are kept.
const relayConsumer = "relay"

// DeadLetter records that the broker refuses m for ever.
func (s *Store) DeadLetter(ctx context.Context, m *mainstay.Message, reason error) error {
	return s.do(ctx, s.drain, func(_ context.Context, t *tx) error {
		lt := &laneTx{tx: t, consumer: relayConsumer}
		return lt.openCase(deadLetterOnceQuery, &lane.DeadLetter{
			Ref: lane.Ref{TopicLane: m.TopicLane(), Sequence: m.Sequence}, Message: m,
			Kind: mainstay.KindTerminal, Error: reason.Error(), Attempts: 1, At: t.now,
		})
	})
}

// encodeMessage gives the whole envelope for the parked and dead_letter tables.
func encodeMessage(m *mainstay.Message) (string, error) {
	b, err := json.Marshal(m)
	if err != nil {
		return "", fmt.Errorf("encoding message %s: %w", m.ID, err)
	}
	return string(b), nil
}

func decodeMessage(s string) (*mainstay.Message, error) {
	m := &mainstay.Message{}
	if err := json.Unmarshal([]byte(s), m); err != nil {
		return nil, fmt.Errorf("decoding a parked message: %w", err)
	}
	return m, nil
}
