package main

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"

	"github.com/mainstay-io/mainstay/internal/clock"
)

// asyncWindow is how many plain publishes are under way at a time; atomicBatch how many go in one atomic batch.
const (
	asyncWindow = 4000
	atomicBatch = 1000
)

// plainSide publishes messages with the plain client, 16 subjects in turn and a header for the id as ours has it.
func (w *world) plainSide(name string, publish func(context.Context, jetstream.JetStream, []*nats.Msg) error, n int) side {
	return side{"JetStream: " + name, "one connection inside the process", func(ctx context.Context) (float64, error) {
		js, stop, err := w.stream(ctx)
		if err != nil {
			return 0, err
		}
		defer stop()
		content, ms := body(), make([]*nats.Msg, n)
		for i := range ms {
			ms[i] = &nats.Msg{Subject: fmt.Sprint("peer.", i%16), Data: content, Header: nats.Header{"ce-id": {uuid.NewString()}}}
		}
		began := clock.Start()
		if err := publish(ctx, js, ms); err != nil {
			return 0, err
		}
		return perSecond(n, began.Elapsed()), nil
	}}
}

func publishEach(ctx context.Context, js jetstream.JetStream, ms []*nats.Msg) error {
	for _, m := range ms {
		if _, err := js.PublishMsg(ctx, m); err != nil {
			return err
		}
	}
	return nil
}

// publishAsync checks every acknowledgement.
func publishAsync(ctx context.Context, js jetstream.JetStream, ms []*nats.Msg) error {
	acks := make([]jetstream.PubAckFuture, len(ms))
	for i, m := range ms {
		var err error
		if acks[i], err = js.PublishMsgAsync(m, jetstream.WithStallWait(stall)); err != nil {
			return err
		}
	}
	for _, a := range acks {
		select {
		case <-a.Ok():
		case err := <-a.Err():
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func publishBatches(ctx context.Context, js jetstream.JetStream, ms []*nats.Msg) error {
	for from := 0; from < len(ms); from += atomicBatch {
		if _, err := jetstreamext.PublishMsgBatch(ctx, js, ms[from:min(from+atomicBatch, len(ms))]); err != nil {
			return err
		}
	}
	return nil
}
