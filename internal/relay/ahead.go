package relay

import (
	"context"
	"maps"
	"sync"

	"github.com/mainstay-io/mainstay"
)

// ahead is a round that is read while the one before it is published. It is a guess, which may be wrong: what was read
// of a log counts only if the log has come to where the reading began, in the same history of the database. What was
// read in the era that was compared may be published in it, a round later as well: nothing of another era comes between.
type ahead struct {
	after   map[mainstay.TopicLane]int64
	era     string
	current int64
	reading sync.WaitGroup // msgs and err are there when it has ended
	msgs    []*mainstay.Message
	err     error
}

// wait blocks until the reading has ended, which the timeout of a call bounds.
func (a *ahead) wait() {
	if a != nil {
		a.reading.Wait()
	}
}

// readAhead begins to read what comes behind msgs, a round of the logs of after, where there is more.
func (r *Relay) readAhead(ctx context.Context, msgs []*mainstay.Message, after, heads map[mainstay.TopicLane]int64) {
	next := maps.Clone(after)
	for _, m := range msgs {
		next[m.TopicLane()] = m.Sequence
	}
	maps.DeleteFunc(next, func(log mainstay.TopicLane, sequence int64) bool { return heads[log] <= sequence })
	if len(next) == 0 {
		return
	}
	a := &ahead{after: next, era: r.past.Era, current: r.past.Current}
	r.ahead = a
	a.reading.Go(func() { a.msgs, a.err = r.readIn(ctx, a.era, a.after, r.cfg.Batch) })
}

// next gives a round of the logs, each behind its sequence: what was read ahead, and of the other logs what there is.
func (r *Relay) next(ctx context.Context, after map[mainstay.TopicLane]int64) ([]*mainstay.Message, error) {
	a := r.ahead
	r.ahead = nil
	if a.wait(); a == nil || a.err != nil || a.era != r.past.Era || a.current != r.past.Current {
		return r.read(ctx, after, r.cfg.Batch)
	}
	var msgs []*mainstay.Message
	for _, m := range a.msgs {
		if sequence, ok := after[m.TopicLane()]; ok && sequence == a.after[m.TopicLane()] {
			msgs = append(msgs, m)
		}
	}
	if len(msgs) == 0 {
		return r.read(ctx, after, r.cfg.Batch)
	}
	others := maps.Clone(after)
	maps.DeleteFunc(others, func(log mainstay.TopicLane, sequence int64) bool {
		from, ok := a.after[log]
		return ok && from == sequence
	})
	if room := r.cfg.Batch - len(msgs); room > 0 && len(others) > 0 {
		read, err := r.read(ctx, others, room)
		return append(msgs, read...), err
	}
	return msgs, nil
}
