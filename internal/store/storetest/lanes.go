package storetest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/clock"
	"github.com/mainstay-io/mainstay/internal/lane"
	"github.com/mainstay-io/mainstay/internal/lease"
)

// Lanes is the conformance suite of lane.Store.
func Lanes(t *testing.T, newFixture func(t *testing.T) *Fixture) {
	machineryTests{
		"registering twice changes no place":   lanesRegister,
		"a unit commits, or nothing does":      lanesAtomic,
		"places are compared and set":          lanesMove,
		"a unit is fenced when it is repeated": lanesRepeated,
		"a lost lease fences":                  lanesFence,
		"lines end with the one behind":        lanesLines,
		"parked messages":                      lanesParked,
		"what is not parked fences":            lanesNotParked,
		"a case is opened, ended, reopened":    lanesDeadLetters,
		"a place begins once":                  lanesBegin,
		"a barrier is for ever":                lanesBarrier,
		"crashes are kept until forgotten":     lanesCrashes,
		"what is queued runs in order":         lanesQueue,
		"a transaction inside is an error":     lanesNested,
		"neighbours do not fail":               lanesNeighbours,
		"an ended context":                     lanesEndedContext,
		"an invalid message fails its unit":    lanesInvalid,
		"units of many lanes at the same time": lanesConcurrent,
	}.run(t, newFixture)
}

// worker is a consumer with all its lanes leased.
type worker struct {
	f  *Fixture
	u  lane.Unit
	at map[mainstay.TopicLane]lane.Place
}

func (f *Fixture) worker(t *testing.T, consumer string) *worker {
	t.Helper()
	noError(t, "registering", f.Register(t.Context(), lane.Registration{Consumer: consumer, Topics: []string{"a"}}))
	w := &worker{f: f, u: lane.Unit{Consumer: consumer, Leases: f.acquire(t, consumer, "x", time.Minute, true, 0, 1)}, at: map[mainstay.TopicLane]lane.Place{}}
	ps, err := f.Places(t.Context(), consumer, []int{0, 1})
	noError(t, "reading places", err)
	for _, p := range ps {
		w.at[p.TopicLane] = p
	}
	equal(t, "places", 2, len(w.at))
	return w
}

func (w *worker) unit(t *testing.T, fn func(tx lane.Tx) error) error {
	t.Helper()
	return w.f.Unit(t.Context(), w.u, func(_ context.Context, tx lane.Tx) error { return fn(tx) })
}

func (w *worker) must(t *testing.T, fn func(tx lane.Tx)) {
	t.Helper()
	noError(t, "a unit", w.unit(t, func(tx lane.Tx) error { fn(tx); return nil }))
}

func lanesLines(t *testing.T, f *Fixture) {
	w := f.worker(t, "c")
	f.worker(t, "slow")
	m := message("a", "k", "1")
	f.send(t, m, message("a", "k", "2"))
	f.Settle(t)
	from := w.at[m.TopicLane()]
	to := from
	to.Sequence, to.MessageID = 1, m.ID
	w.must(t, func(tx lane.Tx) { tx.Move(from, to) })
	for _, tc := range []struct {
		topics []string
		lanes  []int
		want   []lane.Line
	}{
		{[]string{"a", "b"}, []int{m.Lane}, []lane.Line{{TopicLane: m.TopicLane(), Head: 2}}},
		{[]string{"a"}, []int{1 - m.Lane}, []lane.Line{{TopicLane: mainstay.TopicLane{Topic: "a", Lane: 1 - m.Lane}}}},
		{[]string{"b"}, []int{0, 1}, nil},
	} {
		lines, err := f.Lines(t.Context(), tc.topics, tc.lanes)
		noError(t, "reading lines", err)
		if !slices.Equal(lines, tc.want) {
			t.Errorf("lines of %v in %v: %+v, want %+v", tc.topics, tc.lanes, lines, tc.want)
		}
	}
}

