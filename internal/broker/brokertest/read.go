package brokertest

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/broker"
)

func readCases() []testCase[ReadSide] {
	return []testCase[ReadSide]{
		{"EnvelopeSurvives", testEnvelope},
		{"ControlCharactersSurvive", testControls},
		{"ReadsFromTheBeginning", testReadAll},
		{"ReadsFromTheMiddle", testReadMiddle},
		{"ReadsFromTheEnd", testReadEnd},
		{"ReadsFromBeyondTheEnd", testReadBeyond},
		{"ReadsAnEmptyLog", testReadEmpty},
		{"ReadsWhatIsPublishedLater", testReadLater},
		{"StartsDifferByLog", testStartsDiffer},
		{"OtherLogsAreNotDelivered", testOtherLogs},
		{"DuplicatesAreDelivered", testDuplicates},
		{"RefilledRecordsAreDelivered", testRefill},
		{"StartsInALaterIncarnation", testIncarnation},
		{"ManyMessagesInOrder", testMany},
		{"SubscriptionsAreIndependent", testIndependent},
		{"NextEndsWithItsContext", testNextContext},
		{"CloseWakesNext", testCloseWakesNext},
		{"SubscriptionClosesTwice", testSubscriptionCloseTwice},
	}
}

func testEnvelope(t *testing.T, b ReadSide, opts Options) {
	full := Message(Log(0), 1)
	full.Key, full.Source, full.AggregateID = keyOf(0, "kunde 7%2F\"ü\"€"), "/shop?a=b c", "order 1/ø"
	full.CorrelationID, full.CausationID = "story é", "cause 100%"
	full.Traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	full.DataSchema = "https://example.com/schema?v=1&x=%20"
	full.Headers = map[string]string{"sagaid": "s 1", "note": "100 % größer, \"so\"", "empty": "", "datacontenttype": "application/x-bin"}
	full.Payload = []byte{0, 1, 2, '\r', '\n', 0xff, 0xfe}
	full.CreatedAt = time.Date(2026, 12, 31, 23, 59, 59, 999999000, time.UTC)
	full.Incarnation = 1 << 40
	bare := &mainstay.Message{
		ID: "0190f5fe-7a3b-7c44-8e1a-000000000001", Topic: Log(0).Topic, Key: keyOf(0, ""), Type: "order.placed",
		Source: "/s", CreatedAt: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), Incarnation: 1 << 40, Sequence: 2,
	}
	long := Message(Log(0), 3)
	long.Incarnation = 1 << 40
	long.Key, long.Headers = keyOf(0, strings.Repeat("ключ", 30)), map[string]string{"long": strings.Repeat("x y", 500)}
	want := []*mainstay.Message{full, bare, long}
	fill(t, b, want...)
	wantMessages(t, want, Collect(t, subscribe(t, b, broker.Start{TopicLane: Log(0)}), 3), opts)
}

func testControls(t *testing.T, b ReadSide, opts Options) {
	m := Message(Log(0), 1)
	m.Key, m.Headers = "kunde\r\n7", map[string]string{"note": "a\tb"}
	fill(t, b, m)
	wantMessages(t, []*mainstay.Message{m}, Collect(t, subscribe(t, b, start(Log(0), 0)), 1), opts)
}

func testReadAll(t *testing.T, b ReadSide, opts Options) {
	want := Messages(Log(0), 1, 60)
	fill(t, b, want...)
	wantMessages(t, want, Collect(t, subscribe(t, b, start(Log(0), 0)), 60), opts)
}

// wantMessages checks that nothing of the messages changed on their way, but for what the read side itself gives.
func wantMessages(t *testing.T, want, got []*mainstay.Message, opts Options) {
	t.Helper()
	ignored := cmp.Options{cmpopts.EquateEmpty()}
	if opts.Stamps {
		ignored = append(ignored, cmpopts.IgnoreFields(mainstay.Message{}, "Incarnation", "CreatedAt"))
	}
	if diff := cmp.Diff(want, got, ignored); diff != "" {
		t.Fatalf("the messages changed on their way (-want +got):\n%s", diff)
	}
	for _, m := range got {
		if m.Incarnation <= 0 || m.CreatedAt.IsZero() {
			t.Fatalf("sequence %d has incarnation %d and was created at %v", m.Sequence, m.Incarnation, m.CreatedAt)
		}
	}
}

