package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	watermillsql "github.com/ThreeDotsLabs/watermill-sql/v3/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/components/forwarder"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/mainstay-io/mainstay/internal/clock"
)

// counted is the forwarder's way out: to JetStream, one acknowledged publish after the other as Watermill's own NATS
// publisher does it, or to nowhere. It says when all messages are out.
type counted struct {
	js   jetstream.JetStream // nil for nowhere
	left atomic.Int64
	done chan struct{}
}

// Publish publishes messages.
func (c *counted) Publish(_ string, messages ...*message.Message) error {
	for _, m := range messages {
		if c.js != nil {
			_, err := c.js.PublishMsg(m.Context(), &nats.Msg{Subject: "peer.0", Data: m.Payload, Header: nats.Header{"id": {m.UUID}}})
			if err != nil {
				return err
			}
		}
		if c.left.Add(-1) == 0 {
			close(c.done)
		}
	}
	return nil
}

// Close does nothing.
func (c *counted) Close() error { return nil }

func (w *world) forwarderSide(to string, n int) side {
	return side{"Watermill: forwarder to " + to, "batches of 1,000, poll 1 ms", func(ctx context.Context) (float64, error) {
		out := &counted{done: make(chan struct{})}
		out.left.Store(int64(n))
		if to == "JetStream" {
			js, stop, err := w.stream(ctx)
			if err != nil {
				return 0, err
			}
			defer stop()
			out.js = js
		}
		return w.forward(ctx, n, out)
	}}
}

// forward fills the forwarder's table, then starts it and measures until all messages are out.
func (w *world) forward(ctx context.Context, n int, out *counted) (rate float64, err error) {
	pool, drop, err := w.database(ctx, 16)
	if err != nil {
		return 0, err
	}
	defer drop()
	db := stdlib.OpenDBFromPool(pool)
	defer db.Close()
	schema, log := watermillsql.DefaultPostgreSQLSchema{SubscribeBatchSize: 1000}, watermill.NopLogger{}
	in, err := watermillsql.NewPublisher(db, watermillsql.PublisherConfig{SchemaAdapter: schema, AutoInitializeSchema: true}, log)
	if err != nil {
		return 0, err
	}
	if err := fillForwarder(forwarder.NewPublisher(in, forwarder.PublisherConfig{}), n); err != nil {
		return 0, err
	}
	from, err := watermillsql.NewSubscriber(db, watermillsql.SubscriberConfig{
		SchemaAdapter: schema, OffsetsAdapter: watermillsql.DefaultPostgreSQLOffsetsAdapter{}, InitializeSchema: true, PollInterval: time.Millisecond,
	}, log)
	if err != nil {
		return 0, err
	}
	f, err := forwarder.NewForwarder(from, out, log, forwarder.Config{})
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, stall, errors.New("Watermill's forwarder did not end in time"))
	defer cancel()
	ended, began := make(chan error, 1), clock.Start()
	go func() { ended <- f.Run(ctx) }()
	select {
	case <-out.done:
	case <-ctx.Done():
		err = context.Cause(ctx)
	case err = <-ended:
		return 0, errors.Join(err, errors.New("the forwarder ended by itself"))
	}
	took := began.Elapsed()
	return perSecond(n, took), errors.Join(err, f.Close(), <-ended)
}

func fillForwarder(p message.Publisher, n int) error {
	const atATime = 1000
	content := body()
	for from := 0; from < n; from += atATime {
		ms := make([]*message.Message, min(atATime, n-from))
		for i := range ms {
			ms[i] = message.NewMessage(watermill.NewUUID(), content)
			ms[i].Metadata.Set("key", fmt.Sprint("key-", (from+i)%1000))
		}
		if err := p.Publish("bench", ms...); err != nil {
			return err
		}
	}
	return nil
}
