package lane

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/lease"
)

func ref(sequence int64) Ref { return Ref{mainstay.TopicLane{Topic: "t", Lane: 1}, sequence} }

// suspected is a lane that was taken from a holder, dead or not, who had handled five messages.
func suspected(unclean bool, parked ...Parked) *laneState {
	ls := newLaneState(lease.Lease{Lane: 1, Unclean: unclean})
	ls.places["t"] = Place{TopicLane: ref(0).TopicLane, Incarnation: 1, Sequence: 5}
	for _, p := range parked {
		p.Key = string(rune('a' + p.Sequence))
		q := ls.queue(queueKey{"t", p.Key})
		q.rows = append(q.rows, p)
	}
	return ls
}

// TestSuspect_NotesWhatMayHaveBeenUnderWay: what followed the places, one batch at most, and the heads that were due.
func TestSuspect_NotesWhatMayHaveBeenUnderWay(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	late, soon := now.Add(-time.Second), now.Add(time.Second)
	logs := func(head int64) map[mainstay.TopicLane]int64 {
		return map[mainstay.TopicLane]int64{ref(0).TopicLane: head}
	}
	for name, c := range map[string]struct {
		ls     *laneState
		known  []Crash
		head   int64
		deadly map[Ref]int
		want   inFlight
	}{
		"a batch at most": {ls: suspected(true), head: 100, want: inFlight{count: 1, until: map[string]int64{"t": 15}}},
		"less than one":   {ls: suspected(true), head: 7, want: inFlight{count: 1, until: map[string]int64{"t": 7}}},
		"the second death in a row": {
			ls: suspected(true), head: 7, known: []Crash{{Ref: laneItself(1), Count: 1}},
			want: inFlight{count: 2, until: map[string]int64{"t": 7}},
		},
		"a holder who gave it back": {
			ls: suspected(false), head: 7, known: []Crash{{Ref: laneItself(1), Count: 1}},
			want: inFlight{count: 1, until: map[string]int64{"t": 7}},
		},
		"heads that were due": {
			ls: suspected(true, Parked{Ref: ref(1), State: ParkedRetry, Due: late}, Parked{Ref: ref(2), State: ParkedRetry, Due: soon},
				Parked{Ref: ref(3), State: ParkedDead, Due: late}),
			head: 5, want: inFlight{count: 1, heads: map[Ref]bool{ref(1): true}},
		},
		"what somebody has removed": {
			ls: suspected(true, Parked{Ref: ref(4), State: ParkedCall, Due: late}), head: 6,
			known: []Crash{{Ref: ref(3), Count: 1, Running: true}, {Ref: ref(4), Count: 1}, {Ref: ref(6), Count: 1, Running: true}},
			want: inFlight{
				count: 1, until: map[string]int64{"t": 6}, heads: map[Ref]bool{ref(4): true},
				counts: map[Ref]int{ref(3): 0, ref(4): 1, ref(6): 2},
			},
		},
		"a replayed one keeps its count": {
			ls: suspected(true, Parked{Ref: ref(4), State: ParkedReplay, Due: late}), head: 5, deadly: map[Ref]int{ref(4): 2},
			want: inFlight{count: 1, heads: map[Ref]bool{ref(4): true}, counts: map[Ref]int{ref(4): 2}},
		},
		"nothing was under way": {
			ls: suspected(true), head: 5, known: []Crash{{Ref: laneItself(1), Count: 1}, {Ref: ref(6), Count: 1}},
			want: inFlight{counts: map[Ref]int{ref(6): 0}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for r, n := range c.deadly {
				c.ls.deadly[r] = n
			}
			c.ls.suspect(c.known, logs(c.head), nil, 10, now)
			if diff := cmp.Diff(c.want, *c.ls.inFlight, cmp.AllowUnexported(inFlight{}), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("in flight (-want +got):\n%s", diff)
			}
		})
	}
}

