package lane

import (
	"context"
	"fmt"
	"math/bits"
	"time"

	"github.com/mainstay-io/mainstay"
)

// stillSweeps is after how many sweeps a lane that is behind its log, and has not moved, is said to stand still. It is
// said again after twice as many, and so on. Whatever is tried again and again without a word of its own is found by
// this. A pause of the whole process counts for nothing.
const stillSweeps = 30

// swept is what the sweeps have seen of a log: at is the place, behind how many of them in a row have found it there
// while the log went on.
type swept struct {
	at     mark
	behind int
}

// sweep lets lanes that are behind the log, and have not moved since the last sweep, read it, and reports those that do
// not move for long.
func (r *run) sweep(ctx context.Context, heads map[mainstay.TopicLane]int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, ls := range r.lanes {
		if ls.cameHome(heads) {
			r.readAnew(ls)
			continue
		}
		for topic, p := range ls.places {
			s := ls.swept[topic]
			switch {
			case s.at != p.mark() || heads[p.TopicLane] <= p.Sequence:
				s = swept{at: p.mark()}
			default:
				s.behind++
				ls.lacks[topic] = ls.lacks[topic] || len(ls.buf[topic]) == 0
			}
			ls.swept[topic] = s
			if n := s.behind / stillSweeps; s.behind%stillSweeps == 0 && bits.OnesCount(uint(n)) == 1 {
				r.reportStill(ctx, ls, p, heads[p.TopicLane])
			}
		}
	}
	r.signal()
}

// reportStill logs a lane that stands still, with what its owner has in mind of it; r.mu is held.
func (r *run) reportStill(ctx context.Context, ls *laneState, p Place, head int64) {
	r.e.cfg.Logger.WarnContext(ctx, "a lane stands still, though its log goes on", "consumer", r.c.Name, "topic", p.Topic, "lane", p.Lane,
		"handled", p.Sequence, "in_log", head, "for", r.stillFor(ls, p).String(), "incarnation", p.Incarnation, "current", ls.current,
		"arrived", len(ls.buf[p.Topic]), "busy", ls.busy, "alone", ls.alone(), "leaving", ls.leaving)
}

func (r *run) stillFor(ls *laneState, p Place) time.Duration {
	return time.Duration(ls.swept[p.Topic].behind) * r.e.cfg.Sweep
}

// still names a lane that stands still; "" when none does.
func (r *run) still() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	for n, ls := range r.lanes {
		for topic, s := range ls.swept {
			if p := ls.places[topic]; s.behind >= stillSweeps && s.at == p.mark() {
				return fmt.Sprintf("lane %s/%d stands still behind %d for %v, though its log goes on; the log of this process may say why",
					topic, n, p.Sequence, r.stillFor(ls, p))
			}
		}
	}
	return ""
}
