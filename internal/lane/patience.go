package lane

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/mainstay-io/mainstay"
)

// patienceLeases is for how many lease times a timer waits at most for what is in line before it.
const patienceLeases = 2

// Line is how far a log has been handled by those consumers of this database that have it: none of them is behind
// Place.
type Line struct {
	mainstay.TopicLane
	Head, Place int64
}

// patience holds back the timers of a lane that is behind. What a timer would ask for may be in line: the command at
// its participant, or the answer here; to ask once more would only make the line longer. So a timer fires when all
// has been handled that was in line when it was found due, and after that all that came of it meanwhile; at the
// latest after some lease times, whatever the lines do. It belongs to the goroutine of the timers.
type patience struct {
	holds map[int]*hold // by lane
}

// hold is the wait of a lane's timers.
type hold struct {
	since time.Time
	ahead map[string]int64 // by topic: what is to be handled first
	// answers says that ahead is what came of the commands; ripe that the wait is over.
	answers, ripe bool
}

// ripe tells which of the lanes may fire, and the timers of what time: now where nothing is in line.
func (p *patience) ripe(lines []Line, lanes []int, now time.Time, most time.Duration) map[time.Time][]int {
	byLane := map[int][]Line{}
	for _, l := range lines {
		byLane[l.Lane] = append(byLane[l.Lane], l)
	}
	maps.DeleteFunc(p.holds, func(lane int, _ *hold) bool { return !slices.Contains(lanes, lane) })
	fire := map[time.Time][]int{}
	for _, lane := range lanes {
		h := p.holds[lane]
		if h == nil {
			h = &hold{since: now, ahead: heads(byLane[lane])}
		}
		switch {
		case h.ripe:
		case inLine(byLane[lane], heads(byLane[lane])) == 0:
			h.since, h.ripe = now, true
		case now.Sub(h.since) >= most, h.answers && inLine(byLane[lane], h.ahead) == 0:
			h.ripe = true
		case inLine(byLane[lane], h.ahead) == 0:
			h.ahead, h.answers = heads(byLane[lane]), true
		}
		p.holds[lane] = h
		if h.ripe {
			fire[h.since] = append(fire[h.since], lane)
		}
	}
	return fire
}

// fired ends the wait of lanes whose ripe timers have all been fired.
func (p *patience) fired(lanes []int) {
	for _, lane := range lanes {
		delete(p.holds, lane)
	}
}

func heads(lines []Line) map[string]int64 {
	hs := make(map[string]int64, len(lines))
	for _, l := range lines {
		hs[l.Topic] = l.Head
	}
	return hs
}

// inLine counts the messages up to ahead that have not been handled.
func inLine(lines []Line, ahead map[string]int64) (n int64) {
	for _, l := range lines {
		n += max(0, ahead[l.Topic]-l.Place)
	}
	return n
}

// ripe is patience with what the database says now.
func (r *run) ripe(ctx context.Context, p *patience, lanes []int, now time.Time) (map[time.Time][]int, error) {
	lines, err := r.e.cfg.Store.Lines(ctx, slices.Concat(r.c.Topics, r.c.Awaits), lanes)
	if err != nil {
		return nil, err
	}
	return p.ripe(lines, lanes, now, patienceLeases*r.e.cfg.LeaseTTL), nil
}
