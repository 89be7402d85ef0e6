package lane_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/broker/membroker"
	"github.com/mainstay-io/mainstay/internal/lane"
	"github.com/mainstay-io/mainstay/internal/relay"
)

// TestEngine_SkipsWhatAnotherHistoryHasPublished: the broker has, from before a restore, other messages than the
// database, which goes on in a new incarnation. Nothing is read before a relay has compared the two.
func TestEngine_SkipsWhatAnotherHistoryHasPublished(t *testing.T) {
	t.Parallel()
	w := setup(t)
	mem := membroker.New(membroker.Options{})
	w.reader = mem
	w.send(event("things", "k", "1"), event("things", "k", "2"), event("things", "k", "3"))
	log := w.logOf("things", "k")
	published := w.messages(log, 0)
	for i, m := range published[1:] { // what was accepted and published after the moment of the backup
		stale := *m
		stale.ID, stale.Payload = strings.Replace(m.ID, m.ID[:4], "ffff", 1), []byte("stale "+string(rune('0'+i)))
		published[1+i] = &stale
	}
	if _, err := mem.Publish(t.Context(), published, nil); err != nil {
		t.Fatal(err)
	}
	ran := w.start(func(c *lane.Config, _ *faultyStore) { c.Compared = true },
		handle("c", []string{"things"}, func(context.Context, *mainstay.Message) error { return nil }))
	t.Cleanup(ran.end)
	w.until("the engine waits for a relay", func() bool {
		err := ran.ready()
		return err != nil && strings.Contains(err.Error(), "compared")
	})
	if got := w.effects("c"); len(got) > 0 {
		t.Fatalf("handled %v before log and broker were compared", got)
	}
	ls, err := w.store.Acquire(t.Context(), "relay", []int{log.Lane}, "r", time.Second, true)
	if err != nil {
		t.Fatal(err)
	}
	first := published[0]
	if err := w.store.SaveProgress(t.Context(), relay.Save{Leases: ls, Progress: []relay.Progress{{
		TopicLane: log, Incarnation: 1, Sequence: 1, MessageID: first.ID, BrokerPosition: 1,
	}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.store.OpenIncarnation(t.Context(), relay.Opening{Seen: 1, Above: 1, Reason: "test"}); err != nil {
		t.Fatal(err)
	}
	if err := w.store.Compared(t.Context(), "open"); err != nil {
		t.Fatal(err)
	}
	w.until("what the database has was handled", func() bool { return len(w.effects("c")) == 3 })
	if _, err := mem.Publish(t.Context(), append(w.messages(log, 1), published[1:]...), nil); err != nil {
		t.Fatal(err)
	}
	w.send(event("things", "k", "4"))
	if _, err := mem.Publish(t.Context(), w.messages(log, 3), nil); err != nil {
		t.Fatal(err)
	}
	w.until("the next one was handled", func() bool { return len(w.effects("c")) >= 4 })
	if diff := cmp.Diff([]string{"1", "2", "3", "4"}, w.effects("c")); diff != "" {
		t.Fatalf("effects (-want +got):\n%s", diff)
	}
	if got := w.rows("select incarnation, sequence from place where consumer = 'c' and sequence > 0"); len(got) != 1 || got[0] != "2 4" {
		t.Fatalf("the place is %v", got)
	}
}

// TestEngine_ReadsTheHistoryUnderItsLeases: of an incarnation that is opened while lanes are taken, whatever was read
// before knows nothing. What the log has would not seem to count, and what the broker has of before would, once more.
func TestEngine_ReadsTheHistoryUnderItsLeases(t *testing.T) {
	t.Parallel()
	for name, published := range map[string]bool{"nothing was published": false, "published before": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := setup(t)
			mem := membroker.New(membroker.Options{})
			w.reader = mem
			w.send(event("things", "k", "1"))
			w.open(1)
			if published {
				if _, err := mem.Publish(t.Context(), w.messages(w.logOf("things", "k"), 0), nil); err != nil {
					t.Fatal(err)
				}
			}
			var once sync.Once
			ran := w.start(func(_ *lane.Config, s *faultyStore) {
				s.acquire = func() { once.Do(func() { w.open(2) }) }
			}, handle("c", []string{"things"}, func(context.Context, *mainstay.Message) error { return nil }))
			t.Cleanup(ran.end)
			w.until("the message was handled", func() bool { return len(w.effects("c")) > 0 })
			if got := w.rows("select incarnation, sequence from place where consumer = 'c' and sequence > 0"); len(got) != 1 || got[0] != "3 1" {
				t.Errorf("the place is %v", got)
			}
		})
	}
}

// open opens an incarnation behind the current one.
func (w *world) open(current int64) {
	w.t.Helper()
	opened, err := w.store.OpenIncarnation(context.Background(), relay.Opening{Seen: current, Above: current, Reason: "test"})
	if err != nil || !opened {
		w.t.Fatalf("opened %v, %v", opened, err)
	}
}

// TestEngine_FiresTimersInANewEra: no message has to come first in every lane that was read before the database's
// restart.
func TestEngine_FiresTimersInANewEra(t *testing.T) {
	t.Parallel()
	w := setup(t)
	c := handle("c", []string{"things"}, func(context.Context, *mainstay.Message) error { return nil })
	due := &timers{w: w, due: map[string]bool{"a": true}}
	c.Timers = due
	first, second := "1", "2"
	var store *faultyStore
	ran := w.start(func(c *lane.Config, s *faultyStore) {
		c.Compared, store = true, s
		s.era.Store(&first)
	}, c)
	t.Cleanup(ran.end)
	w.until("a timer has fired", func() bool { return len(w.effects("timer")) == 1 })
	store.era.Store(&second)
	due.mu.Lock()
	due.due["c"] = true
	due.mu.Unlock()
	w.until("a timer has fired in the new era", func() bool { return len(w.effects("timer")) == 2 })
}

// TestEngine_StopsAtAPlaceOfAnotherLog: the message at the place is not the one that was handled.
func TestEngine_StopsAtAPlaceOfAnotherLog(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.send(event("things", "k", "1"), event("things", "k", "2"))
	log := w.logOf("things", "k")
	if err := w.store.Register(t.Context(), lane.Registration{Consumer: "c", Topics: []string{"things"}}); err != nil {
		t.Fatal(err)
	}
	ls, err := w.store.Acquire(t.Context(), "c", []int{log.Lane}, "x", time.Second, true)
	if err != nil {
		t.Fatal(err)
	}
	at := func(sequence int64, id string) lane.Place {
		return lane.Place{TopicLane: log, Incarnation: 1, Sequence: sequence, MessageID: id}
	}
	err = w.store.Unit(t.Context(), lane.Unit{Consumer: "c", Leases: ls}, func(_ context.Context, tx lane.Tx) error {
		tx.Move(at(0, ""), at(1, "another"))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	ran := w.start(nil, handle("c", []string{"things"}, func(context.Context, *mainstay.Message) error { return nil }))
	t.Cleanup(ran.end)
	w.until("it says so", func() bool {
		err := ran.ready()
		return err != nil && strings.Contains(err.Error(), "the place is of another log")
	})
	if got := w.effects("c"); len(got) > 0 {
		t.Fatalf("handled %v", got)
	}
}

// logOf is the log that a key's messages are in.
func (w *world) logOf(topic, key string) mainstay.TopicLane {
	w.t.Helper()
	return mainstay.TopicLane{Topic: topic, Lane: w.number("select lane from outbox where topic = ? and key = ? limit 1", topic, key)}
}

// log1 reads a log behind a sequence.
func (w *world) messages(log mainstay.TopicLane, after int64) []*mainstay.Message {
	w.t.Helper()
	ms, err := w.store.ReadLog(context.Background(), map[mainstay.TopicLane]int64{log: after}, 100)
	if err != nil {
		w.t.Fatal(err)
	}
	return ms
}
