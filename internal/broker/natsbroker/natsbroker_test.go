package natsbroker_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/broker"
	"github.com/mainstay-io/mainstay/internal/broker/brokertest"
	"github.com/mainstay-io/mainstay/internal/broker/natsbroker"
	"github.com/mainstay-io/mainstay/internal/broker/natsembed"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func startServer(t testing.TB, cfg natsembed.Config) *natsembed.Server {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	srv, err := natsembed.Start(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stopServer(t, srv) })
	return srv
}

func stopServer(t testing.TB, srv *natsembed.Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	if err := srv.Shutdown(ctx); err != nil {
		t.Error(err)
	}
}

func open(t testing.TB, cfg natsbroker.Config) *natsbroker.Broker {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	b, err := natsbroker.Open(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

// jetStream is a connection beside the broker, for what others might do to the stream.
func jetStream(t testing.TB, srv *natsembed.Server) jetstream.JetStream {
	t.Helper()
	nc, err := nats.Connect("", nats.InProcessServer(srv))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

func TestConformance_SyncAlways(t *testing.T) {
	t.Parallel()
	srv := startServer(t, natsembed.Config{})
	brokertest.Run(t, opener(srv, natsbroker.SyncAlways), brokertest.Options{})
}

func TestConformance_SyncLazy(t *testing.T) {
	t.Parallel()
	srv := startServer(t, natsembed.Config{Lazy: true})
	brokertest.Run(t, opener(srv, natsbroker.SyncLazy), brokertest.Options{})
}

// opener opens a broker with a stream of its own for each case.
func opener(srv *natsembed.Server, sync natsbroker.Sync) func(t *testing.T) broker.Broker {
	return func(t *testing.T) broker.Broker {
		name := strings.NewReplacer("/", "-", "_", "-").Replace(strings.ToLower(t.Name()))
		return open(t, natsbroker.Config{InProcess: srv, Sync: sync, Prefix: name})
	}
}

func TestSubscription_StepsOverForeignRecords(t *testing.T) {
	t.Parallel()
	srv := startServer(t, natsembed.Config{Lazy: true})
	var logged bytes.Buffer
	b := open(t, natsbroker.Config{InProcess: srv, Sync: natsbroker.SyncLazy, Logger: slog.New(slog.NewTextHandler(&logged, nil))})
	sub := subscribe(t, b, brokertest.Log(0))
	publish(t, b, 1, 2)
	if _, err := jetStream(t, srv).Publish(t.Context(), "mainstay.orders.0", []byte("junk")); err != nil {
		t.Fatal(err)
	}
	if tail, err := b.Tail(t.Context(), brokertest.Log(0)); err != nil || tail != (broker.Tail{Position: 3}) {
		t.Fatalf("tail is %+v, %v; want only the position of what is not readable", tail, err)
	}
	publish(t, b, 3, 3)
	wantSequences(t, brokertest.Collect(t, sub, 3), 1, 2, 3)
	if b.Skipped() != 1 || !strings.Contains(logged.String(), "level=WARN") {
		t.Fatalf("skipped %d, log %q", b.Skipped(), logged.String())
	}
}

func TestBroker_SurvivesDeletionOfTheStream(t *testing.T) {
	t.Parallel()
	srv := startServer(t, natsembed.Config{Lazy: true})
	js := jetStream(t, srv)
	b := open(t, natsbroker.Config{InProcess: srv, Sync: natsbroker.SyncLazy})
	sub := subscribe(t, b, brokertest.Log(0))
	publish(t, b, 1, 10)
	wantSequences(t, brokertest.Collect(t, sub, 10), 1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
	if err := js.DeleteStream(t.Context(), "MAINSTAY"); err != nil {
		t.Fatal(err)
	}
	if tail, err := b.Tail(t.Context(), brokertest.Log(0)); err != nil || tail != (broker.Tail{}) {
		t.Fatalf("tail after the deletion is %+v, %v", tail, err)
	}
	publish(t, b, 9, 11)
	wantSequences(t, brokertest.Collect(t, sub, 3), 9, 10, 11)
	if err := js.DeleteStream(t.Context(), "MAINSTAY"); err != nil {
		t.Fatal(err)
	}
	_, err := b.Publish(t.Context(), brokertest.Messages(brokertest.Log(0), 12, 13), map[mainstay.TopicLane]int64{brokertest.Log(0): 3})
	if !errors.Is(err, broker.ErrUnknown) && !errors.Is(err, broker.ErrConflict) {
		t.Fatalf("publishing into a deleted stream answered %v", err)
	}
	publish(t, b, 12, 13)
}

func TestBroker_ReconnectsToARestartedServer(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first, err := natsembed.Start(t.Context(), natsembed.Config{Dir: dir, Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	b := open(t, natsbroker.Config{URL: first.URL()})
	sub := subscribe(t, b, brokertest.Log(0))
	publish(t, b, 1, 30)
	brokertest.Collect(t, sub, 30)
	stopServer(t, first)
	if err := b.Ready(t.Context()); err == nil {
		t.Error("ready without a server")
	}
	if _, err := b.Publish(t.Context(), brokertest.Messages(brokertest.Log(0), 31, 32), nil); !errors.Is(err, broker.ErrUnknown) {
		t.Errorf("publishing without a server answered %v", err)
	}
	startServer(t, natsembed.Config{Dir: dir, Listen: strings.TrimPrefix(first.URL(), "nats://")})
	publishUntilStored(t, b, 31, 40)
	wantSequences(t, brokertest.CollectUntil(t, sub, brokertest.Log(0), 40), 31, 32, 33, 34, 35, 36, 37, 38, 39, 40)
}

// publishUntilStored repeats a publish behind the tail, as the relay does, until it succeeds.
func publishUntilStored(t *testing.T, b *natsbroker.Broker, first, last int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	for ctx.Err() == nil {
		tail, err := b.Tail(ctx, brokertest.Log(0))
		if err != nil {
			continue
		}
		from := max(first, tail.Sequence+1)
		expect := map[mainstay.TopicLane]int64{brokertest.Log(0): tail.Position}
		if _, err = b.Publish(ctx, brokertest.Messages(brokertest.Log(0), from, last), expect); err == nil {
			return
		}
	}
	t.Fatal("the broker did not come back")
}

// TestPublish_IsExactBesideAnother lets two relays publish to lanes of their own at once: each breaks the other's
// chains, and still no lane may have a hole or another order.
func TestPublish_IsExactBesideAnother(t *testing.T) {
	t.Parallel()
	srv := startServer(t, natsembed.Config{Lazy: true})
	var wg sync.WaitGroup
	for lane := range 3 {
		b := open(t, natsbroker.Config{InProcess: srv, Sync: natsbroker.SyncLazy})
		wg.Go(func() {
			expect := map[mainstay.TopicLane]int64{brokertest.Log(lane): 0}
			for s := int64(1); s <= 600; s += 6 {
				var err error
				expect, err = b.Publish(t.Context(), brokertest.Messages(brokertest.Log(lane), s, s+5), expect)
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b := open(t, natsbroker.Config{InProcess: srv, Sync: natsbroker.SyncLazy})
	for lane := range 3 {
		got := brokertest.Collect(t, subscribe(t, b, brokertest.Log(lane)), 600)
		for i, m := range got {
			if m.Sequence != int64(i+1) {
				t.Fatalf("lane %d: record %d has sequence %d", lane, i+1, m.Sequence)
			}
		}
	}
}

// TestPublish_IsExactAfterAnother shifts a chain by one record of somebody else: without the stream's sequence in it,
// the third message would stand where the second was meant to.
func TestPublish_IsExactAfterAnother(t *testing.T) {
	t.Parallel()
	srv := startServer(t, natsembed.Config{Lazy: true})
	b := open(t, natsbroker.Config{InProcess: srv, Sync: natsbroker.SyncLazy})
	other := open(t, natsbroker.Config{InProcess: srv, Sync: natsbroker.SyncLazy})
	publish(t, b, 1, 2)
	if _, err := other.Publish(t.Context(), brokertest.Messages(brokertest.Log(1), 1, 1), nil); err != nil {
		t.Fatal(err)
	}
	publish(t, b, 3, 7)
	publish(t, b, 8, 8)
	wantSequences(t, brokertest.CollectUntil(t, subscribe(t, b, brokertest.Log(0)), brokertest.Log(0), 8), 1, 2, 3, 4, 5, 6, 7, 8)
}

// TestPublish_StoresNothingBehindALostMessage makes the server refuse one message in the middle of a window.
func TestPublish_StoresNothingBehindALostMessage(t *testing.T) {
	t.Parallel()
	srv := startServer(t, natsembed.Config{Lazy: true})
	js := jetStream(t, srv)
	cfg := jetstream.StreamConfig{
		Name: "MAINSTAY", Subjects: []string{"mainstay.*.*"}, Discard: jetstream.DiscardNew, AllowAtomicPublish: true,
		AllowDirect: true, MaxBytes: 40_000,
	}
	if _, err := js.CreateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	b := open(t, natsbroker.Config{InProcess: srv, Sync: natsbroker.SyncLazy})
	publish(t, b, 1, 1)
	ms := brokertest.Messages(brokertest.Log(0), 2, 8)
	ms[3].Payload = bytes.Repeat([]byte("x"), 50_000) // sequence 5 does not fit, what follows would
	_, err := b.Publish(t.Context(), ms, map[mainstay.TopicLane]int64{brokertest.Log(0): 1})
	if !errors.Is(err, broker.ErrFull) {
		t.Fatalf("error is %v, want a full log", err)
	}
	if tail, err := b.Tail(t.Context(), brokertest.Log(0)); err != nil || tail.Sequence > 4 {
		t.Fatalf("the log ends at %d (%v), behind the refused sequence 5", tail.Sequence, err)
	}
}

func TestPublish_SaysThatItIsFull(t *testing.T) {
	t.Parallel()
	for _, sync := range []natsbroker.Sync{natsbroker.SyncAlways, natsbroker.SyncLazy} {
		for _, n := range []int64{1, 5, 50} {
			for name, limit := range map[string]func(*jetstream.StreamConfig){
				"msgs":  func(s *jetstream.StreamConfig) { s.MaxMsgs = 3 },
				"bytes": func(s *jetstream.StreamConfig) { s.MaxBytes = 1500 },
			} {
				t.Run(fmt.Sprint(sync, n, name), func(t *testing.T) {
					t.Parallel()
					srv := startServer(t, natsembed.Config{Lazy: sync == natsbroker.SyncLazy})
					cfg := goodStream("mainstay")
					cfg.MaxMsgs, cfg.MaxBytes, cfg.Compression = -1, -1, jetstream.NoCompression
					limit(&cfg)
					if _, err := jetStream(t, srv).CreateStream(t.Context(), cfg); err != nil {
						t.Fatal(err)
					}
					b := open(t, natsbroker.Config{InProcess: srv, Sync: sync})
					publish(t, b, 1, 3)
					for range 3 { // a round that failed changes what is tried next
						if _, err := b.Publish(t.Context(), brokertest.Messages(brokertest.Log(0), 4, 9+n), nil); !errors.Is(err, broker.ErrFull) {
							t.Fatalf("error is %v", err)
						}
					}
				})
			}
		}
	}
}

func publish(t *testing.T, b broker.Broker, first, last int64) {
	t.Helper()
	if _, err := b.Publish(t.Context(), brokertest.Messages(brokertest.Log(0), first, last), nil); err != nil {
		t.Fatal(err)
	}
}

func subscribe(t *testing.T, b broker.Broker, log mainstay.TopicLane) broker.Subscription {
	t.Helper()
	sub, err := b.Subscribe(t.Context(), []broker.Start{{TopicLane: log}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sub.Close() })
	return sub
}

func wantSequences(t *testing.T, got []*mainstay.Message, want ...int64) {
	t.Helper()
	if diff := cmp.Diff(want, brokertest.Sequences(got)[brokertest.Log(0)]); diff != "" {
		t.Fatalf("(-want +got):\n%s", diff)
	}
}

// TestClose_LeavesNothingBehind closes brokers right after their first publish, before what it has started runs; what
// stays behind, TestMain finds.
func TestClose_LeavesNothingBehind(t *testing.T) {
	t.Parallel()
	srv := startServer(t, natsembed.Config{Lazy: true})
	for n := range int64(200) {
		b := open(t, natsbroker.Config{InProcess: srv, Sync: natsbroker.SyncLazy})
		publish(t, b, n+1, n+1)
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestPublish_NamesWhatTheStreamRefuses has a message in the middle that is larger than the stream's max_msg_size: in a
// window nobody acknowledges it, and a batch says nothing of it before the end.
func TestPublish_NamesWhatTheStreamRefuses(t *testing.T) {
	t.Parallel()
	for _, sync := range []natsbroker.Sync{natsbroker.SyncAlways, natsbroker.SyncLazy} {
		srv := startServer(t, natsembed.Config{Lazy: sync == natsbroker.SyncLazy})
		cfg := goodStream("mainstay")
		cfg.MaxMsgSize = 100 << 10
		if _, err := jetStream(t, srv).CreateStream(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
		b := open(t, natsbroker.Config{InProcess: srv, Sync: sync})
		publish(t, b, 1, 3)
		ms := brokertest.Messages(brokertest.Log(0), 4, 40)
		ms[7].Payload = bytes.Repeat([]byte("x"), 110<<10)
		_, err := b.Publish(t.Context(), ms, nil)
		var refused *broker.RefusedError
		if !errors.As(err, &refused) || refused.MessageID != ms[7].ID {
			t.Fatalf("sync %d: error is %v, want a refusal of %s", sync, err, ms[7].ID)
		}
	}
}

// TestPublish_GoesOnBehindWhatABrokenWindowStored breaks the chains of windows in their middle, by records of somebody
// else's that come in between: each log then holds a prefix of its part, and the rest is to come behind that.
func TestPublish_GoesOnBehindWhatABrokenWindowStored(t *testing.T) {
	t.Parallel()
	srv := startServer(t, natsembed.Config{Lazy: true})
	b := open(t, natsbroker.Config{InProcess: srv, Sync: natsbroker.SyncLazy})
	disturb(t, jetStream(t, srv))
	const lanes, rounds, each = 4, 20, 200
	at, broken := map[mainstay.TopicLane]int64{}, 0
	for round := range int64(rounds) {
		var ms []*mainstay.Message
		for i := range int64(each) {
			ms = append(ms, brokertest.Message(brokertest.Log(int(i%lanes)), (round*each+i)/lanes+1))
		}
		b.TrustChains()
		last, err := b.Publish(t.Context(), ms, at)
		if err != nil {
			t.Fatal(err)
		}
		if at = last; b.ChainBroke() {
			broken++
		}
	}
	for lane := range lanes {
		for i, m := range brokertest.Collect(t, subscribe(t, b, brokertest.Log(lane)), rounds*each/lanes) {
			if m.Sequence != int64(i+1) {
				t.Fatalf("lane %d: record %d has sequence %d", lane, i+1, m.Sequence)
			}
		}
	}
	if broken == 0 {
		t.Fatal("inconclusive: no chain broke")
	}
	t.Logf("%d of %d chains broke", broken, rounds)
}

// disturb publishes to a log of its own until the test ends.
func disturb(t *testing.T, js jetstream.JetStream) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			_, _ = js.Publish(ctx, "mainstay.others.0", nil)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
}
