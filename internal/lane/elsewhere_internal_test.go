package lane

import (
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/broker"
	"github.com/mainstay-io/mainstay/internal/history"
	"github.com/mainstay-io/mainstay/internal/lease"
)

// reader is a consumer that holds a lane of another database's topic, at a place.
func reader(t *testing.T, latest bool, incarnation, sequence int64) (*run, *laneState) {
	t.Helper()
	e, err := New(Config{Lanes: 4}, Consumer{Name: "c", Topics: []string{"t"}, Latest: latest, Handler: nobody{}})
	if err != nil {
		t.Fatal(err)
	}
	r := e.runs[0]
	ls := newLaneState(lease.Lease{Lane: 1})
	p := Place{TopicLane: mainstay.TopicLane{Topic: "t", Lane: 1}, Incarnation: incarnation, Sequence: sequence}
	if sequence > 0 {
		p.MessageID = "m"
	}
	ls.places["t"], ls.arrived["t"] = p, p.mark()
	ls.goElsewhere(p)
	r.lanes[1] = ls
	return r, ls
}

type nobody struct{ mainstay.BatchHandler }

func held(h broker.Held) broker.Answer {
	h.Lane = 1
	return broker.Answer{Origin: "a", Logs: []broker.Held{{Lane: 3, First: 1, Last: 99}, h}}
}

// TestQuestions_BecomeFewer: a gap that nobody fills is asked for at once, and ever more seldom; a move begins anew.
func TestQuestions_BecomeFewer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, ls := reader(t, false, 1, 7)
		began := time.Now()
		asked := func(within time.Duration) (at []time.Duration, ends int) {
			for until := time.Now().Add(within); time.Now().Before(until); <-time.After(100 * time.Millisecond) {
				for _, w := range r.questions()["t"] {
					switch {
					case w.Lane != 1 || w.After != ls.places["t"].Sequence:
						t.Fatalf("asked %+v", w)
					case w.Again:
						at = append(at, time.Since(began))
					default:
						ends++
					}
				}
			}
			return at, ends
		}
		if at, ends := asked(20 * time.Second); len(at) > 0 || ends != 4 {
			t.Fatalf("without a gap it asks for the end %d times and for more at %v", ends, at)
		}
		r.seek(gap{ls, "t"}) // subscribes anew
		r.seek(gap{ls, "t"})
		if at, _ := asked(time.Second); len(at) > 0 {
			t.Fatalf("it asks before the new subscription runs: %v", at)
		}
		r.subscribing(1)
		r.seek(gap{ls, "t"})
		began = time.Now()
		at, _ := asked(3 * time.Minute)
		s := time.Second
		if diff := cmp.Diff([]time.Duration{0, 2 * s, 6 * s, 14 * s, 30 * s, 62 * s, 122 * s}, at); diff != "" {
			t.Fatalf("asked (-want +got):\n%s", diff)
		}
		for last, says := range map[int64]bool{7: false, 9: true} { // when it was asked so often, and is there
			ls.away["t"].last = last
			if got := r.lost(); strings.Contains(got, "over and over") != says {
				t.Errorf("of a log that ends at %d it says %q", last, got)
			}
		}
		ls.places["t"] = Place{TopicLane: ls.places["t"].TopicLane, Incarnation: 1, Sequence: 8}
		r.seek(gap{ls, "t"})
		r.subscribing(1)
		r.seek(gap{ls, "t"})
		began = time.Now()
		if at, _ = asked(3 * s); len(at) != 2 {
			t.Fatalf("behind the next gap asked at %v", at)
		}
	})
}