func lanesRegister(t *testing.T, f *Fixture) {
	m := message("a", "k", "1")
	f.send(t, m)
	for _, latest := range []bool{true, false} {
		noError(t, "registering", f.Register(t.Context(), lane.Registration{Consumer: "c", Topics: []string{"a"}, Latest: latest}))
		ps, err := f.Places(t.Context(), "c", []int{m.Lane})
		noError(t, "reading places", err)
		equal(t, "places", 1, len(ps))
		equal(t, "place", int64(1), ps[0].Sequence)
	}
	ps, err := f.Places(t.Context(), "nobody", []int{0})
	if err != nil || len(ps) != 0 {
		t.Fatalf("places of nobody: %v, %v", ps, err)
	}
}

// lanesBegin: a place of another database's log begins where it is told to, at the log's beginning, too, and never again;
// one that has moved, or is in a log of this database, stays where it is.
func lanesBegin(t *testing.T, f *Fixture) {
	register := func(elsewhere ...string) {
		t.Helper()
		noError(t, "registering", f.Register(t.Context(), lane.Registration{Consumer: "c", Topics: []string{"a", "b"}, Elsewhere: elsewhere}))
	}
	place := func(topic string, n int, incarnation, sequence int64) lane.Place {
		return lane.Place{TopicLane: mainstay.TopicLane{Topic: topic, Lane: n}, Incarnation: incarnation, Sequence: sequence}
	}
	begin := func(ps ...lane.Place) { t.Helper(); noError(t, "beginning", f.Begin(t.Context(), "c", ps)) }
	want := func(what string, ps ...lane.Place) {
		t.Helper()
		got, err := f.Places(t.Context(), "c", []int{0, 1})
		noError(t, "reading places", err)
		slices.SortFunc(got, func(x, y lane.Place) int { return cmp.Or(strings.Compare(x.Topic, y.Topic), x.Lane-y.Lane) })
		equal(t, what, ps, got)
	}
	register("b")
	want("registered", place("a", 0, 1, 0), place("a", 1, 1, 0), place("b", 0, 0, 0), place("b", 1, 0, 0))
	begin(place("a", 0, 3, 7), place("b", 0, 3, 7), place("b", 1, 1, 0))
	want("begun", place("a", 0, 1, 0), place("a", 1, 1, 0), place("b", 0, 3, 7), place("b", 1, 1, 0))
	begin(place("b", 0, 4, 9), place("b", 1, 4, 9))
	register("b")
	want("begun twice", place("a", 0, 1, 0), place("a", 1, 1, 0), place("b", 0, 3, 7), place("b", 1, 1, 0))
	register("a", "b")
	begin(place("a", 0, 2, 5))
	want("found to be another's", place("a", 0, 2, 5), place("a", 1, 0, 0), place("b", 0, 3, 7), place("b", 1, 1, 0))
	noError(t, "beginning for nobody", f.Begin(t.Context(), "nobody", []lane.Place{place("a", 0, 1, 1)}))
}

// everything does one of each in tx.
func everything(tx lane.Tx, from lane.Place, committed *int) {
	to := from
	to.Sequence, to.MessageID = from.Sequence+1, "0190f7c2-0000-7000-8000-000000000001"
	tx.Move(from, to)
	tx.Park(parkedRow(1, lane.ParkedRetry))
	tx.DeadLetter(deadRow(1))
	tx.PutBarriers(lane.Barrier{StepKey: "s/1", Op: mainstay.OpDo, Outcome: mainstay.OutcomeDone, MessageID: "0190f7c2-0000-7000-8000-000000000001"})
	tx.Send(message("out", "k", "sent"))
	tx.OnCommit(func() { *committed++ })
}

