package membroker

import (
	"context"
	"maps"
	"slices"

	"github.com/mainstay-io/mainstay/internal/broker"
)

// Ask implements broker.Owners.
func (b *Broker) Ask(ctx context.Context, q broker.Question) (broker.Answer, error) {
	b.mu.Lock()
	answerers := slices.Collect(maps.Values(b.answerers))
	closed := b.closed
	b.mu.Unlock()
	if closed {
		return broker.Answer{}, broker.ErrClosed
	}
	for _, answer := range answerers {
		if a, mine := answer(ctx, q); mine {
			return a, nil
		}
	}
	return broker.Answer{}, broker.ErrNobody
}

// Answer implements broker.Owners.
func (b *Broker) Answer(ctx context.Context, origin string, answer broker.Answerer) error {
	b.mu.Lock()
	if b.answerers == nil {
		b.answerers = map[string]broker.Answerer{}
	}
	b.answerers[origin] = answer
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		delete(b.answerers, origin)
		b.mu.Unlock()
	}()
	for {
		b.mu.Lock()
		closed, changed := b.closed, b.changed
		b.mu.Unlock()
		if closed {
			return broker.ErrClosed
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}
