package relay_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/broker"
	"github.com/mainstay-io/mainstay/internal/broker/brokertest"
	"github.com/mainstay-io/mainstay/internal/broker/membroker"
	"github.com/mainstay-io/mainstay/internal/relay"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bench is a relay between a database and a broker that can be spoilt.
type bench struct {
	db     *database
	mem    *membroker.Broker
	faulty *membroker.Faulty
	log    record
	logger *slog.Logger
	// lost says that the broker has ever lost a record.
	lost bool
}

// record is what a relay has logged, while it runs.
type record struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (r *record) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.buf.Write(p)
}

func (r *record) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.buf.String()
}

func newBench() *bench {
	b := &bench{db: newDatabase(), mem: membroker.New(membroker.Options{})}
	b.faulty = membroker.NewFaulty(b.mem, membroker.Faults{})
	b.logger = slog.New(slog.NewTextHandler(&b.log, nil))
	return b
}

// start runs a relay until stop is called.
func (b *bench) start(t *testing.T, holder string) (r *relay.Relay, stop func()) {
	t.Helper()
	r = relay.New(relay.Config{
		Store: b.db, Leases: b.db, Broker: b.faulty, Holder: holder, Lanes: 4,
		Logger: b.logger,
	})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := r.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	return r, func() { cancel(); wg.Wait() }
}

// settle lets the relay run for a while of bubble time.
func settle(t *testing.T, d time.Duration) {
	t.Helper()
	timer := time.NewTimer(d)
	<-timer.C
	synctest.Wait()
}

func (b *bench) wantBroker(t *testing.T, log mainstay.TopicLane, want ...int64) {
	t.Helper()
	if diff := cmp.Diff(want, brokertest.Sequences(b.mem.Records(log))[log]); diff != "" {
		t.Fatalf("%v at the broker (-want +got):\n%s", log, diff)
	}
}

func bubble(t *testing.T, f func(t *testing.T, b *bench)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { f(t, newBench()) })
}

func TestRelay_MovesTheLogInOrder(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.db.grow(brokertest.Log(0), 3)
		b.db.grow(brokertest.Log(3), 2)
		r, stop := b.start(t, "a")
		defer stop()
		synctest.Wait()
		b.wantBroker(t, brokertest.Log(0), 1, 2, 3)
		b.wantBroker(t, brokertest.Log(3), 1, 2)
		b.db.grow(brokertest.Log(0), 2)
		synctest.Wait()
		b.wantBroker(t, brokertest.Log(0), 1, 2, 3, 4, 5)
		settle(t, relay.DefaultRecord)
		if got := b.db.published(brokertest.Log(0)); got != 5 {
			t.Fatalf("progress is %d", got)
		}
		if err := r.Ready(); err != nil {
			t.Fatalf("not ready: %v", err)
		}
		if b.log.String() != "" {
			t.Fatalf("a healthy relay is silent: %s", b.log.String())
		}
	})
}

func TestRelay_PollsWithoutWakeUps(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		_, stop := b.start(t, "a")
		defer stop()
		synctest.Wait()
		b.db.wake = nil
		b.db.grow(brokertest.Log(0), 1)
		settle(t, relay.DefaultPoll)
		b.wantBroker(t, brokertest.Log(0), 1)
	})
}

func TestRelay_RefillsABrokerThatForgotEverything(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.db.grow(brokertest.Log(0), 10)
		b.db.grow(brokertest.Log(1), 4)
		b.db.places[brokertest.Log(0)], b.db.places[brokertest.Log(1)] = 6, 4
		_, stop := b.start(t, "a")
		defer stop()
		synctest.Wait()
		b.mem.Wipe()
		settle(t, relay.DefaultCheck+relay.DefaultPoll)
		b.wantBroker(t, brokertest.Log(0), 7, 8, 9, 10)
		b.wantBroker(t, brokertest.Log(1)) // its consumer has everything
		if n := strings.Count(b.log.String(), "broker lost messages, refilling"); n != 1 {
			t.Fatalf("refilling was said %d times: %s", n, b.log.String())
		}
		b.db.grow(brokertest.Log(1), 1)
		synctest.Wait()
		b.wantBroker(t, brokertest.Log(1), 5)
	})
}