func parkedRow(sequence int64, state lane.ParkedState) lane.Parked {
	m := message("a", "k", fmt.Sprint(sequence))
	m.ID, m.Sequence, m.Incarnation = fmt.Sprintf("0190f7c2-0000-7000-8000-%012d", sequence), sequence, 1
	return lane.Parked{
		Ref: lane.Ref{TopicLane: m.TopicLane(), Sequence: sequence}, Key: m.Key, State: state, StepKey: "s/1", Op: mainstay.OpDo,
		Attempts: 2, Due: time.Date(2030, 1, 2, 3, 4, 5, 6000, time.UTC), Error: "why \x00", Message: m,
	}
}

func deadRow(sequence int64) lane.DeadLetter {
	p := parkedRow(sequence, lane.ParkedDead)
	return lane.DeadLetter{Ref: p.Ref, Message: p.Message, Kind: mainstay.KindTerminal, Error: p.Error, Attempts: 2, At: clock.System()}
}

func (w *worker) traces(t *testing.T) string {
	t.Helper()
	s := ""
	for _, table := range []string{"parked", "dead_letter", "barrier", "outbox"} {
		s += w.f.text(t, "select cast(count(*) as text) from "+table)
	}
	return s + " " + w.f.text(t, "select cast(sum(sequence) as text) from place")
}

func lanesAtomic(t *testing.T, f *Fixture) {
	w := f.worker(t, "c")
	from := w.at[mainstay.TopicLane{Topic: "a"}]
	committed := 0
	bad := errors.New("bad")
	err := w.unit(t, func(tx lane.Tx) error { everything(tx, from, &committed); return bad })
	if !errors.Is(err, bad) || errors.Is(err, lane.ErrTransient) {
		t.Fatalf("an error of the work: %v", err)
	}
	var panicked *mainstay.PanicError
	err = w.unit(t, func(tx lane.Tx) error {
		everything(tx, from, &committed)
		noError(t, "flushing", tx.Flush(t.Context()))
		panic("oops")
	})
	if !errors.As(err, &panicked) || panicked.Value != "oops" || len(panicked.Stack) == 0 {
		t.Fatalf("a panic: %v", err)
	}
	err = w.unit(t, func(tx lane.Tx) error {
		everything(tx, from, &committed)
		tx.Queue("/* test */ insert into nowhere values (1)")
		return nil
	})
	if err == nil || errors.Is(err, lane.ErrTransient) || errors.Is(err, lease.ErrFenced) {
		t.Fatalf("a broken statement: %v", err)
	}
	equal(t, "traces of what failed", "0000 0", w.traces(t))
	equal(t, "commits", 0, committed)
	w.must(t, func(tx lane.Tx) { everything(tx, from, &committed) })
	equal(t, "traces", "1111 1", w.traces(t))
	equal(t, "commits", 1, committed)
}

func lanesMove(t *testing.T, f *Fixture) {
	w := f.worker(t, "c")
	from := w.at[mainstay.TopicLane{Topic: "a", Lane: 1}]
	to := from
	to.Sequence, to.MessageID = 3, "0190f7c2-0000-7000-8000-000000000003"
	w.must(t, func(tx lane.Tx) { tx.Move(from, to) })
	fenced(t, "moving from where it is not", w.unit(t, func(tx lane.Tx) error { tx.Move(from, to); return nil }))
	elsewhere := to
	elsewhere.Incarnation++
	fenced(t, "moving from another incarnation", w.unit(t, func(tx lane.Tx) error { tx.Move(elsewhere, from); return nil }))
	ps, err := f.Places(t.Context(), "c", []int{1})
	noError(t, "reading", err)
	equal(t, "place", []lane.Place{to}, ps)
}

// lanesRepeated repeats a unit as its owner does who was not told that it had committed.
func lanesRepeated(t *testing.T, f *Fixture) {
	w := f.worker(t, "c")
	from := w.at[mainstay.TopicLane{Topic: "a"}]
	committed := 0
	w.must(t, func(tx lane.Tx) { everything(tx, from, &committed) })
	fenced(t, "the repetition", w.unit(t, func(tx lane.Tx) error { everything(tx, from, &committed); return nil }))
	equal(t, "traces", "1111 1", w.traces(t))
	equal(t, "commits", 1, committed)
}

