package natsbroker

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/broker"
)

const (
	// maxRound is the most messages, and maxRoundBytes the most bytes, that are under way at once; the server takes
	// no longer batch.
	maxRound      = 1000
	maxRoundBytes = 8 << 20
	// batchFrom is from how many messages on an atomic batch is faster than single messages, when each is synced.
	batchFrom = 14
	// maxHeader is the server's limit for the headers of one message.
	maxHeader = math.MaxUint16
	// contendedRounds is for how many rounds no chain is tried after one broke.
	contendedRounds = 64
)

// chain is what makes a window of single messages exact. Each message names the stream's last sequence that it
// expects, so one that was stored stands where it was meant to; and each but the first of a log names the position
// of its predecessor, so it is stored only behind it. One that is lost or refused therefore breaks the chain for all
// that follow in its log, whatever else is published meanwhile. The expected sequence of the subject alone would
// not do: shifted by another publisher's message, a message could stand where its successor was meant to, and the
// one after next be taken.
type chain struct {
	// last is the stream's last sequence as far as is known, or 0.
	last uint64
	// contended counts down the rounds for which other publishers make chains useless.
	contended int
}

// outgoing is one message of a round.
type outgoing struct {
	log mainstay.TopicLane
	id  string
	msg *nats.Msg
	// previous is the index of the log's message before this one in the round, or -1.
	previous int
}

