package membroker

import (
	"context"
	"slices"

	"github.com/mainstay-io/mainstay/internal/broker"
)

// answerer is one who answers for an origin; turn holds a token while he does not.
type answerer struct {
	origin string
	answer broker.Answerer
	turn   chan struct{}
}

// Ask implements broker.Owners. Who came first answers for his origin.
func (b *Broker) Ask(ctx context.Context, q broker.Question) (broker.Answer, error) {
	b.mu.Lock()
	answerers := slices.Clone(b.answerers)
	closed := b.closed
	b.mu.Unlock()
	if closed {
		return broker.Answer{}, broker.ErrClosed
	}
	asked := map[string]bool{}
	for _, a := range answerers {
		if asked[a.origin] {
			continue
		}
		asked[a.origin] = true
		answer, mine, err := a.ask(ctx, q)
		if mine || err != nil {
			return answer, err
		}
	}
	return broker.Answer{}, broker.ErrNobody
}

// ask waits for the answerer's turn; it does not wait for him longer than ctx.
func (a *answerer) ask(ctx context.Context, q broker.Question) (answer broker.Answer, mine bool, err error) {
	select {
	case <-a.turn:
	case <-ctx.Done():
		return answer, false, ctx.Err()
	}
	defer func() { a.turn <- struct{}{} }()
	answer, mine = a.answer(ctx, q)
	return answer, mine, ctx.Err()
}

// Answer implements broker.Owners.
func (b *Broker) Answer(ctx context.Context, origin string, answer broker.Answerer) error {
	a := &answerer{origin: origin, answer: answer, turn: make(chan struct{}, 1)}
	a.turn <- struct{}{}
	b.mu.Lock()
	b.answerers = append(b.answerers, a)
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		b.answerers = slices.DeleteFunc(slices.Clone(b.answerers), func(other *answerer) bool { return other == a })
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