func lanesFence(t *testing.T, f *Fixture) {
	w := f.worker(t, "c")
	f.acquire(t, "c", "y", time.Minute, true, 1)
	ran := false
	fenced(t, "a unit", w.unit(t, func(tx lane.Tx) error { ran = true; tx.Send(message("out", "k", "x")); return nil }))
	if ran && f.text(t, "select cast(count(*) as text) from outbox") != "0" {
		t.Fatal("something was written")
	}
	w.u.Leases = w.u.Leases[:1]
	w.must(t, func(tx lane.Tx) { tx.Send(message("out", "k", "x")) })
}

func lanesParked(t *testing.T, f *Fixture) {
	w := f.worker(t, "c")
	p1, p2, p3 := parkedRow(1, lane.ParkedRetry), parkedRow(2, lane.ParkedQueued), parkedRow(3, lane.ParkedQueued)
	w.must(t, func(tx lane.Tx) { tx.Park(p3, p1); tx.Park(p2) })
	changed := p1
	changed.State, changed.Attempts, changed.Error, changed.Due = lane.ParkedDead, 3, "other", time.Time{}
	w.must(t, func(tx lane.Tx) { tx.Repark(changed); tx.Unpark(p2.Ref) })
	ps, err := f.ParkedKeys(t.Context(), "c", []int{0})
	noError(t, "listing", err)
	since := ps[0].ParkedAt
	changed.ParkedAt = since.Add(-time.Hour)
	w.must(t, func(tx lane.Tx) { tx.Repark(changed) })
	ps, err = f.ParkedKeys(t.Context(), "c", []int{0})
	noError(t, "listing", err)
	equal(t, "parked since", changed.ParkedAt, ps[0].ParkedAt)
	equal(t, "parked", 2, len(ps))
	if ps[0].Ref != p1.Ref || ps[0].State != lane.ParkedDead || ps[0].Attempts != 3 || ps[0].Error != "other" || ps[0].StepKey != "s/1" ||
		ps[0].Op != mainstay.OpDo || ps[0].Key != "k" || ps[0].ParkedAt.IsZero() || ps[0].Message != nil {
		t.Fatalf("the first is %+v", ps[0])
	}
	if ps[1].Ref != p3.Ref || !ps[1].Due.Equal(p3.Due) {
		t.Fatalf("the second is %+v", ps[1])
	}
	loaded, err := f.LoadParked(t.Context(), "c", []lane.Ref{p3.Ref, p2.Ref})
	noError(t, "loading", err)
	equal(t, "loaded", 1, len(loaded))
	equal(t, "message", p3.Message, loaded[0].Message)
	for _, other := range []struct {
		consumer string
		lanes    []int
	}{{"c", []int{1}}, {"d", []int{0}}, {"c", nil}} {
		if ps, err := f.ParkedKeys(t.Context(), other.consumer, other.lanes); err != nil || len(ps) != 0 {
			t.Fatalf("of %+v: %v, %v", other, ps, err)
		}
	}
}

func lanesNotParked(t *testing.T, f *Fixture) {
	w := f.worker(t, "c")
	there, gone := parkedRow(1, lane.ParkedRetry), parkedRow(2, lane.ParkedRetry)
	w.must(t, func(tx lane.Tx) { tx.Park(there) })
	fenced(t, "removing what is not there", w.unit(t, func(tx lane.Tx) error {
		tx.Unpark(there.Ref, gone.Ref)
		return nil
	}))
	fenced(t, "changing what is not there", w.unit(t, func(tx lane.Tx) error {
		tx.Send(message("out", "k", "x"))
		tx.Repark(gone)
		return nil
	}))
	equal(t, "traces", "1000 0", w.traces(t))
}

