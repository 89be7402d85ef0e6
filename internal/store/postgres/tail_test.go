package postgres

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mainstay-io/mainstay"
)

// What a process has numbered itself it reads from memory, and it is what everybody else reads from the database.
func TestReadLog_FromMemoryIsWhatTheDatabaseHas(t *testing.T) {
	t.Parallel()
	url := newDatabase(t)
	s, other := openStore(t, url), openStore(t, url)
	l := lead(t, s)
	m := message("orders", "k")
	m.Headers, m.Source, m.CorrelationID = map[string]string{"note": "x"}, "/test", "c"
	bare := message("orders", "k")
	bare.Payload = nil
	send(t, s, m, bare)
	m.Payload[0], m.Headers["note"] = 'x', "changed by its sender afterwards"
	if n := drain(t, s, l); n != 2 {
		t.Fatalf("%d numbered", n)
	}
	log := m.TopicLane()
	held, _, _ := s.tail.next(map[mainstay.TopicLane]int64{log: 0}, 10)
	if len(held) != 2 {
		t.Fatalf("memory has %d messages, want both", len(held))
	}
	want, err := other.ReadLog(t.Context(), map[mainstay.TopicLane]int64{log: 0}, 10)
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.ReadLog(t.Context(), map[mainstay.TopicLane]int64{log: 0}, 10)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("memory differs from the database (-database +memory):\n%s", diff)
	}
}

// Who reads what other processes append has it in memory with the round that numbers it, as the database has it, but for
// what is too large for that; and where nobody reads, or there is much, a round answers with nothing.
func TestReadLog_WithTheRoundThatNumbersIt(t *testing.T) {
	t.Parallel()
	url := newDatabase(t)
	s, other := openStore(t, url), openStore(t, url)
	l := lead(t, s)
	first := message("orders", "k")
	log := first.TopicLane()
	held := func(after int64) int {
		ms, _, _ := s.tail.next(map[mainstay.TopicLane]int64{log: after}, 1000)
		return len(ms)
	}
	round := func(ms ...*mainstay.Message) {
		t.Helper()
		send(t, other, ms...)
		if n := drain(t, s, l); n != len(ms) {
			t.Fatalf("%d numbered, want %d", n, len(ms))
		}
	}
	round(first)
	if n := held(0); n != 0 {
		t.Errorf("memory has %d messages that nobody had asked for", n)
	}
	full, bare := message("orders", "k"), message("orders", "k")
	full.Headers, full.Source, full.CorrelationID, full.AggregateType, full.AggregateID = map[string]string{"note": "x"}, "/test", "c", "order", "1"
	bare.Payload = nil
	round(full, bare)
	if n := held(1); n != 2 {
		t.Fatalf("memory has %d messages, want both", n)
	}
	large := message("orders", "k")
	large.Payload = []byte(`"` + strings.Repeat("x", tailPayload) + `"`)
	round(large, message("orders", "k"))
	if n := held(3); n != 0 {
		t.Errorf("memory has %d messages behind one that it does not keep", n)
	}
	many := make([]*mainstay.Message, 257)
	for i := range many {
		many[i] = message("orders", "k")
	}
	round(many...)
	if n := held(5); n != 0 {
		t.Errorf("a round has answered with %d messages", n)
	}
	for _, after := range []int64{0, 1, 3} {
		want, err := other.ReadLog(t.Context(), map[mainstay.TopicLane]int64{log: after}, 1000)
		if err != nil {
			t.Fatal(err)
		}
		got, err := s.ReadLog(t.Context(), map[mainstay.TopicLane]int64{log: after}, 1000)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want[:2], got[:2]); diff != "" {
			t.Errorf("memory differs from the database behind %d (-database +memory):\n%s", after, diff)
		}
	}
}

// Only while its own rounds succeed does a process believe that it knows where the logs end.
func TestReadLog_AsksTheDatabaseWhenAnotherSequencerNumbers(t *testing.T) {
	t.Parallel()
	url := newDatabase(t)
	s, other := openStore(t, url), openStore(t, url)
	drain(t, s, lead(t, s))
	log := mainstay.TopicLane{Topic: "orders"}
	if _, missing, _ := s.tail.next(map[mainstay.TopicLane]int64{log: 0}, 1); len(missing) > 0 {
		t.Error("the sequencer's process does not know that there is nothing")
	}
	old := lead(t, s)
	m := message("orders", "k")
	send(t, other, m)
	drain(t, other, lead(t, other))
	if _, _, err := s.Round(t.Context(), old); !isFenced(err) {
		if _, _, err = s.Round(t.Context(), old); !isFenced(err) {
			t.Fatalf("got %v, want fenced", err)
		}
	}
	got, err := s.ReadLog(t.Context(), map[mainstay.TopicLane]int64{m.TopicLane(): 0}, 10)
	if err != nil || len(got) != 1 {
		t.Fatalf("read %d messages of the other's (%v), want 1", len(got), err)
	}
}
