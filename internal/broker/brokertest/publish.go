package brokertest

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/broker"
)

func publishCases() []testCase[broker.Broker] {
	return []testCase[broker.Broker]{
		{"EmptyLogHasTheZeroTail", testEmptyTail},
		{"TailIsTheLastRecord", testTail},
		{"TailOfARefilledLog", testRefilledTail},
		{"ARecordIsFoundByItsPosition", testAt},
		{"PositionsGrowAndArePublishsAnswer", testPositions},
		{"ExpectedPositionIsTaken", testExpected},
		{"WrongPositionConflicts", testConflict},
		{"WrongPositionLeavesNoLaterMessage", testConflictLeavesNothing},
		{"ConflictInOneOfSeveralLanes", testConflictInOneLane},
		{"OversizedIsRefusedByName", testOversized},
		{"BadTopicIsRefusedByName", testBadTopic},
		{"PublishingNothingIsNothing", testPublishNothing},
	}
}

func testEmptyTail(t *testing.T, b broker.Broker, _ Options) {
	if got := tail(t, b, Log(0)); got != (broker.Tail{}) {
		t.Fatalf("tail of an empty log is %+v", got)
	}
}

func testTail(t *testing.T, b broker.Broker, _ Options) {
	publish(t, b, nil, append(Messages(Log(0), 1, 3), Messages(Log(1), 1, 1)...)...)
	want := Message(Log(0), 3)
	got := tail(t, b, Log(0))
	if got.Sequence != 3 || got.Incarnation != 1 || got.MessageID != want.ID || got.Position <= 0 {
		t.Fatalf("tail is %+v, want sequence 3 of incarnation 1, id %s", got, want.ID)
	}
}

func testRefilledTail(t *testing.T, b broker.Broker, _ Options) {
	publish(t, b, nil, Messages(Log(0), 50, 60)...)
	publish(t, b, nil, Messages(Log(0), 40, 62)...)
	if got := tail(t, b, Log(0)); got.Sequence != 62 {
		t.Fatalf("tail is %d, want 62", got.Sequence)
	}
}

func testAt(t *testing.T, b broker.Broker, _ Options) {
	third := publish(t, b, nil, Messages(Log(0), 1, 3)...)[Log(0)]
	publish(t, b, nil, append(Messages(Log(0), 4, 9), Messages(Log(1), 1, 1)...)...)
	want := broker.Tail{Incarnation: 1, Sequence: 3, MessageID: Message(Log(0), 3).ID, Position: third}
	for _, test := range []struct {
		log      mainstay.TopicLane
		position int64
		want     broker.Tail
	}{{Log(0), third, want}, {Log(1), third, broker.Tail{}}, {Log(0), third + 1000, broker.Tail{}}, {Log(0), 0, broker.Tail{}}} {
		got, err := b.At(t.Context(), test.log, test.position)
		if err != nil || got != test.want {
			t.Fatalf("at %d of lane %d is %+v (%v), want %+v", test.position, test.log.Lane, got, err, test.want)
		}
	}
}

func testPositions(t *testing.T, b broker.Broker, _ Options) {
	var before int64
	for seq := int64(1); seq <= 40; seq += 20 {
		last := publish(t, b, nil, Messages(Log(0), seq, seq+19)...)
		if last[Log(0)] <= before {
			t.Fatalf("position %d after %d", last[Log(0)], before)
		}
		before = last[Log(0)]
		if got := tail(t, b, Log(0)); got.Position != before {
			t.Fatalf("the tail's position is %d, publish answered %d", got.Position, before)
		}
	}
}

func testExpected(t *testing.T, b broker.Broker, _ Options) {
	expect := map[mainstay.TopicLane]int64{Log(0): 0, Log(1): 0}
	for seq := int64(1); seq <= 90; seq += 30 {
		ms := append(Messages(Log(0), seq, seq+29), Messages(Log(1), seq, seq+29)...)
		expect = publish(t, b, expect, ms...)
	}
	for lane := range 2 {
		if got := tail(t, b, Log(lane)); got.Sequence != 90 {
			t.Fatalf("lane %d ends at %d, want 90", lane, got.Sequence)
		}
	}
}