func testReadMiddle(t *testing.T, b ReadSide, _ Options) {
	fill(t, b, Messages(Log(0), 1, 100)...)
	fill(t, b, Messages(Log(1), 1, 100)...)
	for _, s := range []int64{1, 37, 99} {
		got := CollectUntil(t, subscribe(t, b, start(Log(0), s)), Log(0), 100)
		wantDense(t, got, Log(0), s+1, 100)
	}
}

func testReadEnd(t *testing.T, b ReadSide, _ Options) {
	fill(t, b, Messages(Log(0), 1, 50)...)
	sub := subscribe(t, b, start(Log(0), 50))
	fill(t, b, Messages(Log(0), 51, 52)...)
	wantDense(t, CollectUntil(t, sub, Log(0), 52), Log(0), 51, 52)
}

func testReadBeyond(t *testing.T, b ReadSide, _ Options) {
	fill(t, b, Messages(Log(0), 1, 50)...)
	sub := subscribe(t, b, start(Log(0), 70))
	fill(t, b, Messages(Log(0), 51, 72)...)
	wantDense(t, CollectUntil(t, sub, Log(0), 72), Log(0), 71, 72)
}

func testReadEmpty(t *testing.T, b ReadSide, _ Options) {
	sub := subscribe(t, b, start(Log(0), 0), start(Log(1), 12))
	fill(t, b, append(Messages(Log(0), 1, 2), Messages(Log(1), 13, 13)...)...)
	want := map[mainstay.TopicLane][]int64{Log(0): {1, 2}, Log(1): {13}}
	if diff := cmp.Diff(want, Sequences(Collect(t, sub, 3))); diff != "" {
		t.Fatalf("(-want +got):\n%s", diff)
	}
}

func testReadLater(t *testing.T, b ReadSide, _ Options) {
	sub := subscribe(t, b, start(Log(0), 0))
	for s := int64(1); s <= 20; s++ {
		fill(t, b, Message(Log(0), s))
		if got := Collect(t, sub, 1); len(got) != 1 || got[0].Sequence != s {
			t.Fatalf("got %v, want only sequence %d", Sequences(got), s)
		}
	}
}

func testStartsDiffer(t *testing.T, b ReadSide, _ Options) {
	for lane := range 3 {
		fill(t, b, Messages(Log(lane), 1, 30)...)
	}
	sub := subscribe(t, b, start(Log(0), 10), start(Log(1), 25), start(Log(2), 30))
	fill(t, b, Messages(Log(2), 31, 31)...)
	got := CollectUntil(t, sub, Log(2), 31)
	wantDense(t, got, Log(0), 11, 30)
	wantDense(t, got, Log(1), 26, 30)
	wantDense(t, got, Log(2), 31, 31)
}

func testOtherLogs(t *testing.T, b ReadSide, _ Options) {
	other := mainstay.TopicLane{Topic: "other", Lane: 1}
	sub := subscribe(t, b, start(Log(1), 0), start(other, 0))
	fill(t, b, Message(Log(0), 1), Message(Log(1), 1), Message(Log(11), 1),
		Message(mainstay.TopicLane{Topic: "other", Lane: 0}, 1), Message(other, 1))
	want := map[mainstay.TopicLane][]int64{Log(1): {1}, other: {1}}
	if diff := cmp.Diff(want, Sequences(Collect(t, sub, 2))); diff != "" {
		t.Fatalf("(-want +got):\n%s", diff)
	}
}

func testDuplicates(t *testing.T, b ReadSide, _ Options) {
	sub := subscribe(t, b, start(Log(0), 0))
	fill(t, b, Messages(Log(0), 1, 3)...)
	fill(t, b, Messages(Log(0), 2, 4)...)
	want := map[mainstay.TopicLane][]int64{Log(0): {1, 2, 3, 2, 3, 4}}
	if diff := cmp.Diff(want, Sequences(Collect(t, sub, 6))); diff != "" {
		t.Fatalf("(-want +got):\n%s", diff)
	}
}

func testRefill(t *testing.T, b ReadSide, _ Options) {
	fill(t, b, Messages(Log(0), 50, 60)...)
	sub := subscribe(t, b, start(Log(0), 60))
	fill(t, b, Messages(Log(0), 40, 62)...)
	wantDense(t, CollectUntil(t, sub, Log(0), 62), Log(0), 61, 62)
	want := append(Messages(Log(0), 50, 60), Messages(Log(0), 40, 62)...)
	again := CollectUntil(t, subscribe(t, b, start(Log(0), 0)), Log(0), 62)
	if diff := cmp.Diff(Sequences(want), Sequences(again)); diff != "" {
		t.Fatalf("(-want +got):\n%s", diff)
	}
}

