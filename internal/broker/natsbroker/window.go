package natsbroker

import (
	"context"
	"errors"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/broker"
)

// ack is an acknowledgement under way, of a log's last message in a window.
type ack struct {
	of outgoing
	jetstream.PubAckFuture
}

// publishWindow sends all messages without waiting in between. Only the last one of each log is acknowledged: it is
// stored behind those before it, or not at all. The answer names the logs of which everything was stored.
func (b *Broker) publishWindow(ctx context.Context, round []outgoing, known map[mainstay.TopicLane]int64, chained bool) (map[mainstay.TopicLane]bool, error) {
	acks := make([]ack, 0, len(known))
	for i, o := range round {
		msg := b.encode(o)
		if chained {
			b.records.set(jetstream.ExpectedLastSeqHeader, formatSeq(b.chain.last+uint64(i)))
		}
		if o.previous >= 0 {
			b.records.set(jetstream.ExpectedLastSubjSeqHeader, formatSeq(b.chain.last+uint64(o.previous)+1))
		} else {
			b.expect(o.log, known)
		}
		if !o.last {
			if err := b.nc.PublishMsg(msg); err != nil {
				return nil, refused(o, err)
			}
			continue
		}
		future, err := b.js.PublishMsgAsync(msg, jetstream.WithRetryAttempts(0))
		if err != nil {
			return nil, refused(o, err)
		}
		acks = append(acks, ack{o, future})
	}
	return b.awaitWindow(ctx, acks, known)
}

// encode makes the record of a message, which is good until the next one.
func (b *Broker) encode(o outgoing) *nats.Msg {
	msg := b.records.record(o.subject, o.Message)
	if b.cfg.Origin != "" {
		b.records.set(originHeader, b.cfg.Origin)
	}
	return msg
}

// expect gives the first message of a log the position that the log's last record must have.
func (b *Broker) expect(log mainstay.TopicLane, known map[mainstay.TopicLane]int64) {
	if position, ok := known[log]; ok {
		b.records.set(jetstream.ExpectedLastSubjSeqHeader, strconv.FormatInt(position, 10))
	}
}

func (b *Broker) awaitWindow(ctx context.Context, acks []ack, known map[mainstay.TopicLane]int64) (map[mainstay.TopicLane]bool, error) {
	stored, last := map[mainstay.TopicLane]bool{}, b.chain.last
	var failure error
	for _, a := range acks {
		select {
		case ok := <-a.Ok():
			stored[a.of.log] = true
			last = max(last, ok.Sequence)
			known[a.of.log] = int64(ok.Sequence) //nolint:gosec // sequences stay far below 2^63
		case err := <-a.Err():
			failure = worse(failure, refused(a.of, err))
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	b.chain.last = last
	return stored, failure
}

// refused names the message when the server says that it is too large.
func refused(o outgoing, err error) error {
	if tooLarge(err) {
		return &broker.RefusedError{MessageID: o.ID, Err: err}
	}
	return err
}

// worse keeps the first failure, but one that leaves the outcome open before a definite one.
func worse(a, b error) error {
	if a == nil || errors.Is(translate(b), broker.ErrUnknown) && !errors.Is(translate(a), broker.ErrUnknown) {
		return b
	}
	return a
}

// rest is what is still to be sent of a window whose chain broke, sent behind the stream's sequence base. Everything
// was answered, so each log holds what it will hold: all of its messages where the last one was acknowledged, else
// those up to its last record.
func (b *Broker) rest(ctx context.Context, round []outgoing, base uint64, stored map[mainstay.TopicLane]bool, known map[mainstay.TopicLane]int64) ([]outgoing, error) {
	through := map[mainstay.TopicLane]int{}
	for _, o := range round {
		if o.previous >= 0 || stored[o.log] {
			continue
		}
		tail, err := b.Tail(ctx, o.log)
		if err != nil {
			return nil, err
		}
		through[o.log] = -1
		i := tail.Position - int64(base) - 1 //nolint:gosec // sequences stay far below 2^63
		if i >= 0 && i < int64(len(round)) && round[i].log == o.log && round[i].ID == tail.MessageID {
			through[o.log], known[o.log] = int(i), tail.Position
		}
	}
	var rest []outgoing
	for i, o := range round {
		if !stored[o.log] && i > through[o.log] {
			rest = append(rest, o)
		}
	}
	link(rest)
	return rest, nil
}

func formatSeq(seq uint64) string { return strconv.FormatUint(seq, 10) }
