package natsbroker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"

	"github.com/nats-io/nats.go"

	"github.com/mainstay-io/mainstay/internal/broker"
)

// questions is the subject of questions between databases. It has two tokens: the stream, whose subjects have three,
// keeps none.
func (b *Broker) questions() string { return b.cfg.Prefix + ".refill" }

// Ask implements broker.Owners, as a request outside of JetStream.
func (b *Broker) Ask(ctx context.Context, q broker.Question) (broker.Answer, error) {
	var a broker.Answer
	if err := b.usable(); err != nil {
		return a, err
	}
	data, err := json.Marshal(q)
	if err != nil {
		return a, fmt.Errorf("asking who writes %s: %w", q.Topic, err)
	}
	msg, err := b.nc.RequestWithContext(ctx, b.questions(), data)
	if errors.Is(err, nats.ErrNoResponders) {
		return a, broker.ErrNobody
	}
	if err == nil {
		err = json.Unmarshal(msg.Data, &a)
	}
	if err != nil {
		return a, fmt.Errorf("asking who writes %s: %w", q.Topic, err)
	}
	return a, nil
}

// Answer implements broker.Owners: those of one origin are a queue group.
func (b *Broker) Answer(ctx context.Context, origin string, answer broker.Answerer) error {
	asked := make(chan *nats.Msg, maxQuestions)
	sub, err := b.nc.ChanQueueSubscribe(b.questions(), "database-"+origin, asked)
	if err != nil {
		return fmt.Errorf("waiting for questions: %w", err)
	}
	defer func() { _ = sub.Unsubscribe() }() // it ends with the connection, too
	for {
		select {
		case msg := <-asked:
			b.answer(ctx, msg, answer)
		case <-ctx.Done():
			return nil
		case <-b.stopped.Done():
			return broker.ErrClosed
		}
	}
}

// maxQuestions is how many may wait; more are lost, and asked again.
const maxQuestions = 64

func (b *Broker) answer(ctx context.Context, msg *nats.Msg, answer broker.Answerer) {
	var q broker.Question
	err := json.Unmarshal(msg.Data, &q)
	if err == nil {
		a, mine := answer(ctx, q)
		if !mine {
			return
		}
		var data []byte
		if data, err = json.Marshal(a); err == nil {
			err = msg.Respond(data)
		}
	}
	if err != nil {
		b.log.WarnContext(ctx, "a question of another database was not answered", slog.Any("err", err))
	}
}
