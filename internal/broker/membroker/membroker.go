// Package membroker keeps the logs in memory: the fake of every test above the broker, and a broker for a process
// that needs none of its messages after it ends. It passes the suite in brokertest.
//
// Each log keeps its last records only, so memory is bounded; who is slower than that sees a gap.
package membroker

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"sort"
	"sync"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/broker"
)

// Defaults of Options.
const (
	DefaultKeep       = 1 << 16
	DefaultMaxPayload = 1 << 20
)

// maxNext bounds what one Next gives.
const maxNext = 512

var topicForm = regexp.MustCompile(`^[a-z0-9-]{1,64}$`)

// Options bound a broker; zero values mean the defaults.
type Options struct {
	// Keep is how many records each log keeps.
	Keep int
	// MaxPayload is the largest payload taken, in bytes.
	MaxPayload int
}

// Broker is an in-memory broker.Broker, for any number of goroutines.
type Broker struct {
	opts Options

	mu      sync.Mutex
	logs    map[mainstay.TopicLane]*records
	changed chan struct{} // closed and replaced whenever something was published
	losses  int64
	closed  bool
	// answerers are those who answer questions, in the order in which they came.
	answerers []*answerer
}

// records is one log; the record at msgs[i] has position first+i. A log that lost records is a new value, which
// agrees with the old one up to position kept.
type records struct {
	first int64
	msgs  []*mainstay.Message
	kept  int64
}

func (r *records) last() int64 { return r.first + int64(len(r.msgs)) - 1 }

// New makes an empty broker.
func New(opts Options) *Broker {
	if opts.Keep <= 0 {
		opts.Keep = DefaultKeep
	}
	if opts.MaxPayload <= 0 {
		opts.MaxPayload = DefaultMaxPayload
	}
	return &Broker{opts: opts, logs: map[mainstay.TopicLane]*records{}, changed: make(chan struct{})}
}