func TestRelay_LeavesAloneWhatTheBrokerNeedNotKeep(t *testing.T) {
	t.Parallel()
	log := brokertest.Log(0)
	for name, test := range map[string]struct {
		age  time.Duration // of the last message, when the broker has nothing any more
		want []int64
	}{
		"lost":     {time.Hour - time.Second, []int64{1, 2, 3}},
		"let go":   {time.Hour, nil},
		"long ago": {48 * time.Hour, nil},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, b *bench) {
				b.db.grow(log, 3)
				made := b.db.logs[log][2].CreatedAt
				r := relay.New(relay.Config{
					Store: b.db, Leases: b.db, Broker: b.mem, Holder: "a", Lanes: 4, Keep: time.Hour, Logger: b.logger,
					Clock: func() time.Time { return made.Add(test.age) },
				})
				ctx, cancel := context.WithCancel(t.Context())
				var wg sync.WaitGroup
				wg.Go(func() { _ = r.Run(ctx) })
				defer func() { cancel(); wg.Wait() }()
				synctest.Wait()
				b.wantBroker(t, log, 1, 2, 3)
				b.mem.Wipe()
				settle(t, relay.DefaultCheck+relay.DefaultPoll)
				b.wantBroker(t, log, test.want...)
				b.db.grow(log, 1)
				synctest.Wait()
				b.wantBroker(t, log, append(test.want, 4)...)
			})
		})
	}
}

func TestRelay_RefillsALostTail(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.db.grow(brokertest.Log(0), 10)
		_, stop := b.start(t, "a")
		synctest.Wait()
		stop()
		b.mem.DropTail(brokertest.Log(0), 3)
		_, stop = b.start(t, "a")
		defer stop()
		synctest.Wait()
		b.wantBroker(t, brokertest.Log(0), 1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
		if !strings.Contains(b.log.String(), "published=10 from=8") {
			t.Fatalf("log is %s", b.log.String())
		}
	})
}

func TestRelay_GoesOnBehindWhatWasStoredWithoutAnAcknowledgement(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		var once sync.Once
		b.faulty.Set(membroker.Faults{AfterPublish: func([]*mainstay.Message) (err error) {
			once.Do(func() { err = broker.ErrUnknown })
			return err
		}})
		b.db.grow(brokertest.Log(0), 5)
		_, stop := b.start(t, "a")
		defer stop()
		synctest.Wait()
		b.db.grow(brokertest.Log(0), 1)
		settle(t, time.Second)
		b.wantBroker(t, brokertest.Log(0), 1, 2, 3, 4, 5, 6)
	})
}

func TestRelay_GoesOnWhenProgressWasNotRecorded(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.db.fail = func(call string) error {
			if call == "save" {
				return errStore
			}
			return nil
		}
		b.db.grow(brokertest.Log(0), 5)
		r, stop := b.start(t, "a")
		settle(t, relay.DefaultRecord)
		if err := r.Ready(); !errors.Is(err, errStore) {
			t.Fatalf("ready is %v", err)
		}
		stop()
		b.db.setFail(nil)
		b.db.grow(brokertest.Log(0), 1)
		_, stop = b.start(t, "b")
		defer stop()
		settle(t, relay.DefaultTTL)
		b.wantBroker(t, brokertest.Log(0), 1, 2, 3, 4, 5, 6)
		if got := b.db.published(brokertest.Log(0)); got != 6 {
			t.Fatalf("progress is %d", got)
		}
	})
}