// Publish implements broker.Publisher. A message that would be refused is found before anything is sent.
func (b *Broker) Publish(ctx context.Context, msgs []*mainstay.Message, expect map[mainstay.TopicLane]int64) (map[mainstay.TopicLane]int64, error) {
	if b.isClosed() {
		return nil, broker.ErrClosed
	}
	rounds, err := b.encodeRounds(msgs)
	if err != nil {
		return nil, err
	}
	if err := b.usable(); err != nil {
		return nil, fmt.Errorf("%w: %w", broker.ErrUnknown, err)
	}
	select {
	case b.publishing <- struct{}{}:
		defer func() { <-b.publishing }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	known := make(map[mainstay.TopicLane]int64, len(expect))
	for log, position := range expect {
		known[log] = position
	}
	last := map[mainstay.TopicLane]int64{}
	for _, round := range rounds {
		if err := b.publishRound(ctx, round, known); err != nil {
			return nil, b.failed(ctx, err)
		}
		for _, o := range round {
			last[o.log] = known[o.log]
		}
	}
	return last, nil
}

// failed names what went wrong, and mends what can be: a stream that is gone is created again.
func (b *Broker) failed(ctx context.Context, err error) error {
	b.chain.last = 0
	var refused *broker.RefusedError
	switch {
	case errors.As(err, &refused):
		return err
	case b.isClosed():
		return fmt.Errorf("%w: %w", broker.ErrClosed, err)
	case streamIsGone(err):
		b.forgetStream()
		if _, openErr := b.currentStream(ctx); openErr != nil {
			return fmt.Errorf("%w: %w", broker.ErrUnknown, openErr)
		}
	}
	return translate(err)
}

// encodeRounds encodes the messages and cuts them into rounds of bounded size.
func (b *Broker) encodeRounds(msgs []*mainstay.Message) ([][]outgoing, error) {
	var rounds [][]outgoing
	var round []outgoing
	size, before := 0, map[mainstay.TopicLane]int{}
	for _, m := range msgs {
		out, n, err := b.encodeOne(m)
		if err != nil {
			return nil, &broker.RefusedError{MessageID: m.ID, Err: err}
		}
		if len(round) == maxRound || len(round) > 0 && size+n > maxRoundBytes {
			rounds, round, size = append(rounds, round), nil, 0
			clear(before)
		}
		if previous, ok := before[out.log]; ok {
			out.previous = previous
		}
		before[out.log] = len(round)
		round, size = append(round, out), size+n
	}
	if len(round) > 0 {
		rounds = append(rounds, round)
	}
	return rounds, nil
}

func (b *Broker) encodeOne(m *mainstay.Message) (outgoing, int, error) {
	if !topicForm.MatchString(m.Topic) || m.Lane < 0 {
		return outgoing{}, 0, fmt.Errorf("topic %q, lane %d: a topic is 1 to 64 of a-z, 0-9 and '-', a lane not negative", m.Topic, m.Lane)
	}
	msg, err := encode(b.subject(m.TopicLane()), m)
	if err != nil {
		return outgoing{}, 0, err
	}
	if b.cfg.Origin != "" {
		msg.Header[originHeader] = []string{b.cfg.Origin}
	}
	const ownHeaders = 512 // room for what publishing adds
	header := headerSize(msg.Header) + ownHeaders
	if header > maxHeader {
		return outgoing{}, 0, fmt.Errorf("headers of %d bytes are larger than %d", header, maxHeader)
	}
	if size := int64(header + len(msg.Data)); size > b.nc.MaxPayload() {
		return outgoing{}, 0, fmt.Errorf("message of %d bytes is larger than the server's max_payload of %d", size, b.nc.MaxPayload())
	}
	return outgoing{log: m.TopicLane(), id: m.ID, msg: msg, previous: -1}, header + len(msg.Data), nil
}

// publishRound publishes and keeps known up to date, also when it fails halfway.
func (b *Broker) publishRound(ctx context.Context, round []outgoing, known map[mainstay.TopicLane]int64) error {
	ctx, cancel := context.WithTimeoutCause(ctx, b.cfg.AckTimeout, errors.New("no acknowledgement in time"))
	defer cancel()
	chained := hasSuccessors(round)
	if chained && b.chain.contended > 0 {
		b.chain.contended--
	}
	if chained && (b.chain.last == 0 || b.chain.contended > 0) || b.cfg.Sync == SyncAlways && len(round) >= batchFrom {
		return b.publishBatch(ctx, round, known)
	}
	stored, err := b.publishWindow(ctx, round, known, chained)
	if chained && errors.Is(translateOrNil(err), broker.ErrConflict) {
		// Either a log is not where it was expected, or somebody else has published: a batch needs no chain, and
		// tells the two apart.
		b.chain.contended = contendedRounds
		return b.publishBatch(ctx, rest(round, stored), known)
	}
	return err
}

func translateOrNil(err error) error {
	if err == nil {
		return nil
	}
	return translate(err)
}

func hasSuccessors(round []outgoing) bool {
	for _, o := range round {
		if o.previous >= 0 {
			return true
		}
	}
	return false
}

// rest are the messages from the n-th on.
func rest(round []outgoing, n int) []outgoing {
	out := append([]outgoing(nil), round[n:]...)
	for i := range out {
		out[i].previous = max(out[i].previous-n, -1)
	}
	return out
}

// publishWindow sends all messages without waiting in between. It answers with how many were stored before the
// first that was not; of a chained window none after it was.
func (b *Broker) publishWindow(ctx context.Context, round []outgoing, known map[mainstay.TopicLane]int64, chained bool) (int, error) {
	acks := make([]jetstream.PubAckFuture, len(round))
	for i, o := range round {
		setExpectations(o, known)
		if chained {
			o.msg.Header[jetstream.ExpectedLastSeqHeader] = []string{formatSeq(b.chain.last + uint64(i))}
		}
		if o.previous >= 0 {
			o.msg.Header[jetstream.ExpectedLastSubjSeqHeader] = []string{formatSeq(b.chain.last + uint64(o.previous) + 1)}
		}
		ack, err := b.js.PublishMsgAsync(o.msg, jetstream.WithRetryAttempts(0))
		if err != nil {
			return 0, err
		}
		acks[i] = ack
	}
	return b.awaitWindow(ctx, round, known, acks)
}

func (b *Broker) awaitWindow(ctx context.Context, round []outgoing, known map[mainstay.TopicLane]int64, acks []jetstream.PubAckFuture) (int, error) {
	stored, last := 0, b.chain.last
	var failure error
	for i, ack := range acks {
		select {
		case a := <-ack.Ok():
			if failure == nil {
				stored = i + 1
			}
			last = max(last, a.Sequence)
			known[round[i].log] = int64(a.Sequence) //nolint:gosec // sequences stay far below 2^63
		case err := <-ack.Err():
			if tooLarge(err) {
				err = &broker.RefusedError{MessageID: round[i].id, Err: err}
			}
			failure = worse(failure, err)
		case <-ctx.Done():
			return stored, context.Cause(ctx)
		}
	}
	b.chain.last = last
	return stored, failure
}

// worse keeps the first failure, but one that leaves the outcome open before a definite one.
func worse(a, b error) error {
	if a == nil || errors.Is(translate(b), broker.ErrUnknown) && !errors.Is(translate(a), broker.ErrUnknown) {
		return b
	}
	return a
}

// publishBatch sends all messages as one atomic batch.
func (b *Broker) publishBatch(ctx context.Context, round []outgoing, known map[mainstay.TopicLane]int64) error {
	if len(round) == 1 {
		delete(round[0].msg.Header, jetstream.ExpectedLastSeqHeader)
		_, err := b.publishWindow(ctx, round, known, false)
		return err
	}
	msgs := make([]*nats.Msg, len(round))
	for i, o := range round {
		delete(o.msg.Header, jetstream.ExpectedLastSeqHeader)
		setExpectations(o, known)
		msgs[i] = o.msg
	}
	ack, err := jetstreamext.PublishMsgBatch(ctx, b.js, msgs, jetstreamext.BatchFlowControl{AckTimeout: b.cfg.AckTimeout})
	if err != nil {
		return err
	}
	b.chain.last = ack.Sequence
	for i, o := range round {
		known[o.log] = int64(ack.Sequence) - int64(len(round)-1-i) //nolint:gosec // sequences stay far below 2^63
	}
	return nil
}

// setExpectations gives the first message of a log the position that the log's last record must have.
func setExpectations(o outgoing, known map[mainstay.TopicLane]int64) {
	delete(o.msg.Header, jetstream.ExpectedLastSubjSeqHeader)
	if position, ok := known[o.log]; ok && o.previous < 0 {
		o.msg.Header[jetstream.ExpectedLastSubjSeqHeader] = []string{strconv.FormatInt(position, 10)}
	}
}

func formatSeq(seq uint64) string { return strconv.FormatUint(seq, 10) }
