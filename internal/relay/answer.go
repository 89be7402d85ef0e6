package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/mainstay-io/mainstay/internal/broker"
)

// Answer answers a question of another database about logs of this one; false when this one has never written to the
// topic, or when this relay refuses the topic, as another database's messages are there: then that one is to answer.
// What is asked for again is published again by whoever has the lane, from the first message that is kept. It may be
// called while Run runs.
func (r *Relay) Answer(ctx context.Context, q broker.Question) (broker.Answer, bool) {
	a, mine, err := r.answer(ctx, q)
	if err != nil {
		r.cfg.Logger.WarnContext(ctx, "a question of another database is not answered", slog.String("topic", q.Topic), slog.Any("err", err))
		return a, false
	}
	return a, mine
}

func (r *Relay) answer(ctx context.Context, q broker.Question) (broker.Answer, bool, error) {
	a := broker.Answer{Origin: r.cfg.Origin}
	if stranger := new(StrangerError); errors.As(r.Ready(), &stranger) && stranger.Topic == q.Topic {
		return a, false, nil
	}
	ctx, cancel := r.call(ctx, "answering a question of another database")
	defer cancel()
	past, err := r.cfg.Store.Seam(ctx)
	if err != nil || !past.Compared { // it may be about to open an incarnation
		return a, false, err
	}
	heads, err := r.cfg.Store.Heads(ctx)
	if err != nil {
		return a, false, err
	}
	floors, err := r.cfg.Store.FirstRetained(ctx)
	if err != nil {
		return a, false, err
	}
	mine := false
	for log := range heads {
		mine = mine || log.Topic == q.Topic
	}
	if !mine {
		return a, false, nil
	}
	asked := map[int]bool{}
	for _, w := range q.Logs {
		if w.Lane < 0 || w.Lane >= r.cfg.Lanes || asked[w.Lane] {
			continue
		}
		asked[w.Lane] = true
		log, past := q.Log(w.Lane), past.Logs[q.Log(w.Lane)]
		h := broker.Held{Lane: w.Lane, First: max(floors[log], 1), Last: heads[log], Past: past}
		h.FirstIncarnation, h.LastIncarnation = max(past.At(h.First), 1), max(past.At(h.Last), 1)
		a.Logs = append(a.Logs, h)
		if from := max(w.After, h.First-1); w.Again && from < h.Last {
			reason := fmt.Sprintf("a consumer in another database lacks what is behind %d", w.After)
			if err := r.cfg.Store.StartRefill(ctx, Refill{TopicLane: log, Sequence: from, Reason: reason}); err != nil {
				return a, mine, err
			}
			r.asked.Store(true)
		}
	}
	return a, mine, nil
}
