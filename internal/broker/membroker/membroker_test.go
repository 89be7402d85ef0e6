package membroker_test

import (
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/broker"
	"github.com/mainstay-io/mainstay/internal/broker/brokertest"
	"github.com/mainstay-io/mainstay/internal/broker/membroker"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	t.Parallel()
	brokertest.Run(t, func(*testing.T) broker.Broker { return membroker.New(membroker.Options{}) }, brokertest.Options{})
}

func TestConformance_ShuffledLanes(t *testing.T) {
	t.Parallel()
	open := func(*testing.T) broker.Broker {
		faults := membroker.Faults{Shuffle: rand.New(rand.NewPCG(1, 2))}
		return membroker.NewFaulty(membroker.New(membroker.Options{}), faults)
	}
	brokertest.Run(t, open, brokertest.Options{})
}

func TestBroker_KeepsTheLastRecords(t *testing.T) {
	t.Parallel()
	b := membroker.New(membroker.Options{Keep: 10})
	mustPublish(t, b, 1, 25)
	want := map[mainstay.TopicLane][]int64{brokertest.Log(0): {16, 17, 18, 19, 20, 21, 22, 23, 24, 25}}
	if diff := cmp.Diff(want, brokertest.Sequences(b.Records(brokertest.Log(0)))); diff != "" {
		t.Fatalf("(-want +got):\n%s", diff)
	}
}

func TestBroker_GoesOnAfterAmnesia(t *testing.T) {
	t.Parallel()
	b := membroker.New(membroker.Options{})
	sub, err := b.Subscribe(t.Context(), []broker.Start{{TopicLane: brokertest.Log(0)}})
	if err != nil {
		t.Fatal(err)
	}
	mustPublish(t, b, 1, 5)
	brokertest.Collect(t, sub, 5)
	b.DropTail(brokertest.Log(0), 2)
	mustPublish(t, b, 4, 6)
	b.Wipe()
	mustPublish(t, b, 1, 2)
	want := map[mainstay.TopicLane][]int64{brokertest.Log(0): {1, 2}}
	if diff := cmp.Diff(want, brokertest.Sequences(brokertest.Collect(t, sub, 2))); diff != "" {
		t.Fatalf("(-want +got):\n%s", diff)
	}
	b.DropTail(brokertest.Log(0), 1)
	mustPublish(t, b, 2, 3)
	want = map[mainstay.TopicLane][]int64{brokertest.Log(0): {2, 3}}
	if diff := cmp.Diff(want, brokertest.Sequences(brokertest.Collect(t, sub, 2))); diff != "" {
		t.Fatalf("(-want +got):\n%s", diff)
	}
}

func TestFaulty(t *testing.T) {
	t.Parallel()
	lost := errors.New("the acknowledgement was lost")
	f := membroker.NewFaulty(membroker.New(membroker.Options{}), membroker.Faults{
		Duplicate:    true,
		Lose:         func(m *mainstay.Message) bool { return m.Sequence == 2 },
		AfterPublish: func([]*mainstay.Message) error { return lost },
	})
	if _, err := f.Publish(t.Context(), brokertest.Messages(brokertest.Log(0), 1, 3), nil); !errors.Is(err, lost) {
		t.Fatalf("error is %v", err)
	}
	sub, err := f.Subscribe(t.Context(), []broker.Start{{TopicLane: brokertest.Log(0)}})
	if err != nil {
		t.Fatal(err)
	}
	want := map[mainstay.TopicLane][]int64{brokertest.Log(0): {1, 3, 1, 3}}
	if diff := cmp.Diff(want, brokertest.Sequences(brokertest.Collect(t, sub, 4))); diff != "" {
		t.Fatalf("(-want +got):\n%s", diff)
	}
	f.Set(membroker.Faults{BeforePublish: func([]*mainstay.Message) error { return broker.ErrUnknown }})
	if _, err := f.Publish(t.Context(), brokertest.Messages(brokertest.Log(0), 4, 4), nil); !errors.Is(err, broker.ErrUnknown) {
		t.Fatalf("error is %v", err)
	}
	if tail, err := f.Tail(t.Context(), brokertest.Log(0)); err != nil || tail.Sequence != 3 {
		t.Fatalf("tail is %+v, %v", tail, err)
	}
}

func mustPublish(t *testing.T, b broker.Broker, first, last int64) {
	t.Helper()
	if _, err := b.Publish(t.Context(), brokertest.Messages(brokertest.Log(0), first, last), nil); err != nil {
		t.Fatal(err)
	}
}
