package membroker

import (
	"context"
	"slices"
	"sync"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/broker"
)

type subscription struct {
	b         *Broker
	cursors   []*cursor // guarded by b.mu
	turn      int       // the cursor that is served first, guarded by b.mu
	closeOnce sync.Once
	done      chan struct{}
}

// cursor is the next position of one log; records tells a log that has lost records since.
type cursor struct {
	log     mainstay.TopicLane
	records *records
	next    int64
}

// Next implements broker.Subscription.
func (s *subscription) Next(ctx context.Context) ([]*mainstay.Message, error) {
	for {
		msgs, changed, err := s.take(ctx)
		if err != nil || len(msgs) > 0 {
			return msgs, err
		}
		select {
		case <-changed:
		case <-s.done:
			return nil, broker.ErrClosed
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (s *subscription) take(ctx context.Context) ([]*mainstay.Message, <-chan struct{}, error) {
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	select {
	case <-s.done:
		return nil, nil, broker.ErrClosed
	default:
	}
	if s.b.closed {
		return nil, nil, broker.ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	var msgs []*mainstay.Message
	for i := range s.cursors {
		c := s.cursors[(s.turn+i)%len(s.cursors)]
		msgs = append(msgs, c.take(s.b.logs[c.log], maxNext-len(msgs))...)
	}
	s.turn++
	return msgs, s.b.changed, nil
}

func (c *cursor) take(r *records, limit int) []*mainstay.Message {
	if r == nil {
		return nil
	}
	if r != c.records {
		c.next = min(c.next, r.kept+1)
	}
	c.records = r
	c.next = max(c.next, r.first)
	msgs := r.msgs[c.next-r.first:]
	if len(msgs) > limit {
		msgs = msgs[:limit]
	}
	c.next += int64(len(msgs))
	return slices.Clone(msgs)
}

// Close implements broker.Subscription.
func (s *subscription) Close() error {
	s.closeOnce.Do(func() { close(s.done) })
	return nil
}
