package natsbroker

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/broker"
)

// place is what a record says of its place in the log.
type place struct {
	incarnation, sequence, position int64
	id, origin                      string
}

// record reads the place of a raw record; of one that is not readable only the position is known.
func (b *Broker) record(log mainstay.TopicLane, raw *jetstream.RawStreamMsg) place {
	p := place{position: int64(raw.Sequence)} //nolint:gosec // sequences stay far below 2^63
	if m, err := decode(log, raw.Header, nil); err == nil {
		p.incarnation, p.sequence, p.id, p.origin = m.Incarnation, m.Sequence, m.ID, first(raw.Header, originHeader)
	}
	return p
}

// after says whether the record comes after the start.
func (p place) after(s broker.Start) bool {
	return p.incarnation > s.Incarnation || p.incarnation == s.Incarnation && p.sequence > s.Sequence
}

// locate is the stream's sequence from which on everything behind the starts is read. It is the lowest of them:
// what comes too early the caller steps over.
func (b *Broker) locate(ctx context.Context, st jetstream.Stream, from []broker.Start) (uint64, error) {
	state := st.CachedInfo().State
	begin := state.LastSeq + 1
	for _, s := range from {
		at, err := b.locateLog(ctx, st, s, int64(state.FirstSeq), int64(begin)) //nolint:gosec // sequences stay far below 2^63
		if err != nil {
			return 0, fmt.Errorf("finding sequence %d of %s/%d: %w", s.Sequence, s.Topic, s.Lane, err)
		}
		begin = min(begin, uint64(max(at, 1)))
	}
	return begin, nil
}

// locateLog searches one log by halves. Places grow along a log but where it was refilled; when what was found does
// not join the start without a gap, the whole log is read.
func (b *Broker) locateLog(ctx context.Context, st jetstream.Stream, s broker.Start, first, end int64) (int64, error) {
	raw, err := st.GetLastMsgForSubject(ctx, b.subject(s.TopicLane))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return end, nil
	}
	if err != nil {
		return 0, err
	}
	tail := b.record(s.TopicLane, raw)
	if tail.sequence > 0 && !tail.after(s) {
		return tail.position + 1, nil
	}
	if s.Sequence == 0 {
		return first, nil
	}
	low, high, found := first, tail.position, tail
	for low < high {
		middle := low + (high-low)/2
		raw, err := st.GetMsg(ctx, uint64(middle), jetstream.WithGetMsgSubject(b.subject(s.TopicLane))) //nolint:gosec // positive
		if err != nil {
			return 0, err
		}
		if p := b.record(s.TopicLane, raw); p.after(s) {
			high, found = middle, p
		} else {
			low = p.position + 1
		}
	}
	if found.sequence > s.Sequence+1 {
		return first, nil
	}
	return low, nil
}
