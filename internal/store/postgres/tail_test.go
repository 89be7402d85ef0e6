package postgres

import (
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
