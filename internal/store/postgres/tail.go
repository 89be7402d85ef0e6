package postgres

import (
	"bytes"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/clock"
	"github.com/mainstay-io/mainstay/internal/history"
)

// Bounds of what is kept in memory: a log's latest messages, at least tailSize and at most twice as many, and none
// with a payload above tailPayload; of what this process has appended and its sequencer has not numbered yet, at most
// ownSize messages with ownBytes of payload.
const (
	tailSize    = 256
	tailPayload = 8 << 10
	ownSize     = 16 << 10
	ownBytes    = 16 << 20
)

// endsFor is for how long after a round its sequencer's idea of where the logs end is believed. Nothing depends on it
// but how soon a process that has lost the sequencer's lease without a word notices that the logs grow: see ends.
const endsFor = 500 * time.Millisecond

// tail keeps the end of the logs in memory: what this process has appended and numbered itself, and what one reader of
// the process has fetched, the relay or a consumer, since the others want it next.
type tail struct {
	mu   sync.Mutex
	logs map[mainstay.TopicLane][]*mainstay.Message // dense in sequence

	// heads are the last sequences of all logs while the sequencer of this process numbers, as of the round at asOf;
	// nil while another one may.
	heads map[mainstay.TopicLane]int64
	asOf  clock.Mono

	// past is the history that all of this belongs to: nothing is taken that was read, committed or numbered in another
	// era, as another database may have other messages under the same positions and sequences.
	past history.Seam

	// read is when somebody asked for what comes next in a log, foreign says that the last round has numbered messages of
	// other processes: see wanted.
	read    clock.Mono
	foreign bool

	// own has by position what this process has committed while its sequencer numbers; order has the positions in the
	// order of the commits, those that have left own too.
	own   map[int64]*mainstay.Message
	order []int64
	bytes int
}

func newTail() *tail {
	return &tail{logs: map[mainstay.TopicLane][]*mainstay.Message{}, own: map[int64]*mainstay.Message{}}
}

// add takes messages, read at a moment, that continue what is there; those of a log that do not are left out, unless
// they are ahead. All are when the database has gone back, or an incarnation was opened, since that moment.
func (t *tail) add(ms []*mainstay.Message, read moment) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if read != t.momentLocked() {
		return
	}
	for _, m := range ms {
		t.put(m)
	}
}

func (t *tail) put(m *mainstay.Message) {
	if len(m.Payload) > tailPayload {
		return
	}
	log := t.logs[m.TopicLane()]
	if n := len(log); n > 0 {
		last := log[n-1].Sequence
		switch {
		case m.Sequence <= last:
			return
		case m.Sequence > last+1:
			log = nil
		case n >= 2*tailSize:
			log = append(make([]*mainstay.Message, 0, 2*tailSize), log[tailSize:]...)
		}
	}
	t.logs[m.TopicLane()] = append(log, m)
}

// next gives at most share messages of each log, behind the sequences given, as of a moment; missing are the logs of
// which memory does not hold the next one.
func (t *tail) next(after map[mainstay.TopicLane]int64, share int) (ms []*mainstay.Message, missing map[mainstay.TopicLane]int64, at moment) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.read = clock.Start()
	missing = map[mainstay.TopicLane]int64{}
	for log, sequence := range after {
		held, all := t.after(log, sequence, share)
		if len(held) == 0 && !all {
			missing[log] = sequence
		}
		ms = append(ms, held...)
	}
	return ms, missing, t.momentLocked()
}

// after gives messages behind a sequence; none when memory does not hold the next one. All says that there are no
// others behind it in the log. t.mu is held.
func (t *tail) after(log mainstay.TopicLane, sequence int64, limit int) (ms []*mainstay.Message, all bool) {
	if t.numbering() && sequence >= t.heads[log] {
		return nil, true
	}
	ms = t.logs[log]
	if len(ms) == 0 || ms[0].Sequence > sequence+1 {
		return nil, false
	}
	skip := sequence + 1 - ms[0].Sequence
	if skip >= int64(len(ms)) {
		return nil, false
	}
	ms = ms[skip:]
	return slices.Clone(ms[:min(limit, len(ms))]), false
}

