package lane

import (
	"slices"
	"testing"
	"time"

	"github.com/mainstay-io/mainstay"
)

// line is a log of lane 0.
func line(topic string, head, place int64) Line {
	return Line{mainstay.TopicLane{Topic: topic}, head, place}
}

// lookout looks at the same lanes again and again.
type lookout struct {
	t *testing.T
	patience
	start time.Time
}

func newLookout(t *testing.T) *lookout {
	t.Helper()
	return &lookout{t, patience{holds: map[int]*hold{}}, time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)}
}

// look wants the timers of lane 0 that were due after so many seconds to fire now, none for a negative number.
func (l *lookout) look(now, due int, lines ...Line) {
	l.t.Helper()
	at := func(s int) time.Time { return l.start.Add(time.Duration(s) * time.Second) }
	fire := l.ripe(lines, []int{0}, at(now), 10*time.Second)
	want := 1
	if due < 0 {
		want = 0
	}
	if len(fire) != want || want == 1 && !slices.Equal(fire[at(due)], []int{0}) {
		l.t.Fatalf("after %d s: %v fires, want what was due after %d s", now, fire, due)
	}
}

func TestPatience_FiresAtOnceWhereNothingIsInLine(t *testing.T) {
	t.Parallel()
	l := newLookout(t)
	l.look(1, 1, line("commands", 7, 7), line("replies", 3, 3))
	l.fired([]int{0})
	l.look(2, 2) // and where no consumer of this database has the logs
}

func TestPatience_WaitsForCommandsAndThenForTheirAnswers(t *testing.T) {
	t.Parallel()
	l := newLookout(t)
	l.look(1, -1, line("commands", 7, 5), line("replies", 3, 3))
	l.look(2, -1, line("commands", 9, 6), line("replies", 4, 4))
	l.look(3, -1, line("commands", 9, 7), line("replies", 5, 4)) // those of the beginning are done
	l.look(4, -1, line("commands", 9, 9), line("replies", 7, 4))
	l.look(5, 1, line("commands", 12, 9), line("replies", 8, 5)) // and their answers came
	l.look(6, 1, line("commands", 13, 9), line("replies", 9, 5)) // until all of them have been fired
	l.fired([]int{0})
	l.look(7, -1, line("commands", 13, 9), line("replies", 9, 5))
}

func TestPatience_EndsWhenTheLinesDo(t *testing.T) {
	t.Parallel()
	l := newLookout(t)
	l.look(1, -1, line("commands", 7, 5))
	l.look(2, 2, line("commands", 7, 7))
}

func TestPatience_EndsAfterSomeTime(t *testing.T) {
	t.Parallel()
	l := newLookout(t)
	l.look(1, -1, line("commands", 7, 5))
	l.look(10, -1, line("commands", 7, 5))
	l.look(11, 1, line("commands", 7, 5))
}

func TestPatience_ForgetsLanesOfOthers(t *testing.T) {
	t.Parallel()
	l := newLookout(t)
	l.look(1, -1, line("commands", 7, 5))
	if fire := l.ripe(nil, []int{1}, l.start, time.Second); len(fire[l.start]) != 1 || len(l.holds) != 1 {
		t.Fatalf("%v fires, %v waits", fire, l.holds)
	}
}
