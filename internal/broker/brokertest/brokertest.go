// Package brokertest is the conformance suite of package broker: every adapter passes it, the fakes included, so
// that what was tested over one of them is true of all. Run is for whole brokers; its half about reading, Read, is
// also for what only reads: the database's own log.
package brokertest

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/broker"
	"github.com/mainstay-io/mainstay/outbox"
)

// patience is how long a case waits for what must come.
const patience = 20 * time.Second

// Options say what an adapter cannot do.
type Options struct {
	// Skip holds, by the name of a case, why the adapter need not pass it. A name that no case has fails the suite.
	Skip map[string]string
	// Oversized is a payload's size in bytes that the broker refuses for ever; 0 means 16 MiB.
	Oversized int
	// Stamps says that the read side itself gives what Fill makes readable its Incarnation and CreatedAt.
	Stamps bool
}

// ReadSide is a reader, and a way to make something readable.
type ReadSide interface {
	broker.Reader
	// Fill makes msgs readable, in this order within each log. A read side whose logs have no gaps puts what is
	// missing before the first message of a log there too, as Message makes it. It must not keep msgs.
	Fill(ctx context.Context, msgs []*mainstay.Message) error
}

// testCase is a case over a B: a whole broker or a read side.
type testCase[B any] struct {
	name string
	run  func(t *testing.T, b B, opts Options)
}

// Run runs the suite, each case over an empty broker of its own from open; the suite closes it.
func Run(t *testing.T, open func(t *testing.T) broker.Broker, opts Options) {
	t.Helper()
	if opts.Oversized == 0 {
		opts.Oversized = 16 << 20
	}
	whole := slices.Concat(publishCases(), lifeCases(), ownersCases())
	checkSkips(t, append(names(whole), names(readCases())...), opts)
	opened := func(t *testing.T) broker.Broker {
		t.Helper()
		b := open(t)
		t.Cleanup(func() { _ = b.Close() })
		return b
	}
	runCases(t, whole, opened, opts)
	runCases(t, readCases(), func(t *testing.T) ReadSide { t.Helper(); return published{opened(t)} }, opts)
}

// Read runs the suite's half about reading, each case over an empty read side of its own from open.
func Read(t *testing.T, open func(t *testing.T) ReadSide, opts Options) {
	t.Helper()
	checkSkips(t, names(readCases()), opts)
	runCases(t, readCases(), open, opts)
}

// published is the read side of a broker: what was published can be read.
type published struct{ broker.Broker }

// Fill publishes.
func (p published) Fill(ctx context.Context, msgs []*mainstay.Message) error {
	_, err := p.Publish(ctx, msgs, nil)
	return err
}

func runCases[B any](t *testing.T, cases []testCase[B], open func(t *testing.T) B, opts Options) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if why := opts.Skip[c.name]; why != "" {
				t.Skip("not in this adapter's contract: " + why)
			}
			c.run(t, open(t), opts)
		})
	}
}

func names[B any](cases []testCase[B]) []string {
	var out []string
	for _, c := range cases {
		out = append(out, c.name)
	}
	return out
}

func checkSkips(t *testing.T, cases []string, opts Options) {
	t.Helper()
	for name := range opts.Skip {
		if !slices.Contains(cases, name) {
			t.Fatalf("no case of the suite is named %q", name)
		}
	}
}

// Lanes is how many lanes a topic must have where keys decide the lane: the keys of the suite's messages belong to
// their lanes among so many.
const Lanes = 16

// Log names a log of the topic that the helpers use.
func Log(lane int) mainstay.TopicLane { return mainstay.TopicLane{Topic: "orders", Lane: lane} }

// Message makes the message of a log with the given sequence; its id follows from log and sequence.
func Message(log mainstay.TopicLane, seq int64) *mainstay.Message {
	name := fmt.Sprintf("%s/%d/%d", log.Topic, log.Lane, seq)
	return &mainstay.Message{
		ID: uuid.NewSHA1(uuid.NameSpaceOID, []byte(name)).String(), Topic: log.Topic, Key: keyOf(log.Lane, fmt.Sprintf("k%d-", seq%7)),
		Type: "order.placed", Source: "/brokertest", AggregateType: "order", AggregateID: "o-1", CorrelationID: "o-1",
		Payload: []byte(`{"n":1}`), CreatedAt: time.Date(2026, 1, 2, 3, 4, 5, 678901000, time.UTC),
		Lane: log.Lane, Incarnation: 1, Sequence: seq,
	}
}

// keyOf is a key of the lane that begins with prefix.
func keyOf(lane int, prefix string) string {
	for i := 0; ; i++ {
		if key := prefix + strconv.Itoa(i); outbox.Lane(key, Lanes) == lane%Lanes {
			return key
		}
	}
}

// Messages makes the messages of a log from first to last, both included.
func Messages(log mainstay.TopicLane, first, last int64) []*mainstay.Message {
	var ms []*mainstay.Message
	for s := first; s <= last; s++ {
		ms = append(ms, Message(log, s))
	}
	return ms
}

// Sequences are the sequences of ms by log, in order.
func Sequences(ms []*mainstay.Message) map[mainstay.TopicLane][]int64 {
	out := map[mainstay.TopicLane][]int64{}
	for _, m := range ms {
		out[m.TopicLane()] = append(out[m.TopicLane()], m.Sequence)
	}
	return out
}

// Collect reads until n messages have come.
func Collect(t *testing.T, sub broker.Subscription, n int) []*mainstay.Message {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var got []*mainstay.Message
	for len(got) < n {
		ms, err := sub.Next(ctx)
		if err != nil {
			t.Fatalf("reading after %d of %d messages: %v", len(got), n, err)
		}
		if len(ms) == 0 {
			t.Fatal("Next answered without messages and without an error")
		}
		got = append(got, ms...)
	}
	return got
}

// CollectUntil reads until the log's sequence has come.
func CollectUntil(t *testing.T, sub broker.Subscription, log mainstay.TopicLane, seq int64) []*mainstay.Message {
	t.Helper()
	var got []*mainstay.Message
	for {
		got = append(got, Collect(t, sub, 1)...)
		for _, m := range got {
			if m.TopicLane() == log && m.Sequence == seq {
				return got
			}
		}
	}
}

func publish(t *testing.T, b broker.Broker, expect map[mainstay.TopicLane]int64, ms ...*mainstay.Message) map[mainstay.TopicLane]int64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	last, err := b.Publish(ctx, ms, expect)
	if err != nil {
		t.Fatalf("publishing %d messages: %v", len(ms), err)
	}
	return last
}

func fill(t *testing.T, b ReadSide, ms ...*mainstay.Message) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := b.Fill(ctx, ms); err != nil {
		t.Fatalf("making %d messages readable: %v", len(ms), err)
	}
}

func subscribe(t *testing.T, b broker.Reader, from ...broker.Start) broker.Subscription {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	sub, err := b.Subscribe(ctx, from)
	if err != nil {
		t.Fatalf("subscribing: %v", err)
	}
	t.Cleanup(func() { _ = sub.Close() })
	return sub
}

func tail(t *testing.T, b broker.Broker, log mainstay.TopicLane) broker.Tail {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	got, err := b.Tail(ctx, log)
	if err != nil {
		t.Fatalf("looking at the tail: %v", err)
	}
	return got
}

func start(log mainstay.TopicLane, seq int64) broker.Start {
	return broker.Start{TopicLane: log, Incarnation: 1, Sequence: seq}
}
