// Package logbroker reads messages from the database's own log: a broker's read side without a broker.
package logbroker

import (
	"context"
	"sync"
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/broker"
)

// Log is the database's log. See relay.Store for what the methods promise.
type Log interface {
	Heads(ctx context.Context) (map[mainstay.TopicLane]int64, error)
	ReadLog(ctx context.Context, after map[mainstay.TopicLane]int64, limit int) ([]*mainstay.Message, error)
	Wake() (wake <-chan struct{}, stop func())
}

// Batch is the most messages that Next gives at a time.
const Batch = 1024

// Broker reads from a log. It is safe for concurrent use.
type Broker struct {
	log   Log
	reads *reads
	poll  time.Duration
}

// New reads from log, which is polled this often when nothing wakes the reader; 0 means every second.
func New(log Log, poll time.Duration) *Broker {
	if poll <= 0 {
		poll = time.Second
	}
	return &Broker{log: log, reads: &reads{log: log}, poll: poll}
}

var _ broker.Reader = (*Broker)(nil)

// Subscribe reads the given logs from their starts.
func (b *Broker) Subscribe(_ context.Context, from []broker.Start) (broker.Subscription, error) {
	s := &subscription{b: b, at: map[mainstay.TopicLane]int64{}, closed: make(chan struct{})}
	for _, f := range from {
		s.at[f.TopicLane] = f.Sequence
	}
	s.wake, s.stop = b.log.Wake()
	return s, nil
}

// Ready is always nil: the database answers for itself.
func (b *Broker) Ready(context.Context) error { return nil }

type subscription struct {
	b      *Broker
	at     map[mainstay.TopicLane]int64
	wake   <-chan struct{}
	stop   func()
	once   sync.Once
	closed chan struct{}
}

// Next reads what the logs have grown by.
func (s *subscription) Next(ctx context.Context) ([]*mainstay.Message, error) {
	for {
		select {
		case <-s.closed:
			return nil, broker.ErrClosed
		default:
		}
		ms, err := s.b.reads.read(ctx, s.at)
		switch {
		case err != nil && ctx.Err() != nil:
			return nil, context.Cause(ctx) // however the database says that it was interrupted
		case err != nil:
			return nil, err
		}
		if len(ms) > 0 {
			for _, m := range ms {
				s.at[m.TopicLane()] = m.Sequence
			}
			return ms, nil
		}
		if err := s.wait(ctx); err != nil {
			return nil, err
		}
	}
}

func (s *subscription) wait(ctx context.Context) error {
	t := time.NewTimer(s.b.poll)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-s.closed:
		return broker.ErrClosed
	case <-s.wake:
	case <-t.C:
	}
	return nil
}

// Close ends the subscription.
func (s *subscription) Close() error {
	s.once.Do(func() {
		close(s.closed)
		s.stop()
	})
	return nil
}