// TestKnowDeadly: what was tried, and timers beyond their budget, are kept from running beside others; what was not tried
// yet, like a call, is one of those in flight.
func TestKnowDeadly(t *testing.T) {
	t.Parallel()
	const budget = 2
	for name, c := range map[string]struct {
		unclean bool
		crash   Crash
		want    int
	}{
		"a dead letter":            {true, Crash{Ref: ref(1), Count: 1}, 1},
		"a dead letter that ran":   {true, Crash{Ref: ref(1), Count: 1, Running: true}, 2},
		"one whose mark stayed":    {false, Crash{Ref: ref(1), Count: 1, Running: true}, 1},
		"not tried yet":            {true, Crash{Ref: ref(2), Count: 1}, 0},
		"not parked":               {true, Crash{Ref: ref(9), Count: 1}, 0},
		"a timer below its budget": {true, Crash{Ref: timerRef(1, "x"), Count: budget}, 0},
		"a timer beyond it":        {true, Crash{Ref: timerRef(1, "x"), Count: budget, Running: true}, budget + 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ls := suspected(c.unclean, Parked{Ref: ref(1), State: ParkedDead, Attempts: 1}, Parked{Ref: ref(2), State: ParkedCall})
			if known := ls.knowDeadly(c.crash, budget); known != (c.want > 0) || ls.deadly[c.crash.Ref] != c.want {
				t.Errorf("%v, held against it: %d, want %d", known, ls.deadly[c.crash.Ref], c.want)
			}
		})
	}
}

// TestNextInFlight_ChargedLeastFirst: and what is not at the head of a queue any more has been passed.
func TestNextInFlight_ChargedLeastFirst(t *testing.T) {
	t.Parallel()
	ls := suspected(true, Parked{Ref: ref(1), State: ParkedRetry}, Parked{Ref: ref(2), State: ParkedRetry})
	ls.inFlight = newInFlight()
	ls.inFlight.heads = map[Ref]bool{ref(1): true, ref(2): true, ref(3): true}
	ls.inFlight.counts = map[Ref]int{ref(1): 2, ref(2): 1, ref(6): 1}
	ls.inFlight.until = map[string]int64{"t": 6}
	ls.inFlight.counts[ref(2)] = 0
	if got, count, ok := ls.nextInFlight(); got != ref(2) || count != 0 || !ok {
		t.Errorf("%v with %d, %v; want the second, with none", got, count, ok)
	}
	if ls.inFlight.heads[ref(3)] {
		t.Error("what is not parked any more is still in flight")
	}
	ls.places["t"] = Place{TopicLane: ref(0).TopicLane, Sequence: 6}
	clear(ls.queues)
	if got, _, ok := ls.nextInFlight(); ok {
		t.Errorf("%v is left", got)
	}
}

// TestTakeAlone_OfTheLaneThatIsChargedLeast: a lane in which only timers are left makes no task, they are fired elsewhere;
// one in which nothing is left makes one, which ends it.
func TestTakeAlone_OfTheLaneThatIsChargedLeast(t *testing.T) {
	t.Parallel()
	e, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	alone := func(sequence int64, deaths int) *laneState {
		ls := suspected(true, Parked{Ref: ref(sequence), State: ParkedRetry})
		ls.inFlight = newInFlight()
		ls.inFlight.count, ls.inFlight.heads[ref(sequence)], ls.inFlight.counts[ref(sequence)] = aloneAfter, true, deaths
		return ls
	}
	for range 20 { // the order of lanes is any
		r := newRun(e, Consumer{Name: "c"})
		r.lanes = map[int]*laneState{1: alone(1, 2), 2: alone(2, 1), 3: alone(3, 2)}
		task := &task{}
		if !r.takeAlone(task) || task.alone.ref != ref(2) || task.alone.count != 1 || !r.lanes[2].busy || r.lanes[1].busy {
			t.Fatalf("takes %+v", task.alone)
		}
	}
	r := newRun(e, Consumer{Name: "c"})
	ls := suspected(true)
	ls.inFlight = newInFlight()
	ls.inFlight.count, ls.inFlight.timers["x"] = aloneAfter, true
	r.lanes[1] = ls
	if left := (&task{}); r.takeAlone(left) {
		t.Errorf("takes %+v, want nothing beside timers", left.alone)
	}
	clear(ls.inFlight.timers)
	if left := (&task{}); !r.takeAlone(left) || !left.alone.none {
		t.Errorf("takes %+v, want the end of it", left.alone)
	}
}

// fencing is a store in which every unit is fenced; besides notes whether another handler could have run meanwhile.
type fencing struct {
	oneLog
	e              *Engine
	units, besides int
	parked         []Parked
}