func lanesDeadLetters(t *testing.T, f *Fixture) {
	w := f.worker(t, "c")
	d := deadRow(1)
	state := func() string { return f.deadState(t, "c", withSequence(d.Message, 1)) }
	w.must(t, func(tx lane.Tx) { tx.EndDeadLetter(lane.DeadResolved, d.Ref) })
	equal(t, "no case", "", state())
	w.must(t, func(tx lane.Tx) { tx.DeadLetter(d) })
	equal(t, "opened", "open", state())
	w.must(t, func(tx lane.Tx) { tx.EndDeadLetter(lane.DeadResolved, d.Ref) })
	equal(t, "ended", "resolved", state())
	w.must(t, func(tx lane.Tx) { tx.EndDeadLetter(lane.DeadSuperseded, d.Ref) })
	equal(t, "ended once", "resolved", state())
	w.must(t, func(tx lane.Tx) { tx.DeadLetter(d) })
	equal(t, "opened again", "open", state())
}

func withSequence(m *mainstay.Message, sequence int64) *mainstay.Message {
	c := *m
	c.Sequence = sequence
	return &c
}

func lanesCrashes(t *testing.T, f *Fixture) {
	w := f.worker(t, "c")
	own := lane.Crash{Ref: lane.Ref{TopicLane: mainstay.TopicLane{Lane: 1}}, Count: 1}
	of := lane.Crash{Ref: lane.Ref{TopicLane: mainstay.TopicLane{Topic: "a", Lane: 1}, Sequence: 7}, Running: true}
	read := func() []lane.Crash {
		cs, err := f.Crashes(t.Context(), "c", []int{1})
		noError(t, "reading", err)
		return cs
	}
	w.must(t, func(tx lane.Tx) { tx.PutCrash(own); tx.PutCrash(of) })
	equal(t, "crashes", []lane.Crash{own, of}, read())
	own.Count, of.Count, of.Running = 2, 1, false
	w.must(t, func(tx lane.Tx) { tx.PutCrash(of); tx.PutCrash(own) })
	equal(t, "crashes, changed", []lane.Crash{own, of}, read())
	own.Count = 0
	w.must(t, func(tx lane.Tx) { tx.PutCrash(own) })
	equal(t, "crashes, one forgotten", []lane.Crash{of}, read())
}

func lanesBarrier(t *testing.T, f *Fixture) {
	w := f.worker(t, "c")
	b := lane.Barrier{StepKey: "s/1", Op: mainstay.OpDo, Outcome: mainstay.OutcomeRejected, Code: "no", Detail: "sold out", MessageID: "0190f7c2-0000-7000-8000-000000000001"}
	read := func() (bs []lane.Barrier) {
		w.must(t, func(tx lane.Tx) {
			var err error
			bs, err = tx.Barriers(t.Context(), []string{"s/1", "s/2"})
			noError(t, "reading", err)
		})
		return bs
	}
	equal(t, "unknown", 0, len(read()))
	w.must(t, func(tx lane.Tx) {
		tx.PutBarriers(b)
		noError(t, "flushing", tx.Flush(t.Context()))
		bs, err := tx.Barriers(t.Context(), []string{"s/1"})
		noError(t, "reading", err)
		equal(t, "known in the same unit", []lane.Barrier{b}, bs)
	})
	equal(t, "known", []lane.Barrier{b}, read())
	other := b
	other.Outcome = mainstay.OutcomeDone
	if err := w.unit(t, func(tx lane.Tx) error { tx.PutBarriers(other); return nil }); err == nil || errors.Is(err, lane.ErrTransient) {
		t.Fatalf("a second outcome: %v", err)
	}
	equal(t, "still known", []lane.Barrier{b}, read())
	noError(t, "registering", f.Register(t.Context(), lane.Registration{Consumer: "d", Topics: []string{"a"}}))
	d := &worker{f: f, u: lane.Unit{Consumer: "d", Leases: f.acquire(t, "d", "x", time.Minute, true, 0)}}
	d.must(t, func(tx lane.Tx) {
		bs, err := tx.Barriers(t.Context(), []string{"s/1"})
		noError(t, "reading", err)
		equal(t, "of another participant", 0, len(bs))
	})
}