func testIncarnation(t *testing.T, b ReadSide, _ Options) {
	fill(t, b, Messages(Log(0), 1, 20)...)
	later := Messages(Log(0), 15, 30)
	for _, m := range later {
		m.Incarnation = 2
	}
	fill(t, b, later...)
	sub := subscribe(t, b, broker.Start{TopicLane: Log(0), Incarnation: 2, Sequence: 22})
	var got []int64
	for _, m := range CollectUntil(t, sub, Log(0), 30) {
		if m.Incarnation == 2 && m.Sequence > 22 {
			got = append(got, m.Sequence)
		}
	}
	if diff := cmp.Diff([]int64{23, 24, 25, 26, 27, 28, 29, 30}, got); diff != "" {
		t.Fatalf("(-want +got):\n%s", diff)
	}
}

func testMany(t *testing.T, b ReadSide, _ Options) {
	const lanes, perLane = 5, 400
	starts := make([]broker.Start, lanes)
	for lane := range lanes {
		starts[lane] = start(Log(lane), 0)
	}
	sub := subscribe(t, b, starts...)
	var ms []*mainstay.Message
	for s := int64(1); s <= perLane; s++ {
		for lane := range lanes {
			ms = append(ms, Message(Log(lane), s))
		}
	}
	fill(t, b, ms...)
	got := Collect(t, sub, lanes*perLane)
	for lane := range lanes {
		wantDense(t, got, Log(lane), 1, perLane)
	}
}

func testIndependent(t *testing.T, b ReadSide, _ Options) {
	fill(t, b, Messages(Log(0), 1, 10)...)
	one, two := subscribe(t, b, start(Log(0), 0)), subscribe(t, b, start(Log(0), 5))
	wantDense(t, CollectUntil(t, one, Log(0), 10), Log(0), 1, 10)
	if err := one.Close(); err != nil {
		t.Fatalf("closing one of two: %v", err)
	}
	fill(t, b, Message(Log(0), 11))
	wantDense(t, CollectUntil(t, two, Log(0), 11), Log(0), 6, 11)
}

func testNextContext(t *testing.T, b ReadSide, _ Options) {
	sub := subscribe(t, b, start(Log(0), 0))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := sub.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("error is %v, want the context's", err)
	}
	fill(t, b, Message(Log(0), 1))
	if got := Collect(t, sub, 1); got[0].Sequence != 1 {
		t.Fatalf("after a context's end, got %v", Sequences(got))
	}
}

func testCloseWakesNext(t *testing.T, b ReadSide, _ Options) {
	sub := subscribe(t, b, start(Log(0), 0))
	wantNextClosed(t, sub, sub.Close)
}

func testSubscriptionCloseTwice(t *testing.T, b ReadSide, _ Options) {
	sub := subscribe(t, b, start(Log(0), 0))
	for range 2 {
		if err := sub.Close(); err != nil {
			t.Fatalf("closing the subscription: %v", err)
		}
	}
}

func wantNextClosed(t *testing.T, sub broker.Subscription, closeIt func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	answer := make(chan error, 1)
	entered := make(chan struct{})
	go func() {
		close(entered)
		_, err := sub.Next(ctx)
		answer <- err
	}()
	<-entered
	if err := closeIt(); err != nil {
		t.Fatalf("closing: %v", err)
	}
	if err := <-answer; !errors.Is(err, broker.ErrClosed) {
		t.Fatalf("Next answered %v, want ErrClosed", err)
	}
}

// wantDense checks that the first copies of the log, from sequence first on, are first to last without a gap and in
// order; what comes below first is allowed.
func wantDense(t *testing.T, got []*mainstay.Message, log mainstay.TopicLane, first, last int64) {
	t.Helper()
	next := first
	for _, s := range Sequences(got)[log] {
		if s > next {
			t.Fatalf("%v: sequence %d came where %d was due: %v", log, s, next, Sequences(got)[log])
		}
		if s == next {
			next++
		}
	}
	if next != last+1 {
		t.Fatalf("%v: ended at %d, want %d: %v", log, next-1, last, Sequences(got)[log])
	}
}
