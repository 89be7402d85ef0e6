package natsbroker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/broker"
)

const (
	// maxNext bounds what one Next gives, maxBuffered what waits for it.
	maxNext     = 512
	maxBuffered = 2 * maxNext
	// heartbeat is how often the server says that it is there while nothing is published.
	heartbeat = 5 * time.Second
	// Backoff of reopening.
	minReopen = 50 * time.Millisecond
	maxReopen = 5 * time.Second
	// settle bounds the clean-up of a consumer that is given up; the server does it later by itself.
	settle          = time.Second
	consumerTimeout = 30 * time.Second
)

// errGap means that records were lost between server and client.
var errGap = errors.New("records were lost on the connection")

type subscription struct {
	b        *Broker
	logs     map[string]mainstay.TopicLane // by subject
	subjects []string
	ctx      context.Context //nolint:containedctx // the subscription's life, which outlives Subscribe
	cancel   context.CancelFunc
	done     chan struct{} // closed when run has ended

	// The reading position; used by run and, while a consumer is open, by its callback.
	created time.Time
	next    uint64
	// stored is when the server stored the record before next; zero when none was read.
	stored time.Time

	arrived chan struct{} // capacity 1: there are records
	taken   chan struct{} // capacity 1: there is room again

	mu  sync.Mutex
	buf []*mainstay.Message
}

// Subscribe implements broker.Reader: one ephemeral consumer for all the logs.
func (b *Broker) Subscribe(ctx context.Context, from []broker.Start) (broker.Subscription, error) {
	if b.isClosed() {
		return nil, broker.ErrClosed
	}
	s := &subscription{
		b: b, logs: map[string]mainstay.TopicLane{}, done: make(chan struct{}),
		arrived: make(chan struct{}, 1), taken: make(chan struct{}, 1),
	}
	for _, f := range from {
		s.logs[b.subject(f.TopicLane)] = f.TopicLane
		s.subjects = append(s.subjects, b.subject(f.TopicLane))
	}
	st, err := b.freshStream(ctx)
	if err != nil {
		return nil, fmt.Errorf("subscribing: %w", err)
	}
	if s.next, err = b.locate(ctx, st, from); err != nil {
		return nil, fmt.Errorf("subscribing: %w", err)
	}
	s.created = st.CachedInfo().Created
	s.ctx, s.cancel = context.WithCancel(b.stopped)
	return s, b.run(s)
}

// run starts the subscription unless the broker was closed meanwhile.
func (b *Broker) run(s *subscription) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		s.cancel()
		return broker.ErrClosed
	}
	b.subs.Go(s.run)
	return nil
}

// run keeps a consumer open until the subscription ends.
func (s *subscription) run() {
	defer close(s.done)
	wait := minReopen
	for s.ctx.Err() == nil {
		progress, err := s.follow()
		if s.ctx.Err() != nil {
			return
		}
		if progress {
			wait = minReopen
		}
		s.b.log.DebugContext(s.ctx, "reading from the broker again", slog.Any("err", err), slog.Duration("in", wait))
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-s.ctx.Done():
			timer.Stop()
		}
		wait = min(2*wait, maxReopen)
	}
}

// follow reads through one consumer until it fails, and says whether it had been open.
func (s *subscription) follow() (bool, error) {
	reconnected := s.b.nc.StatusChanged(nats.CONNECTED)
	defer s.b.nc.RemoveStatusListener(reconnected)
	cons, err := s.open()
	if err != nil {
		return false, err
	}
	defer s.drop(cons)
	failed := make(chan error, 1)
	fail := func(err error) {
		select {
		case failed <- err:
		default:
		}
	}
	reading, err := cons.Consume(s.receiver(fail), jetstream.PullMaxMessages(maxNext), jetstream.PullExpiry(6*heartbeat),
		jetstream.PullHeartbeat(heartbeat), jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) { fail(err) }))
	if err != nil {
		return false, fmt.Errorf("reading: %w", err)
	}
	select {
	case err = <-failed:
	case <-reconnected:
		err = errors.New("the connection was lost")
	case <-s.ctx.Done():
	}
	reading.Stop()
	<-reading.Closed() // the callback may wait for Next to make room
	return true, err
}

