package lane

import (
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/history"
	"github.com/mainstay-io/mainstay/internal/lease"
)

// laneState is a lane that this process holds. While busy, only the worker that set it changes places and queues, and
// it does so under the run's mutex; so it alone may read them without. What others change meanwhile it reads under the
// mutex, past among it: histories of logs of other databases come with their messages.
type laneState struct {
	lease  lease.Lease
	busy   bool
	places map[string]Place               // by topic
	buf    map[string][]*mainstay.Message // arrived and not taken yet, by topic, dense
	// arrived is where the last message that was put into buf stands, by topic.
	arrived map[string]mark
	// told is the last sequence that did not come by way of the broker, copied the last one that did, by topic: the
	// first copy of what was told is no duplicate.
	told, copied map[string]int64
	// past is what counts of each log, by topic, as of the era in which the lane was read; current is the incarnation
	// that was the last one then.
	past    map[string]history.Log
	era     string
	current int64
	// lacks says of which topics the log has, or may have, messages that are not in buf.
	lacks  map[string]bool
	queues map[queueKey]*keyQueue
	late   []due // heads of queues that became due while the lane was busy
	gone   bool
	// away is what is known of logs of another database, by topic.
	away map[string]*away
	// leaving says that no work is to begin any more: the lane is given back when what is under way has ended.
	leaving bool
	// inFlight is what may have ended earlier holders, nil when they gave the lane back or that has been passed.
	inFlight *inFlight
	// swept is what the sweeps have seen, by topic.
	swept map[string]swept
	// deadly are parked messages that became dead letters because they ended processes, by how many of these are held
	// against them when they are replayed.
	deadly map[Ref]int
}

// queueKey names a queue: order is kept by key within a topic.
type queueKey struct{ topic, key string }

func (it item) key() queueKey   { return queueKey{it.m.Topic, it.m.Key} }
func (p *Parked) key() queueKey { return queueKey{p.Topic, p.Key} }

// keyQueue is what a key has parked, its head first.
type keyQueue struct {
	key     queueKey
	rows    []Parked
	calling bool // the head's call is under way
	// pending says that an entry waits for the head at this time; only the entry with the number n counts.
	pending bool
	at      time.Time
	n       int
}

func newLaneState(l lease.Lease) *laneState {
	return &laneState{
		lease: l, places: map[string]Place{}, buf: map[string][]*mainstay.Message{}, arrived: map[string]mark{},
		past: map[string]history.Log{}, away: map[string]*away{}, swept: map[string]swept{},
		told: map[string]int64{}, copied: map[string]int64{},
		lacks: map[string]bool{}, queues: map[queueKey]*keyQueue{}, deadly: map[Ref]int{},
	}
}

func (ls *laneState) queue(key queueKey) *keyQueue {
	q := ls.queues[key]
	if q == nil {
		q = &keyQueue{key: key}
		ls.queues[key] = q
	}
	return q
}

// calls says that a call is under way, or has ended and is not settled.
func (ls *laneState) calls() bool {
	for _, q := range ls.queues {
		if q.calling {
			return true
		}
	}
	return false
}

// mark is where a message stands in its log.
type mark struct{ incarnation, sequence int64 }

func markOf(m *mainstay.Message) mark { return mark{m.Incarnation, m.Sequence} }
func (p Place) mark() mark            { return mark{p.Incarnation, p.Sequence} }

// beyond says that a comes behind b.
func (a mark) beyond(b mark) bool {
	return a.incarnation > b.incarnation || a.incarnation == b.incarnation && a.sequence > b.sequence
}

// follows is the sequence that comes behind a place; run.mu is held.
func (ls *laneState) follows(p Place) int64 { return ls.past[p.Topic].Next(p.Incarnation, p.Sequence) }

func (r *run) follows(ls *laneState, p Place) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return ls.follows(p)
}

// settle makes buf follow the place again, after a task that may have handled less than it took.
func (ls *laneState) settle(topic string) {
	buf, place := ls.buf[topic], ls.places[topic]
	for len(buf) > 0 && !markOf(buf[0]).beyond(place.mark()) {
		buf = buf[1:]
	}
	if len(buf) > 0 && buf[0].Sequence != ls.follows(place) {
		buf = nil
	}
	if len(buf) == 0 {
		buf = nil // lets go of the array
		ls.lacks[topic] = ls.lacks[topic] || ls.arrived[topic].beyond(place.mark())
		ls.arrived[topic] = place.mark()
	}
	ls.buf[topic] = buf
}