// lead says that the sequencer of this process numbers from now on, and where the logs end.
func (t *tail) lead(heads map[mainstay.TopicLane]int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.heads, t.asOf = heads, clock.Start()
}

// follow says that another sequencer may number from now on.
func (t *tail) follow() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.heads = nil
	t.forget()
}

func (t *tail) forget() {
	clear(t.own)
	t.order, t.bytes = nil, 0
}

func (t *tail) numbering() bool { return t.heads != nil && t.asOf.Elapsed() < endsFor }

// leads tells whether it is worth remembering what is appended.
func (t *tail) leads() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.heads != nil
}

// ends gives the last sequences of all logs, or nil when memory does not know them. A round that found nothing has
// proved that nobody else has numbered anything: its rows would have been new to it.
func (t *tail) ends() map[mainstay.TopicLane]int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.numbering() {
		return nil
	}
	return maps.Clone(t.heads)
}

// written is where a committed message stands in the outbox.
type written struct {
	position int64
	at       time.Time
}

// scanWritten reads the rows of an append that returns position and created_at.
func scanWritten(rows pgx.Rows, into *[]written) error {
	for rows.Next() {
		var w written
		if err := rows.Scan(&w.position, &w.at); err != nil {
			return err
		}
		*into = append(*into, w)
	}
	// Positions were drawn in the order of the messages, whatever the order of the answer.
	slices.SortFunc(*into, func(a, b written) int { return int(a.position - b.position) })
	return rows.Err()
}

// committed remembers messages of this process, whose transaction began at a moment, until they are numbered. It copies
// what their sender may change.
func (t *tail) committed(ms []*mainstay.Message, at []written, began moment) {
	if len(ms) != len(at) {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.heads == nil || began != t.momentLocked() {
		return
	}
	for i, m := range ms {
		if len(m.Payload) > tailPayload {
			continue
		}
		own := *m
		own.CreatedAt, own.Headers, own.Payload = at[i].at.UTC(), maps.Clone(m.Headers), bytes.Clone(bytesOf(m.Payload))
		t.own[at[i].position] = &own
		t.order = append(t.order, at[i].position)
		t.bytes += len(own.Payload)
	}
	for len(t.order) > ownSize || t.bytes > ownBytes {
		t.take(t.order[0])
		t.order = t.order[1:]
	}
}

// take removes a message from own, nil if it is not there.
func (t *tail) take(position int64) *mainstay.Message {
	m := t.own[position]
	if m != nil {
		delete(t.own, position)
		t.bytes -= len(m.Payload)
	}
	return m
}

// numbered is what a round has added to one log: the positions of its last sequences.
type numbered struct {
	mainstay.TopicLane
	head      int64
	positions []int64
}

// readFor is for how long after somebody has read a log its next messages are wanted.
const readFor = time.Second

// wanted says that a round had better answer with the messages that it numbers: somebody in this process reads them, and
// they are other processes'. To read them then costs two round trips and a place in the queue of both processors.
func (t *tail) wanted() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.foreign && t.read.Elapsed() < readFor
}

// grow takes what a round has numbered in an era; nothing is a round too. Messages that this process has committed, or
// the round has answered with, follow their log in memory from here on.
func (t *tail) grow(era string, incarnation int64, logs []numbered, read map[int64]*mainstay.Message) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.heads == nil {
		return
	}
	t.asOf = clock.Start()
	if era != t.past.Era {
		t.forget()
	}
	if len(logs) > 0 {
		t.foreign = false
	}
	for _, l := range logs {
		t.heads[l.TopicLane] = l.head
		for i, position := range l.positions {
			m := t.take(position)
			if m == nil {
				m, t.foreign = read[position], true
			}
			if m == nil || era != t.past.Era || incarnation > max(t.past.Current, 1) { // a later one is not known yet
				continue
			}
			m.Topic, m.Lane, m.Incarnation, m.Sequence = l.Topic, l.Lane, incarnation, l.head-int64(len(l.positions)-1-i)
			m.Since = t.sinceLocked(m.TopicLane(), incarnation)
			t.put(m)
		}
	}
	if len(t.own) == 0 {
		t.forget()
	}
}