func TestRelay_PublishesBehindATailThatTheLogDoesNotKnow(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		foreign := brokertest.Message(brokertest.Log(0), 4)
		foreign.ID = "0190f5fe-7a3b-7c44-8e1a-2b7c5d9e0f11"
		if _, err := b.mem.Publish(t.Context(), []*mainstay.Message{foreign}, nil); err != nil {
			t.Fatal(err)
		}
		b.db.grow(brokertest.Log(0), 6)
		b.db.places[brokertest.Log(0)] = 2
		b.db.progress[brokertest.Log(0)] = relay.Progress{TopicLane: brokertest.Log(0), Incarnation: 1, Sequence: 3, MessageID: "x", BrokerPosition: 3}
		_, stop := b.start(t, "a")
		defer stop()
		synctest.Wait()
		b.wantBroker(t, brokertest.Log(0), 4, 3, 4, 5, 6)
	})
}

func TestRelay_LeavesAMarkerForWhatTheBrokerRefuses(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.db.grow(brokertest.Log(0), 5)
		big := b.db.logs[brokertest.Log(0)][2]
		big.Payload = make([]byte, membroker.DefaultMaxPayload+1)
		_, stop := b.start(t, "a")
		defer stop()
		synctest.Wait()
		b.wantBroker(t, brokertest.Log(0), 1, 2, 3, 4, 5)
		marker := b.mem.Records(brokertest.Log(0))[2]
		if marker.Type != mainstay.TypeTombstone || marker.ID != big.ID || len(marker.Payload) > 0 {
			t.Fatalf("in its place stands %+v", marker)
		}
		if diff := cmp.Diff([]string{big.ID}, b.db.dead); diff != "" {
			t.Fatalf("dead letters (-want +got):\n%s", diff)
		}
	})
}

func TestRelay_OneFailingLogDoesNotStopTheOthers(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.faulty.Set(membroker.Faults{BeforePublish: func(ms []*mainstay.Message) error {
			if slices.ContainsFunc(ms, func(m *mainstay.Message) bool { return m.Lane == 1 }) {
				return broker.ErrFull
			}
			return nil
		}})
		for lane := range 3 {
			b.db.grow(brokertest.Log(lane), 2)
		}
		r, stop := b.start(t, "a")
		defer stop()
		settle(t, 5*time.Millisecond) // at the first repetition they are apart
		b.wantBroker(t, brokertest.Log(0), 1, 2)
		b.wantBroker(t, brokertest.Log(1))
		b.wantBroker(t, brokertest.Log(2), 1, 2)
		if err := r.Ready(); !errors.Is(err, broker.ErrFull) || !strings.Contains(err.Error(), "orders/1") {
			t.Fatalf("ready is %v, want the log that is full by name", err)
		}
		b.faulty.Set(membroker.Faults{})
		settle(t, 10*time.Second)
		b.wantBroker(t, brokertest.Log(1), 1, 2)
		if err := r.Ready(); err != nil {
			t.Fatalf("not ready: %v", err)
		}
	})
}

func TestRelay_StopsPublishingWhenFenced(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.db.grow(brokertest.Log(0), 1)
		_, stop := b.start(t, "a")
		defer stop()
		settle(t, relay.DefaultRecord)
		if _, err := b.db.Acquire(t.Context(), "relay", []int{0, 1, 2, 3}, "b", time.Hour, true); err != nil {
			t.Fatal(err)
		}
		b.db.grow(brokertest.Log(0), 1) // published once by the stale relay, which is fenced when it records that
		settle(t, relay.DefaultRecord)
		b.db.grow(brokertest.Log(0), 1)
		settle(t, 2*relay.DefaultPoll)
		b.wantBroker(t, brokertest.Log(0), 1, 2)
		if got := b.db.published(brokertest.Log(0)); got != 1 {
			t.Fatalf("a fenced relay recorded %d", got)
		}
	})
}

func TestRelay_HandsOverWhenItStops(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		_, stopA := b.start(t, "a")
		synctest.Wait()
		_, stopB := b.start(t, "b")
		defer stopB()
		synctest.Wait()
		stopA()
		b.db.grow(brokertest.Log(0), 1)
		settle(t, relay.DefaultTTL/3+time.Second)
		b.wantBroker(t, brokertest.Log(0), 1)
	})
}
