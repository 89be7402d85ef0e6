package lane

import (
	"context"
	"testing"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/history"
)

// oneLog is a store that has these messages.
type oneLog struct {
	Store
	ms []*mainstay.Message
}

func (s oneLog) ReadLog(context.Context, map[mainstay.TopicLane]int64, int) ([]*mainstay.Message, error) {
	return s.ms, nil
}

// LoadParked finds none.
func (oneLog) LoadParked(context.Context, string, []Ref) ([]Parked, error) { return nil, nil }

// TestReadLog_OfAnIncarnationThatIsNotKnown: what the database numbers in an incarnation that was opened since the lane
// was read is not stepped over, whether the broker brings it or not. One that is not known then either is.
func TestReadLog_OfAnIncarnationThatIsNotKnown(t *testing.T) {
	t.Parallel()
	r, ls := reader(t, false, 2, 7)
	delete(ls.away, "t")
	ls.current, ls.past["t"] = 2, history.Log{{ID: 2, First: 1}}
	r.e.cfg.Store = oneLog{ms: []*mainstay.Message{{Topic: "t", Lane: 1, ID: "m", Incarnation: 3, Sequence: 8, Since: 8}}}
	if items := r.readLog(t.Context(), []gap{{ls, "t"}}, 1); len(items) > 0 || !ls.gone || r.lanes[1] != nil {
		t.Fatalf("gave %d messages of an unknown incarnation, and lets go of the lane: %v", len(items), ls.gone)
	}
	again := newLaneState(ls.lease)
	again.places, again.arrived, again.current, again.past = ls.places, ls.arrived, ls.current, ls.past
	r.lanes[1] = again
	if r.readLog(t.Context(), []gap{{ls, "t"}}, 1); again.gone || r.lanes[1] != again {
		t.Fatal("a lane that was let go of takes along what was read in its place")
	}
	if items := r.readLog(t.Context(), []gap{{again, "t"}}, 1); len(items) > 0 || again.gone {
		t.Fatalf("gave %d messages of a stranger, and lets go of the lane again: %v", len(items), again.gone)
	}
}

// TestHeads_OfARowThatIsNotThere: what is parked in the engine's memory and not in the database would never be read.
func TestHeads_OfARowThatIsNotThere(t *testing.T) {
	t.Parallel()
	for name, find := range map[string]func(r *run, ls *laneState, q *keyQueue) bool{
		"a head": func(r *run, ls *laneState, q *keyQueue) bool {
			return len(r.heads(t.Context(), nil, []due{{ls: ls, q: q}})) > 0
		},
		"one that runs alone": func(r *run, ls *laneState, q *keyQueue) bool {
			_, ok := r.find(t.Context(), &task{lanes: []*laneState{ls}, alone: &single{ref: q.rows[0].Ref}})
			return ok
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, ls, q := parkedIn(t)
			r.e.cfg.Store = oneLog{}
			if find(r, ls, q) || !ls.gone || r.lanes[0] != nil {
				t.Fatalf("the lane is let go of: %v", ls.gone)
			}
		})
	}
}
