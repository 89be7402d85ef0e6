package postgres

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/broker/membroker"
	"github.com/mainstay-io/mainstay/internal/history"
	"github.com/mainstay-io/mainstay/internal/relay"
	"github.com/mainstay-io/mainstay/outbox"
)

// newEra is a sign that the database may have gone back; a session sees nothing else of it, as behind a pooler.
const newEra = `truncate seam; insert into seam (compared) values ('')`

func inOne(t *testing.T, s *Store, statements ...string) {
	t.Helper()
	tx, err := s.upkeep.BeginTxx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback() // after the commit it does nothing
	for statement := range strings.SplitSeq(strings.Join(statements, ";"), ";") {
		if _, err := tx.ExecContext(t.Context(), statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
}

func eraOf(t *testing.T, s *Store) string {
	t.Helper()
	seam, err := s.Seam(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return seam.Era
}

func TestReadLogIn_ReadsNothingOfAnotherEra(t *testing.T) {
	t.Parallel()
	url := newDatabase(t)
	s, other := openStore(t, url), openStore(t, url)
	l := lead(t, other)
	m := message("orders", "k")
	send(t, other, m, message("orders", "k"))
	drain(t, other, l)
	log, old := m.TopicLane(), eraOf(t, s)
	read := func(era string, after int64) (int, error) {
		ms, err := s.ReadLogIn(t.Context(), era, map[mainstay.TopicLane]int64{log: after}, 1)
		return len(ms), err
	}
	if n, err := read(old, 0); n != 1 || err != nil {
		t.Fatalf("in its era: read %d, %v", n, err)
	}
	inOne(t, s, newEra)
	if n, err := read(old, 1); !isFenced(err) {
		t.Errorf("from the database, in another era: read %d, %v", n, err)
	}
	if n, err := read("", 1); n != 1 || err != nil {
		t.Errorf("in any era: read %d, %v", n, err)
	}
	if ms, _, _ := s.tail.next(map[mainstay.TopicLane]int64{log: 1}, 1); len(ms) > 0 {
		t.Error("what is of another era is remembered as of the old one")
	}
	now := eraOf(t, s)
	if n, err := read(now, 0); n != 1 || err != nil {
		t.Errorf("in the new era: read %d, %v", n, err)
	}
	if n, err := read(old, 0); !isFenced(err) {
		t.Errorf("from memory, in another era: read %d, %v", n, err)
	}
}

func TestRound_NumbersNothingInAnotherEra(t *testing.T) {
	t.Parallel()
	for name, sent := range map[string]int{"nothing new": 0, "a round": 2, "a large difference": 8, "a chunk": 8} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := newDatabase(t)
			s, other := openStore(t, url, func(c *Config) { c.Chunk = 3 }), openStore(t, url)
			l := lead(t, s)
			drain(t, s, l)
			before := 0
			for range sent {
				send(t, s, message("orders", "k"))
			}
			if name == "a chunk" {
				for range 2 { // notes how much there is, and takes the first of it
					n, _, err := s.Round(t.Context(), l)
					if err != nil {
						t.Fatal(err)
					}
					before += n
				}
			}
			inOne(t, s, newEra)
			if n, _, err := s.Round(t.Context(), l); n > 0 || !isFenced(err) {
				t.Errorf("numbered %d, %v", n, err)
			}
			if n, _, err := s.Round(t.Context(), l); n > 0 || !isFenced(err) {
				t.Errorf("numbered %d without being prepared, %v", n, err)
			}
			prepare(t, s, l)
			if n := drain(t, s, l); n != sent-before {
				t.Errorf("prepared: numbered %d, want %d", n, sent-before)
			}
			heads, err := other.Heads(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for log, head := range heads {
				if head != int64(sent) {
					t.Errorf("%v ends at %d, want %d", log, head, sent)
				}
			}
		})
	}
}

// A sequencer that goes on in the new era may be told of it before the rest of its process is: what it numbers from then
// on is to be in memory again.
func TestRound_LeadsAgainWhenItsProcessHearsOfTheEra(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	l := lead(t, s)
	inOne(t, s, newEra)
	prepare(t, s, l)
	eraOf(t, s) // as the relay finds out
	drain(t, s, l)
	m := message("orders", "k")
	send(t, s, m)
	if n := drain(t, s, l); n != 1 {
		t.Fatalf("numbered %d", n)
	}
	if s.tail.ends()[m.TopicLane()] != 1 {
		t.Error("memory does not know where the logs end")
	}
	if ms, _, _ := s.tail.next(map[mainstay.TopicLane]int64{m.TopicLane(): 0}, 1); len(ms) != 1 {
		t.Error("memory does not have what this process has appended and numbered")
	}
}

// What is noted of a large difference belongs to the snapshot of its era.
func TestNoteLarge_NotesNothingInAnotherEra(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	l := lead(t, s)
	drain(t, s, l)
	st := s.seq
	if err := s.takeInChunks(t.Context(), l); err != nil || s.seq.Upper == nil {
		t.Fatalf("in its era: %+v, %v", s.seq, err)
	}
	inOne(t, s, "update sequencer_state set upper = null, after_position = null", newEra)
	st.Version = s.seq.Version
	s.seq = st
	if err := s.takeInChunks(t.Context(), l); !isFenced(err) {
		t.Errorf("in another era: %v", err)
	}
	var noted bool
	if err := s.db.GetContext(t.Context(), &noted, "select upper is not null from sequencer_state"); err != nil || noted {
		t.Errorf("it was noted: %v, %v", noted, err)
	}
}

// Messages that this process has committed are found by their positions, and another era has others there.
func TestTail_TakesNothingOfAnotherEra(t *testing.T) {
	t.Parallel()
	m := message("orders", "k")
	log := m.TopicLane()
	round := []numbered{{log, 1, []int64{7}}}
	seam := func(era string) history.Seam { return history.Seam{Era: era, Current: 1} }
	for name, run := range map[string]func(tl *tail){
		"numbered in a later era": func(tl *tail) {
			tl.committed([]*mainstay.Message{m}, []written{{position: 7}}, tl.moment())
			tl.grow("2", 1, round, nil)
			tl.grow("1", 1, round, nil)
		},
		"read by a round in a later era": func(tl *tail) {
			tl.grow("2", 1, round, map[int64]*mainstay.Message{7: m})
		},
		"committed in an earlier one": func(tl *tail) {
			began := tl.moment()
			tl.turn(seam("2"))
			tl.lead(map[mainstay.TopicLane]int64{})
			tl.committed([]*mainstay.Message{m}, []written{{position: 7}}, began)
			tl.grow("2", 1, round, nil)
		},
		"remembered since an earlier one": func(tl *tail) {
			tl.committed([]*mainstay.Message{m}, []written{{position: 7}}, tl.moment())
			tl.turn(seam("2"))
			tl.lead(map[mainstay.TopicLane]int64{})
			tl.grow("2", 1, round, nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tl := newTail()
			tl.turn(seam("1"))
			tl.lead(map[mainstay.TopicLane]int64{})
			run(tl)
			if ms, _, _ := tl.next(map[mainstay.TopicLane]int64{log: 0}, 1); len(ms) > 0 {
				t.Errorf("memory has %+v", ms[0])
			}
		})
	}
}

// failover takes the database back to what keep has kept, with messages behind it lost, in one transaction and with
// no session ended.
const (
	keepState = `create table kept_log as table log; create table kept_head as table log_head; create table kept_state as table sequencer_state;
create table kept_progress as table relay_progress; create table kept_position as select max(position) as at from outbox`
	loseSince = `truncate log, log_head, relay_progress; insert into log select * from kept_log; insert into log_head select * from kept_head;
insert into relay_progress select * from kept_progress; set local session_replication_role = replica; delete from outbox where position > (select at from kept_position);
delete from sequencer_state; insert into sequencer_state select * from kept_state;
select setval('outbox_position', (select at from kept_position))`
)

// TestRelay_NoticesAFailOverWithoutAWord: the database loses commits between two statements, and no connection tells.
// The relay, which looks at the history once an hour here, has published more than the database has, and the log has
// grown beyond that when it looks at the log again. Readers must not get what was lost.
func TestRelay_NoticesAFailOverWithoutAWord(t *testing.T) {
	t.Parallel()
	url := newDatabase(t)
	s := openStore(t, url)
	log := placed("k")
	mem := membroker.New(membroker.Options{})
	r := relay.New(relay.Config{
		Store: s, Leases: s, Broker: mem, Holder: "a", Lanes: testLanes, Check: time.Hour, Poll: 20 * time.Millisecond,
	})
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = r.Run(ctx) })
	defer running.Wait()
	defer cancel()
	l := lead(t, s)
	add := func(n int) {
		for range n {
			send(t, s, message("orders", "k"))
		}
		drain(t, s, l)
	}
	ends := func(incarnation, sequence int64) {
		t.Helper()
		eventually(t, func() bool {
			all := mem.Records(log)
			return len(all) > 0 && all[len(all)-1].Sequence == sequence && all[len(all)-1].Incarnation == incarnation
		})
	}
	add(6)
	ends(1, 6)
	eventually(t, func() bool {
		ps, err := s.Progress(t.Context())
		return err == nil && len(ps) == 1 && ps[0].Sequence == 6
	})
	inOne(t, s, keepState)
	add(4)
	ends(1, 10)
	inOne(t, s, loseSince, newEra)
	if _, _, err := s.Round(t.Context(), l); !isFenced(err) {
		t.Errorf("a round in the new era: %v", err)
	}
	prepare(t, s, l)
	add(8)
	ends(2, 14)

	past := history.Log{}
	if seam, err := s.Seam(t.Context()); err == nil {
		past = seam.Logs[log]
	}
	want, err := openStore(t, url).ReadLog(t.Context(), map[mainstay.TopicLane]int64{log: 0}, 100)
	if err != nil || len(want) != 14 {
		t.Fatalf("the log has %d messages, %v", len(want), err)
	}
	var got []*mainstay.Message
	for _, m := range mem.Records(log) {
		if m.Sequence == int64(len(got)+1) && past.Has(m.Incarnation, m.Sequence) {
			got = append(got, m)
		}
	}
	for i, m := range got {
		if m.ID != want[i].ID {
			t.Errorf("readers take message %s as %d, and the database has %s", m.ID, m.Sequence, want[i].ID)
		}
	}
	if len(got) != len(want) {
		t.Errorf("readers get %d messages of %d", len(got), len(want))
	}
}

// placed is the log of a message with the key.
func placed(key string) mainstay.TopicLane {
	return mainstay.TopicLane{Topic: "orders", Lane: outbox.Lane(key, testLanes)}
}

func eventually(t *testing.T, holds func() bool) {
	t.Helper()
	limit, tick := time.NewTimer(90*time.Second), time.NewTicker(5*time.Millisecond)
	defer limit.Stop()
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-limit.C:
			t.Fatal("waited too long")
		}
	}
}