func testConflict(t *testing.T, b broker.Broker, _ Options) {
	last := publish(t, b, nil, Messages(Log(0), 1, 2)...)
	for _, expected := range []int64{0, last[Log(0)] - 1, last[Log(0)] + 1} {
		expect := map[mainstay.TopicLane]int64{Log(0): expected}
		_, err := b.Publish(t.Context(), Messages(Log(0), 3, 3), expect)
		if !errors.Is(err, broker.ErrConflict) {
			t.Fatalf("expecting position %d, the last being %d: error is %v", expected, last[Log(0)], err)
		}
	}
	if got := tail(t, b, Log(0)); got.Sequence != 2 {
		t.Fatalf("a refused message was stored: tail %+v", got)
	}
}

// testConflictLeavesNothing publishes rounds of several sizes, because adapters have several ways to send them.
func testConflictLeavesNothing(t *testing.T, b broker.Broker, _ Options) {
	publish(t, b, nil, Messages(Log(0), 1, 2)...)
	for _, n := range []int64{2, 5, 50} {
		_, err := b.Publish(t.Context(), Messages(Log(0), 3, 2+n), map[mainstay.TopicLane]int64{Log(0): 0})
		if !errors.Is(err, broker.ErrConflict) {
			t.Fatalf("round of %d: error is %v, want a conflict", n, err)
		}
		if got := tail(t, b, Log(0)); got.Sequence != 2 {
			t.Fatalf("round of %d: its first message was refused, yet the log ends at %d", n, got.Sequence)
		}
	}
}

func testConflictInOneLane(t *testing.T, b broker.Broker, _ Options) {
	last := publish(t, b, nil, append(Messages(Log(0), 1, 1), Messages(Log(1), 1, 1)...)...)
	for _, n := range []int64{1, 3, 30} {
		expect := map[mainstay.TopicLane]int64{Log(0): last[Log(0)], Log(1): last[Log(1)] + 7}
		ms := append(Messages(Log(0), 2, 1+n), Messages(Log(1), 2, 1+n)...)
		if _, err := b.Publish(t.Context(), ms, expect); !errors.Is(err, broker.ErrConflict) {
			t.Fatalf("rounds of %d: error is %v, want a conflict", n, err)
		}
		if got := tail(t, b, Log(1)); got.Sequence != 1 {
			t.Fatalf("rounds of %d: the refused lane ends at %d", n, got.Sequence)
		}
		now := tail(t, b, Log(0))
		last[Log(0)] = now.Position
	}
}

func testOversized(t *testing.T, b broker.Broker, opts Options) {
	big := Message(Log(0), 2)
	big.Payload = make([]byte, opts.Oversized)
	_, err := b.Publish(t.Context(), []*mainstay.Message{Message(Log(0), 1), big, Message(Log(0), 3)}, nil)
	wantRefused(t, err, big.ID)
	if got := tail(t, b, Log(0)); got.Sequence > 1 {
		t.Fatalf("what follows the refused message was stored: tail %+v", got)
	}
}

func testBadTopic(t *testing.T, b broker.Broker, _ Options) {
	for _, topic := range []string{"", "a b", "a.b", "*", ">", "A"} {
		m := Message(mainstay.TopicLane{Topic: topic}, 1)
		_, err := b.Publish(t.Context(), []*mainstay.Message{m}, nil)
		wantRefused(t, err, m.ID)
	}
}

func wantRefused(t *testing.T, err error, id string) {
	t.Helper()
	var refused *broker.RefusedError
	if !errors.As(err, &refused) {
		t.Fatalf("error is %v, want a refusal", err)
	}
	if diff := cmp.Diff(id, refused.MessageID); diff != "" {
		t.Fatalf("the refusal names another message (-want +got):\n%s", diff)
	}
}

func testPublishNothing(t *testing.T, b broker.Broker, _ Options) {
	if last := publish(t, b, nil); len(last) != 0 {
		t.Fatalf("publishing nothing answered %v", last)
	}
}
