package natsbroker

import (
	"context"
	"errors"
	"fmt"
	"math"

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
// that follow in its log, whatever else is published meanwhile, and only the last one of a log need be acknowledged. The
// expected sequence of the subject alone would
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
	*mainstay.Message
	log     mainstay.TopicLane
	subject string
	// previous is the index of the log's message before this one in the round, or -1; last says that none follows it.
	previous int
	last     bool
}

// Publish implements broker.Publisher. A message that would be refused is found before anything is sent.
func (b *Broker) Publish(ctx context.Context, msgs []*mainstay.Message, expect map[mainstay.TopicLane]int64) (map[mainstay.TopicLane]int64, error) {
	if b.isClosed() {
		return nil, broker.ErrClosed
	}
	select {
	case b.publishing <- struct{}{}:
		defer func() { <-b.publishing }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	rounds, err := b.rounds(msgs)
	if away := b.usable(); away != nil { // what it takes is as the last connection said, and may have changed since
		return nil, fmt.Errorf("%w: %w", broker.ErrUnknown, away)
	}
	if err != nil {
		return nil, err
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

// rounds looks whether the server takes the messages, and cuts them into rounds of bounded size.
func (b *Broker) rounds(msgs []*mainstay.Message) ([][]outgoing, error) {
	var rounds [][]outgoing
	var round []outgoing
	size, limit := 0, b.limit()
	for _, m := range msgs {
		o := outgoing{Message: m, log: m.TopicLane()}
		n := 0
		err := b.address(&o)
		if err == nil {
			n, err = b.size(m, limit)
		}
		if err != nil {
			return nil, &broker.RefusedError{MessageID: m.ID, Err: err}
		}
		if len(round) == maxRound || len(round) > 0 && size+n > maxRoundBytes {
			rounds, round, size = append(rounds, round), nil, 0
		}
		round, size = append(round, o), size+n
	}
	if len(round) > 0 {
		rounds = append(rounds, round)
	}
	for _, round := range rounds {
		link(round)
	}
	return rounds, nil
}

// link tells the messages of a round which of them follow one another in a log.
func link(round []outgoing) {
	before := map[mainstay.TopicLane]int{}
	for i := range round {
		o := &round[i]
		o.previous, o.last = -1, true
		if previous, ok := before[o.log]; ok {
			o.previous, round[previous].last = previous, false
		}
		before[o.log] = i
	}
}

// address gives the message its subject.
func (b *Broker) address(o *outgoing) error {
	if o.subject = b.known[o.log]; o.subject != "" {
		return nil
	}
	if !topicForm.MatchString(o.Topic) || o.Lane < 0 {
		return fmt.Errorf("topic %q, lane %d: a topic is 1 to 64 of a-z, 0-9 and '-', a lane not negative", o.Topic, o.Lane)
	}
	o.subject = b.subject(o.log)
	b.known[o.log] = o.subject
	return nil
}

// limit is the largest message, with its headers, that server and stream take.
func (b *Broker) limit() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.maxMessage > 0 {
		return min(b.nc.MaxPayload(), b.maxMessage)
	}
	return b.nc.MaxPayload()
}

// size is how much a message takes at most, with its headers; an error says why no server takes it.
func (b *Broker) size(m *mainstay.Message, limit int64) (int, error) {
	if err := checkHeaders(m); err != nil {
		return 0, err
	}
	const ownHeaders = 512 // room for what publishing adds
	header := headerBound(m) + ownHeaders
	if header > maxHeader || int64(header+len(m.Payload)) > limit { // rarely: now it must be exact
		header = headerSize(b.records.record("", m).Header) + ownHeaders
	}
	if header > maxHeader {
		return 0, fmt.Errorf("headers of %d bytes are larger than %d", header, maxHeader)
	}
	if size := int64(header + len(m.Payload)); size > limit {
		return 0, fmt.Errorf("message of %d bytes is larger than the %d that the server and its stream take (max_payload, max_msg_size)", size, limit)
	}
	return header + len(m.Payload), nil
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
	base := b.chain.last
	stored, err := b.publishWindow(ctx, round, known, chained)
	if !chained || !errors.Is(translateOrNil(err), broker.ErrConflict) {
		return err
	}
	// Either a log is not where it was expected, or somebody else has published: a batch needs no chain, and tells the
	// two apart.
	b.chain.contended = contendedRounds
	rest, err := b.rest(ctx, round, base, stored, known)
	if err != nil {
		return err
	}
	return b.publishBatch(ctx, rest, known)
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