// Publish implements broker.Publisher; it is all or nothing.
func (b *Broker) Publish(ctx context.Context, msgs []*mainstay.Message, expect map[mainstay.TopicLane]int64) (map[mainstay.TopicLane]int64, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	for _, m := range msgs {
		if err := b.refuses(m); err != nil {
			return nil, &broker.RefusedError{MessageID: m.ID, Err: err}
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, broker.ErrClosed
	}
	if err := b.checkLocked(msgs, expect); err != nil {
		return nil, err
	}
	return b.appendLocked(msgs), nil
}

func (b *Broker) refuses(m *mainstay.Message) error {
	if !topicForm.MatchString(m.Topic) {
		return fmt.Errorf("topic %q is not 1 to 64 of a-z, 0-9 and '-'", m.Topic)
	}
	if len(m.Payload) > b.opts.MaxPayload {
		return fmt.Errorf("payload of %d bytes is larger than %d", len(m.Payload), b.opts.MaxPayload)
	}
	return nil
}

func (b *Broker) checkLocked(msgs []*mainstay.Message, expect map[mainstay.TopicLane]int64) error {
	for _, m := range msgs {
		want, checked := expect[m.TopicLane()]
		if have := b.lastLocked(m.TopicLane()); checked && have != want {
			return fmt.Errorf("%s/%d: last record at %d, expected at %d: %w", m.Topic, m.Lane, have, want, broker.ErrConflict)
		}
	}
	return nil
}

func (b *Broker) lastLocked(log mainstay.TopicLane) int64 {
	if r := b.logs[log]; r != nil {
		return r.last()
	}
	return 0
}

func (b *Broker) appendLocked(msgs []*mainstay.Message) map[mainstay.TopicLane]int64 {
	last := map[mainstay.TopicLane]int64{}
	for _, m := range msgs {
		r := b.logs[m.TopicLane()]
		if r == nil {
			r = &records{first: 1}
			b.logs[m.TopicLane()] = r
		}
		r.msgs = append(r.msgs, m)
		if over := len(r.msgs) - b.opts.Keep; over > 0 {
			clear(r.msgs[:over])
			r.msgs, r.first = r.msgs[over:], r.first+int64(over)
		}
		last[m.TopicLane()] = r.last()
	}
	b.wakeLocked()
	return last
}

func (b *Broker) wakeLocked() {
	close(b.changed)
	b.changed = make(chan struct{})
}

// Tail implements broker.Publisher.
func (b *Broker) Tail(ctx context.Context, log mainstay.TopicLane) (broker.Tail, error) {
	if err := ctx.Err(); err != nil {
		return broker.Tail{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return broker.Tail{}, broker.ErrClosed
	}
	r := b.logs[log]
	if r == nil {
		return broker.Tail{}, nil
	}
	return r.at(r.last()), nil
}

// At implements broker.Publisher.
func (b *Broker) At(ctx context.Context, log mainstay.TopicLane, position int64) (broker.Tail, error) {
	if err := ctx.Err(); err != nil {
		return broker.Tail{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return broker.Tail{}, broker.ErrClosed
	}
	if r := b.logs[log]; r != nil && position >= r.first && position <= r.last() {
		return r.at(position), nil
	}
	return broker.Tail{}, nil
}

func (r *records) at(position int64) broker.Tail {
	m := r.msgs[position-r.first]
	return broker.Tail{Incarnation: m.Incarnation, Sequence: m.Sequence, MessageID: m.ID, Position: position}
}

// Subscribe implements broker.Reader.
func (b *Broker) Subscribe(ctx context.Context, from []broker.Start) (broker.Subscription, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, broker.ErrClosed
	}
	s := &subscription{b: b, done: make(chan struct{})}
	for _, f := range from {
		s.cursors = append(s.cursors, &cursor{log: f.TopicLane, records: b.logs[f.TopicLane], next: b.findLocked(f)})
	}
	return s, nil
}

// findLocked is the position behind the last record at or below the start, or the log's first when there is none.
func (b *Broker) findLocked(f broker.Start) int64 {
	r := b.logs[f.TopicLane]
	if r == nil {
		return 1
	}
	for i := len(r.msgs) - 1; i >= 0; i-- {
		m := r.msgs[i]
		if m.Incarnation < f.Incarnation || m.Incarnation == f.Incarnation && m.Sequence <= f.Sequence {
			return r.first + int64(i) + 1
		}
	}
	return r.first
}

// Generation implements broker.Publisher: it counts losses.
func (b *Broker) Generation() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.losses
}

// Ready implements broker.Broker.
func (b *Broker) Ready(context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return errors.New("the memory broker is closed")
	}
	return nil
}

// Close implements broker.Broker.
func (b *Broker) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closed {
		b.closed = true
		b.wakeLocked()
	}
	return nil
}

// Wipe forgets every log, as a broker does whose store was deleted. Running subscriptions go on with what is
// published from then on.
func (b *Broker) Wipe() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.logs = map[mainstay.TopicLane]*records{}
	b.losses++
}

// DropTail forgets the last n records of a log, as a broker does that lost its unsynced writes.
func (b *Broker) DropTail(log mainstay.TopicLane, n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.losses++
	r := b.logs[log]
	if r == nil {
		return
	}
	if n >= len(r.msgs) {
		delete(b.logs, log)
		return
	}
	b.logs[log] = &records{first: r.first, msgs: slices.Clone(r.msgs[:len(r.msgs)-n]), kept: r.last() - int64(n)}
}

// Records gives what the broker holds of a log, in order.
func (b *Broker) Records(log mainstay.TopicLane) []*mainstay.Message {
	b.mu.Lock()
	defer b.mu.Unlock()
	if r := b.logs[log]; r != nil {
		return slices.Clone(r.msgs)
	}
	return nil
}

// Logs names the logs that have records, in order of topic and lane.
func (b *Broker) Logs() []mainstay.TopicLane {
	b.mu.Lock()
	defer b.mu.Unlock()
	var logs []mainstay.TopicLane
	for log := range b.logs {
		logs = append(logs, log)
	}
	sort.Slice(logs, func(i, j int) bool {
		return logs[i].Topic < logs[j].Topic || logs[i].Topic == logs[j].Topic && logs[i].Lane < logs[j].Lane
	})
	return logs
}