func (s *fencing) LoadParked(context.Context, string, []Ref) ([]Parked, error) { return s.parked, nil }

func (s *fencing) Unit(context.Context, Unit, func(context.Context, Tx) error) error {
	s.units++
	if s.e.gate.TryRLock() {
		s.e.gate.RUnlock()
		s.besides++
	}
	return lease.ErrFenced
}

// TestAlone_NothingRunsBeside from the mark on; and a lane that was lost to another holder is let go of.
func TestAlone_NothingRunsBeside(t *testing.T) {
	t.Parallel()
	for name, do := range map[string]func(r *run, ls *laneState, q *keyQueue){
		"a message": func(r *run, ls *laneState, q *keyQueue) {
			r.doAlone(t.Context(), t.Context(), &task{lanes: []*laneState{ls}, alone: &single{ref: q.rows[0].Ref}})
		},
		"a timer": func(r *run, ls *laneState, _ *keyQueue) {
			if err := r.fireOne(t.Context(), &timing{}, ls, "x"); err == nil {
				t.Error("it is fired in a lane that was lost")
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, ls, q := parkedIn(t)
			ls.inFlight = newInFlight()
			q.rows[0].Message = &mainstay.Message{Topic: "orders", Key: "k"}
			s := &fencing{e: r.e, parked: q.rows}
			r.e.cfg.Store = s
			do(r, ls, q)
			if s.units != 1 || s.besides > 0 || !ls.gone || r.lanes[0] != nil {
				t.Errorf("%d units, beside others %d; the lane is let go of: %v", s.units, s.besides, ls.gone)
			}
		})
	}
}

// TestPassed_SurvivedWhateverItCameTo: a head in flight that failed and waits again has ended no process.
func TestPassed_SurvivedWhateverItCameTo(t *testing.T) {
	t.Parallel()
	ls := suspected(true, Parked{Ref: ref(1), State: ParkedRetry})
	ls.inFlight = newInFlight()
	ls.inFlight.heads[ref(1)], ls.deadly[ref(1)] = true, 1
	row := Parked{Ref: ref(1), State: ParkedRetry}
	again := row
	again.Attempts++
	ls.passed(&overlay{was: []Parked{row}, rows: []Parked{again}})
	if _, _, ok := ls.nextInFlight(); ok || ls.deadly[ref(1)] != 1 {
		t.Errorf("it is to run alone again: %v; held against it: %d", ok, ls.deadly[ref(1)])
	}
	if ls.passed(&overlay{was: []Parked{again}}); len(ls.deadly) > 0 {
		t.Error("what is not parked any more is held against it")
	}
}

// TestSuspicious_LeavesAloneWhatIsGivenBack: nothing begins there.
func TestSuspicious_LeavesAloneWhatIsGivenBack(t *testing.T) {
	t.Parallel()
	r, ls, _ := parkedIn(t)
	ls.inFlight = newInFlight()
	ls.inFlight.timers["x"] = true
	if found := r.suspicious(); len(found) != 1 {
		t.Fatalf("%d lanes", len(found))
	}
	if ls.leaving = true; len(r.suspicious()) != 0 {
		t.Fatal("timers fire in a lane that is given back")
	}
}

type unanswered struct{ mainstay.Remote }

func (unanswered) Call(ctx context.Context, _ *mainstay.Message) (any, error) { return nil, ctx.Err() }

// TestRunAlone_ACallThatTheEndInterrupts counts for nothing: whoever has the lane next makes it again.
func TestRunAlone_ACallThatTheEndInterrupts(t *testing.T) {
	t.Parallel()
	r, ls, q := parkedIn(t)
	s := &fencing{e: r.e}
	r.e.cfg.Store, r.c.Participant = s, &Participant{Remote: unanswered{}}
	q.rows[0].Message = &mainstay.Message{Topic: "orders", Key: "k"}
	ended, end := context.WithCancel(t.Context())
	end()
	r.runAlone(ended, t.Context(), &task{}, item{ls: ls, m: q.rows[0].Message, row: &q.rows[0]})
	if s.units > 0 || r.calls != 0 {
		t.Errorf("%d units were written, %d calls are under way", s.units, r.calls)
	}
}