// open makes a consumer at the reading position; of a stream that was created anew, or went back to an earlier state,
// it is the beginning.
func (s *subscription) open() (jetstream.Consumer, error) {
	ctx, cancel := context.WithTimeout(s.ctx, s.b.cfg.AckTimeout)
	defer cancel()
	st, err := s.b.freshStream(ctx)
	if err != nil {
		return nil, err
	}
	if created := st.CachedInfo().Created; !created.Equal(s.created) {
		s.rewind(ctx, errReplaced)
		s.created = created
	}
	if err := s.recognize(ctx, st); err != nil {
		return nil, err
	}
	return st.CreateConsumer(ctx, jetstream.ConsumerConfig{
		FilterSubjects: s.subjects, DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: s.next,
		AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true, Replicas: 1, InactiveThreshold: consumerTimeout,
	})
}

// recognize looks whether the record that was read last is still where it was.
func (s *subscription) recognize(ctx context.Context, st jetstream.Stream) error {
	state := st.CachedInfo().State
	switch {
	case s.next > state.LastSeq+1:
		s.rewind(ctx, errWentBack)
		return nil
	case s.stored.IsZero(), s.next <= state.FirstSeq: // it has left in time
		return nil
	}
	raw, err := st.GetMsg(ctx, s.next-1)
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		s.rewind(ctx, errWentBack)
		return nil
	case err != nil:
		return fmt.Errorf("looking for the record that was read last: %w", err)
	case !raw.Time.Equal(s.stored):
		s.rewind(ctx, errWentBack)
	}
	return nil
}

// rewind begins anew at the beginning: what was read already, the caller steps over.
func (s *subscription) rewind(ctx context.Context, why error) {
	s.b.log.WarnContext(ctx, "the broker's stream is another one, reading it from its beginning", slog.Any("err", why))
	s.next, s.stored = 1, time.Time{}
}

func (s *subscription) drop(cons jetstream.Consumer) {
	if !s.b.nc.IsConnected() {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), settle)
	defer cancel()
	if err := s.b.js.DeleteConsumer(ctx, s.b.cfg.Stream, cons.CachedInfo().Name); err != nil {
		s.b.log.DebugContext(ctx, "deleting a consumer", slog.Any("err", err))
	}
}

// receiver takes the consumer's records one by one. They are numbered without gaps; after a gap nothing is taken,
// so that the next consumer begins at the lost one.
func (s *subscription) receiver(fail func(error)) func(jetstream.Msg) {
	var before uint64
	broken := false
	return func(msg jetstream.Msg) {
		meta, err := msg.Metadata()
		if err == nil && meta.Sequence.Consumer != before+1 {
			err = errGap
		}
		if broken = broken || err != nil; broken {
			fail(err)
			return
		}
		if !s.take(msg, meta.Sequence.Stream) {
			broken = true
			return
		}
		before, s.next, s.stored = meta.Sequence.Consumer, meta.Sequence.Stream+1, meta.Timestamp
	}
}

// take buffers a record, waiting for room; false when the subscription has ended.
func (s *subscription) take(msg jetstream.Msg, position uint64) bool {
	m, err := decode(s.logs[msg.Subject()], msg.Headers(), msg.Data())
	if err != nil {
		s.b.skip(s.ctx, msg.Subject(), position, err)
		return true
	}
	s.mu.Lock()
	for len(s.buf) >= maxBuffered {
		s.mu.Unlock()
		select {
		case <-s.taken:
		case <-s.ctx.Done():
			return false
		}
		s.mu.Lock()
	}
	s.buf = append(s.buf, m)
	s.mu.Unlock()
	notify(s.arrived)
	return true
}

// Next implements broker.Subscription.
func (s *subscription) Next(ctx context.Context) ([]*mainstay.Message, error) {
	for {
		if s.ctx.Err() != nil {
			return nil, broker.ErrClosed
		}
		if msgs := s.give(); len(msgs) > 0 {
			return msgs, nil
		}
		select {
		case <-s.arrived:
		case <-s.ctx.Done():
			return nil, broker.ErrClosed
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (s *subscription) give() []*mainstay.Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := min(len(s.buf), maxNext)
	msgs := slices.Clone(s.buf[:n])
	s.buf = append(s.buf[:0], s.buf[n:]...)
	clear(s.buf[len(s.buf):cap(s.buf)])
	if len(s.buf) > 0 {
		notify(s.arrived)
	}
	notify(s.taken)
	return msgs
}

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Close implements broker.Subscription.
func (s *subscription) Close() error {
	s.cancel()
	<-s.done
	return nil
}
