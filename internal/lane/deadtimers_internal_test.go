package lane

import (
	"context"
	"testing"
	"time"
)

// TestTimerLimit_LeavesRoom for timers that are not fired: as many as fill a batch must not hide those behind them.
func TestTimerLimit_LeavesRoom(t *testing.T) {
	t.Parallel()
	r, ls := reader(t, false, 1, 7)
	lame := &timing{}
	if got := r.timerLimit(lame); got != timerBatch {
		t.Errorf("%d timers are read, want %d", got, timerBatch)
	}
	for _, id := range []string{"a", "b"} {
		ls.deadly[timerRef(1, id)] = 4
	}
	if got := r.timerLimit(lame); got != timerBatch+2 {
		t.Errorf("%d timers are read beside 2 that were given up, want %d", got, timerBatch+2)
	}
}

// TestAcquit_LetsGoOnWhatWaited: timers run beside the lane's tasks, and none of these need follow.
func TestAcquit_LetsGoOnWhatWaited(t *testing.T) {
	t.Parallel()
	r, ls := reader(t, false, 1, 7)
	r.e.cfg.Store = taker{}
	ls.inFlight = newInFlight()
	ls.inFlight.count, ls.inFlight.timers["x"] = aloneAfter, true
	ref := Ref{ls.places["t"].TopicLane, 5}
	q := ls.queue(queueKey{"t", "k"})
	q.rows = []Parked{{Ref: ref, Key: "k", State: ParkedRetry, Due: time.Unix(1, 0)}}
	r.schedule(ls, q)
	if task, _ := r.take(); !task.empty() || len(ls.late) != 1 {
		t.Fatalf("took %+v, and %d heads wait for the timer", task, len(ls.late))
	}
	delete(ls.inFlight.timers, "x")
	r.acquit(t.Context(), &task{lanes: []*laneState{ls}})
	if ls.inFlight != nil || len(ls.late) != 0 || len(r.due) != 1 {
		t.Errorf("in flight is %v, %d heads wait still, %d are due", ls.inFlight, len(ls.late), len(r.due))
	}
}

// taker is a database that takes everything.
type taker struct{ Store }

func (taker) Unit(context.Context, Unit, func(context.Context, Tx) error) error { return nil }
