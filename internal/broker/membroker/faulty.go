package membroker

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/broker"
)

// Faults say what goes wrong; a zero field does not. Functions are called by many goroutines.
type Faults struct {
	// Duplicate delivers every batch of records twice, one behind the other.
	Duplicate bool
	// Lose says which records are never delivered.
	Lose func(m *mainstay.Message) bool
	// Shuffle, when not nil, mixes the lanes of what is delivered and holds some of them back until the next call;
	// the order within a log stays. Faulty guards it.
	Shuffle *rand.Rand
	// BeforePublish fails a publish before anything was sent.
	BeforePublish func(msgs []*mainstay.Message) error
	// AfterPublish fails a publish though everything was stored: the lost acknowledgement.
	AfterPublish func(msgs []*mainstay.Message) error
	// At fails a look at one record.
	At func() error
}

// Faulty is a broker with faults, which may be changed while it runs.
type Faulty struct {
	broker.Broker

	mu     sync.Mutex
	faults Faults
}

// NewFaulty wraps b.
func NewFaulty(b broker.Broker, f Faults) *Faulty { return &Faulty{Broker: b, faults: f} }

// Ask implements broker.Owners where what is wrapped does.
func (f *Faulty) Ask(ctx context.Context, q broker.Question) (broker.Answer, error) {
	if o, ok := f.Broker.(broker.Owners); ok {
		return o.Ask(ctx, q)
	}
	return broker.Answer{}, broker.ErrNobody
}

// Answer implements broker.Owners where what is wrapped does; else nobody asks.
func (f *Faulty) Answer(ctx context.Context, origin string, a broker.Answerer) error {
	if o, ok := f.Broker.(broker.Owners); ok {
		return o.Answer(ctx, origin, a)
	}
	<-ctx.Done()
	return nil
}

// Set replaces the faults.
func (f *Faulty) Set(faults Faults) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = faults
}

func (f *Faulty) current() Faults {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.faults
}

// At is broker.Publisher's.
func (f *Faulty) At(ctx context.Context, log mainstay.TopicLane, position int64) (broker.Tail, error) {
	if at := f.current().At; at != nil {
		if err := at(); err != nil {
			return broker.Tail{}, err
		}
	}
	return f.Broker.At(ctx, log, position)
}

// Publish implements broker.Publisher.
func (f *Faulty) Publish(ctx context.Context, msgs []*mainstay.Message, expect map[mainstay.TopicLane]int64) (map[mainstay.TopicLane]int64, error) {
	faults := f.current()
	if faults.BeforePublish != nil {
		if err := faults.BeforePublish(msgs); err != nil {
			return nil, err
		}
	}
	last, err := f.Broker.Publish(ctx, msgs, expect)
	if err != nil || faults.AfterPublish == nil {
		return last, err
	}
	if err := faults.AfterPublish(msgs); err != nil {
		return nil, err
	}
	return last, nil
}

// Subscribe implements broker.Reader.
func (f *Faulty) Subscribe(ctx context.Context, from []broker.Start) (broker.Subscription, error) {
	sub, err := f.Broker.Subscribe(ctx, from)
	if err != nil {
		return nil, err
	}
	return &faultySubscription{Subscription: sub, f: f}, nil
}

type faultySubscription struct {
	broker.Subscription
	f    *Faulty
	held []*mainstay.Message
}

// Next implements broker.Subscription.
func (s *faultySubscription) Next(ctx context.Context) ([]*mainstay.Message, error) {
	for {
		msgs := s.held
		s.held = nil
		if len(msgs) == 0 {
			var err error
			if msgs, err = s.Subscription.Next(ctx); err != nil {
				return nil, err
			}
			msgs = s.spoil(msgs)
		}
		if len(msgs) > 0 {
			return msgs, nil
		}
	}
}

func (s *faultySubscription) spoil(msgs []*mainstay.Message) []*mainstay.Message {
	faults := s.f.current()
	if faults.Lose != nil {
		msgs = slices.DeleteFunc(slices.Clone(msgs), faults.Lose)
	}
	if faults.Shuffle != nil {
		msgs = s.shuffle(msgs, faults.Shuffle)
	}
	if faults.Duplicate {
		msgs = slices.Concat(msgs, msgs)
	}
	return msgs
}

// shuffle gives the lanes in a random order, the first at once and a random part of the others with the next call.
func (s *faultySubscription) shuffle(msgs []*mainstay.Message, r *rand.Rand) []*mainstay.Message {
	var order []mainstay.TopicLane
	logs := map[mainstay.TopicLane][]*mainstay.Message{}
	for _, m := range msgs {
		if _, seen := logs[m.TopicLane()]; !seen {
			order = append(order, m.TopicLane())
		}
		logs[m.TopicLane()] = append(logs[m.TopicLane()], m)
	}
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	r.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	var now []*mainstay.Message
	for i, log := range order {
		if i == 0 || r.IntN(2) == 0 {
			now = append(now, logs[log]...)
		} else {
			s.held = append(s.held, logs[log]...)
		}
	}
	return now
}