func lanesQueue(t *testing.T, f *Fixture) {
	w := f.worker(t, "c")
	set := "/* test */ update place set message_id = message_id || $1 where consumer = 'c'"
	w.must(t, func(tx lane.Tx) {
		tx.Queue(set, "1")
		tx.Queue(set, "2")
		noError(t, "flushing", tx.Flush(t.Context()))
		if _, err := tx.ExecContext(t.Context(), set, "3"); err != nil {
			t.Error(err)
		}
		tx.Queue(set, "4")
	})
	equal(t, "written", "1234", f.text(t, "select message_id from place where consumer = 'c'"))
}

func lanesNested(t *testing.T, f *Fixture) {
	w := f.worker(t, "c")
	err := f.Unit(t.Context(), w.u, func(ctx context.Context, _ lane.Tx) error {
		return f.Run(ctx, func(context.Context, mainstay.Tx) error { return nil })
	})
	if err == nil {
		t.Fatal("no error")
	}
}

// lanesNeighbours runs many units at once, which a store may put into one transaction.
func lanesNeighbours(t *testing.T, f *Fixture) {
	var wg sync.WaitGroup
	bad := errors.New("bad")
	for i := range 60 {
		wg.Go(func() {
			err := f.Run(t.Context(), func(ctx context.Context, tx mainstay.Tx) error {
				tx.Send(message("a", "k", fmt.Sprint(i%3)))
				switch i % 3 {
				case 0:
					return nil
				case 1:
					return bad
				default:
					_, err := tx.ExecContext(ctx, "insert into nowhere values (1)")
					if err == nil {
						t.Error("there is a table nowhere")
					}
					panic("oops")
				}
			})
			if (err == nil) != (i%3 == 0) {
				t.Errorf("unit %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	f.Settle(t)
	probe := message("a", "k", "0")
	f.send(t, probe)
	ms := f.read(t, probe.TopicLane(), 0, 100)
	equal(t, "messages", 21, len(ms))
	for _, m := range ms {
		equal(t, "payload", "0", string(m.Payload))
	}
}

func lanesEndedContext(t *testing.T, f *Fixture) {
	w := f.worker(t, "c")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(mainstay.ErrShutdown)
	err := f.Unit(ctx, w.u, func(_ context.Context, tx lane.Tx) error { tx.Send(message("a", "k", "1")); return nil })
	if err == nil {
		t.Fatal("no error")
	}
	equal(t, "traces", "0000 0", w.traces(t))
}

func lanesInvalid(t *testing.T, f *Fixture) {
	w := f.worker(t, "c")
	err := w.unit(t, func(tx lane.Tx) error { tx.Send(message("Not A Topic", "k", "1")); return nil })
	if err == nil || errors.Is(err, lane.ErrTransient) || errors.Is(err, lease.ErrFenced) {
		t.Fatalf("got %v", err)
	}
	equal(t, "traces", "0000 0", w.traces(t))
}

func lanesConcurrent(t *testing.T, f *Fixture) {
	w := f.worker(t, "c")
	var wg sync.WaitGroup
	for n := range 2 {
		wg.Go(func() {
			at := w.at[mainstay.TopicLane{Topic: "a", Lane: n}]
			u := lane.Unit{Consumer: "c", Leases: w.u.Leases[n : n+1]}
			for range 20 {
				to := at
				to.Sequence++
				if err := f.Unit(t.Context(), u, func(_ context.Context, tx lane.Tx) error { tx.Move(at, to); return nil }); err != nil {
					t.Errorf("lane %d: %v", n, err)
					return
				}
				at = to
			}
		})
	}
	wg.Wait()
	equal(t, "places", "40", f.text(t, "select cast(sum(sequence) as text) from place"))
}