// TestAnswered tells what comes of an answer.
func TestAnswered(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		latest                bool
		incarnation, sequence int64
		busy, moved           bool
		held                  broker.Held
		// begins is where the consumer begins, if it does; lacks that it looks for more, next what it waits for.
		begins *Place
		lacks  bool
		next   int64
	}{
		"all is there": {incarnation: 1, sequence: 7, held: broker.Held{First: 1, Last: 7}, next: 8},
		"it is behind": {incarnation: 1, sequence: 7, held: broker.Held{First: 1, Last: 9}, lacks: true, next: 8},
		"it has moved": {incarnation: 1, sequence: 7, moved: true, held: broker.Held{First: 1, Last: 9}, next: 8},
		"it is ahead of a log that went back": {
			incarnation: 1, sequence: 7, held: broker.Held{First: 1, Last: 5, Past: history.Log{{ID: 2, First: 5}}}, lacks: true, next: 5,
		},
		"it is ahead of a log that went back and is empty since": {
			incarnation: 1, sequence: 7, held: broker.Held{First: 1, Last: 4, Past: history.Log{{ID: 2, First: 5}}}, next: 5,
		},
		"a long history": {
			incarnation: 2, sequence: 7, held: broker.Held{First: 1, Last: 9, Past: history.Log{{ID: 2, First: 3}, {ID: 3, First: 8}, {ID: 5, First: 6}}}, lacks: true, next: 6,
		},
		"it is new":            {held: broker.Held{First: 1, Last: 3}, lacks: true, next: 1},
		"it is new, and idle":  {held: broker.Held{First: 1}, next: 1},
		"it is new, and late":  {held: broker.Held{First: 4, Last: 9, FirstIncarnation: 2, LastIncarnation: 3}, begins: &Place{Incarnation: 2, Sequence: 3}, next: 1},
		"it is new, and busy":  {busy: true, held: broker.Held{First: 4, Last: 9, FirstIncarnation: 2}, next: 1},
		"from now on":          {latest: true, held: broker.Held{First: 4, Last: 9, FirstIncarnation: 1, LastIncarnation: 3}, begins: &Place{Incarnation: 3, Sequence: 9}, next: 1},
		"from now on, at once": {latest: true, held: broker.Held{First: 1, LastIncarnation: 1}, begins: &Place{Incarnation: 1}, next: 1},
		"from then on":         {latest: true, incarnation: 1, held: broker.Held{First: 1, Last: 4, LastIncarnation: 1}, lacks: true, next: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, ls := reader(t, c.latest, c.incarnation, c.sequence)
			r.questions()
			ls.busy = c.busy
			if c.moved {
				ls.away["t"].seen = mark{1, c.sequence - 1}
			}
			starts := r.answered("t", held(c.held))
			var want []Place
			if c.begins != nil {
				c.begins.TopicLane = ls.places["t"].TopicLane
				want = []Place{*c.begins}
			}
			if diff := cmp.Diff(want, starts); diff != "" {
				t.Errorf("begins (-want +got):\n%s", diff)
			}
			if ls.lacks["t"] != c.lacks || ls.follows(ls.places["t"]) != c.next {
				t.Errorf("lacks %v and waits for %d, want %v and %d", ls.lacks["t"], ls.follows(ls.places["t"]), c.lacks, c.next)
			}
			r.answered("others", held(c.held)) // of a topic that is not read
		})
	}
}

// TestLost: what the topic's database does not keep any more is said by name, as long as it is missing.
func TestLost(t *testing.T) {
	t.Parallel()
	r, ls := reader(t, false, 1, 7)
	if said := r.lost(); said != "" {
		t.Fatalf("it says %q at first", said)
	}
	r.seek(gap{ls, "t"})
	r.subscribing(1)
	r.seek(gap{ls, "t"})
	r.questions()
	r.answered("t", held(broker.Held{First: 12, Last: 20}))
	want := "it has handled t/1 up to 7, and the database that writes it keeps it from 12 on: what is between is lost to it, " +
		"and it stands still there. docs/guides/participant-with-own-database.md says how it goes on"
	if diff := cmp.Diff(want, r.lost()); diff != "" {
		t.Fatalf("it says (-want +got):\n%s", diff)
	}
	ls.places["t"] = Place{TopicLane: ls.places["t"].TopicLane, Incarnation: 1, Sequence: 11}
	if said := r.lost(); said != "" {
		t.Fatalf("where a person has put it, it says %q", said)
	}
}

// TestLearn_WhileALaneIsBusy: histories come with messages while a worker handles others of the same lane. The race
// detector sees when the two meet without the mutex.
func TestLearn_WhileALaneIsBusy(t *testing.T) {
	t.Parallel()
	r, ls := reader(t, false, 1, 7)
	ls.busy = true
	message := func(incarnation, sequence int64) *mainstay.Message {
		return &mainstay.Message{Topic: "t", Lane: 1, ID: "m", Incarnation: incarnation, Sequence: sequence, Since: 5}
	}
	var all sync.WaitGroup
	all.Go(func() {
		for incarnation := range int64(100) {
			r.deliver([]*mainstay.Message{message(incarnation+2, 8)}, false)
		}
	})
	all.Go(func() {
		for range 100 {
			items := r.next([]item{{ls: ls, m: message(1, 8)}})
			newEffects(r).move(item{ls: ls, m: message(1, 8)})
			if len(items) > 1 {
				t.Error("one message became several")
			}
		}
	})
	all.Wait()
	if next := r.follows(ls, ls.places["t"]); next != 5 {
		t.Errorf("waits for %d, want 5, where the later incarnations begin", next)
	}
}
