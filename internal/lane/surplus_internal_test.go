package lane

import (
	"testing"
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/lease"
)

// parkedIn is a consumer with one lane, and the queue of a parked message in it that is due.
func parkedIn(t *testing.T) (*run, *laneState, *keyQueue) {
	t.Helper()
	e, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	r, ls := newRun(e, Consumer{Name: "c"}), newLaneState(lease.Lease{Name: "c", Epoch: 1})
	r.lanes[0] = ls
	q := ls.queue(queueKey{"orders", "k"})
	q.rows = []Parked{{Ref: Ref{mainstay.TopicLane{Topic: "orders"}, 1}, Key: "k", State: ParkedCall, Due: time.Now().Add(-time.Second)}}
	return r, ls, q
}

// TestSurplus_ALaneThatStaysGoesOn: what became due while it was to be given back is not forgotten.
func TestSurplus_ALaneThatStaysGoesOn(t *testing.T) {
	t.Parallel()
	r, ls, q := parkedIn(t)
	ls.leaving = true
	r.schedule(ls, q)
	if task, _ := r.take(); !task.empty() {
		t.Fatal("work began in a lane that is given back")
	}
	r.surplus(0)
	if task, _ := r.take(); len(task.parked) != 1 {
		t.Fatal("what is due was forgotten")
	}
}

// TestSurplus_WaitsForCalls: a call that is under way is settled before another process could make it again.
func TestSurplus_WaitsForCalls(t *testing.T) {
	t.Parallel()
	r, ls, q := parkedIn(t)
	q.calling = true
	if idle := r.surplus(1); len(idle) > 0 {
		t.Fatal("a lane was dropped under a call")
	}
	r.ended = append(r.ended, &finished{ls: ls, row: q.rows[0]})
	task, _ := r.take()
	if len(task.ended) != 1 {
		t.Fatal("the outcome of the call is not settled")
	}
	q.calling = false
	r.giveBack(task)
	if task, _ := r.take(); !task.empty() {
		t.Fatal("work began in a lane that is given back")
	}
	if idle := r.surplus(1); len(idle) != 1 {
		t.Fatal("the lane stays")
	}
}

// TestSurplus_WaitsForCallsOfALaneThatRunsAlone: a crash letter was replayed while the call of another key was under
// way. Nothing begins in a lane that is given back, that one neither, so it must not hold up the outcome of the call.
func TestSurplus_WaitsForCallsOfALaneThatRunsAlone(t *testing.T) {
	t.Parallel()
	r, ls, q := parkedIn(t)
	q.calling = true
	deadly := Ref{mainstay.TopicLane{Topic: "orders"}, 2}
	other := ls.queue(queueKey{"orders", "deadly"})
	other.rows = []Parked{{Ref: deadly, Key: "deadly", State: ParkedReplay, Due: time.Now().Add(-time.Second)}}
	ls.deadly[deadly] = 1
	r.schedule(ls, other)
	ls.leaving = true
	if task, _ := r.take(); !task.empty() || !ls.alone() {
		t.Fatal("what has ended processes does not wait for its turn alone")
	}
	r.ended = append(r.ended, &finished{ls: ls, row: q.rows[0]})
	task, _ := r.take()
	if len(task.ended) != 1 || len(task.parked)+len(task.items)+len(task.gaps) > 0 || task.alone != nil {
		t.Fatalf("takes %+v, want the outcome of the call and nothing else", task)
	}
	q.calling = false
	r.giveBack(task)
	if idle := r.surplus(1); len(idle) != 1 {
		t.Fatal("the lane stays for ever")
	}
}
