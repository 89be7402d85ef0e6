package relay

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/clock"
	"github.com/mainstay-io/mainstay/internal/lease"
)

// second is the second cursor of a log: what is behind after, up to the first cursor, is published once more.
type second struct {
	after int64
}

// refills reads which logs are to be refilled: what others asked for, and what an earlier relay left unfinished.
func (r *Relay) refills(ctx context.Context) error {
	if len(r.leases) == 0 {
		return nil
	}
	ctx, cancel := r.call(ctx, "reading the refills")
	defer cancel()
	fs, err := r.cfg.Store.Refills(ctx)
	if err != nil {
		return fmt.Errorf("reading the refills: %w", err)
	}
	under := make(map[mainstay.TopicLane]Refill, len(fs))
	for _, f := range fs {
		under[f.TopicLane] = f
	}
	for log, c := range r.logs {
		f, ok := under[log]
		switch {
		case !ok:
			c.second = nil
		case c.second == nil:
			r.cfg.Logger.InfoContext(ctx, "a log is published again", slog.String("topic", log.Topic), slog.Int("lane", log.Lane),
				slog.Int64("after", f.Sequence), slog.String("reason", f.Reason))
			c.second = &second{after: f.Sequence}
		default:
			c.second.after = f.Sequence
		}
	}
	return nil
}

// refill begins to publish a log again, behind a sequence.
func (r *Relay) refill(ctx context.Context, log mainstay.TopicLane, after int64, reason string) error {
	ctx, cancel := r.call(ctx, "beginning a refill")
	defer cancel()
	if err := r.cfg.Store.StartRefill(ctx, Refill{TopicLane: log, Sequence: after, Reason: reason}); err != nil {
		return fmt.Errorf("beginning a refill: %w", err)
	}
	c := r.logs[log]
	if c.second == nil || c.second.after > after {
		c.second = &second{after: after}
	}
	return nil
}

// again publishes rounds of the logs that are refilled, each log alone: together half as much as a round of new messages,
// and the last one whole, so that those are not delayed however many logs there are, and the refill ends, whatever is
// accepted meanwhile. More says that there is more.
func (r *Relay) again(ctx context.Context) (more bool, err error) {
	left := max(1, r.cfg.Batch/2)
	for log, c := range r.logs { // in no order, so that each has its turn
		if c.second == nil || !c.compared || c.waits() {
			continue
		}
		if left <= 0 {
			return true, nil
		}
		n, err := r.repeat(ctx, log, c)
		if err != nil {
			return false, err
		}
		left -= n
		more = more || c.second != nil && c.compared
	}
	return more, nil
}

// repeat publishes one round of a refill, of so many messages, and records it.
func (r *Relay) repeat(ctx context.Context, log mainstay.TopicLane, c *cursor) (published int, err error) {
	after := c.second.after
	var msgs []*mainstay.Message
	if after < c.after {
		if msgs, err = r.read(ctx, map[mainstay.TopicLane]int64{log: after}, max(1, r.cfg.Batch/2)); err != nil {
			return 0, err
		}
	}
	if r.beyond(msgs) {
		return 0, nil
	}
	for len(msgs) > 0 && msgs[len(msgs)-1].Sequence > c.after { // the first cursor's
		msgs = msgs[:len(msgs)-1]
	}
	if len(msgs) == 0 {
		return 0, r.skipMissing(ctx, log, c)
	}
	if msgs[0].Sequence > after+1 {
		r.cfg.Logger.WarnContext(ctx, "the outbox no longer has what is to be published again", slog.String("topic", log.Topic),
			slog.Int("lane", log.Lane), slog.Int64("first_retained", msgs[0].Sequence))
	}
	last, err := r.publish(ctx, msgs, map[mainstay.TopicLane]int64{log: c.position})
	if err != nil {
		_, err = r.failed(ctx, msgs, err)
		return 0, err
	}
	if err := r.doubt(ctx, msgs, map[mainstay.TopicLane]mark{log: {c.position, c.id}}); err != nil {
		return 0, err
	}
	end := msgs[len(msgs)-1]
	to := Advance{TopicLane: log, From: after, To: end.Sequence, Done: end.Sequence >= c.after}
	p := Progress{TopicLane: log, Incarnation: c.incarnation, Sequence: c.after, MessageID: end.ID, BrokerPosition: last[log]}
	if err := r.advance(ctx, p, to); err != nil || r.logs[log] != c {
		return 0, err
	}
	c.position, c.id = last[log], end.ID
	r.cfg.Hooks.Published(len(msgs))
	r.cfg.Hooks.Refilled(len(msgs))
	return len(msgs), nil
}

// skipMissing ends a refill that has met the first cursor, or goes on behind messages that left the outbox.
func (r *Relay) skipMissing(ctx context.Context, log mainstay.TopicLane, c *cursor) error {
	after := c.second.after
	to := Advance{TopicLane: log, From: after, To: c.after, Done: true}
	if after < c.after {
		first, err := r.firstRetained(ctx, log)
		if err != nil {
			return err
		}
		if first > after+1 && first <= c.after {
			to.To, to.Done = first-1, false
		}
	}
	return r.advance(ctx, Progress{}, to)
}

// advance records a round of a refill, and then moves the cursor in memory.
func (r *Relay) advance(ctx context.Context, p Progress, to Advance) error {
	log := to.TopicLane
	var ps []Progress
	if p.Sequence > 0 {
		ps = append(ps, p)
	}
	callCtx, cancel := r.call(ctx, "recording a refill")
	defer cancel()
	if err := r.cfg.Store.SaveProgress(callCtx, Save{
		Era: r.past.Era, Incarnation: r.past.Current, Leases: []lease.Lease{r.leases[log.Lane]}, Progress: ps, Refills: []Advance{to},
	}); err != nil {
		r.logs[log].compared = false
		return r.fenced(ctx, fmt.Errorf("recording a refill: %w", err))
	}
	if len(ps) > 0 {
		delete(r.unrecorded, log) // this is later
	}
	c := r.logs[log]
	if c.second.after = to.To; to.Done {
		c.second = nil
		r.cfg.Logger.InfoContext(ctx, "a log was published again", slog.String("topic", log.Topic), slog.Int("lane", log.Lane),
			slog.Int64("up_to", to.To))
	}
	return nil
}

func (r *Relay) firstRetained(ctx context.Context, log mainstay.TopicLane) (int64, error) {
	ctx, cancel := r.call(ctx, "looking for the first message of a log")
	defer cancel()
	first, err := r.cfg.Store.FirstRetained(ctx)
	if err != nil {
		return 0, fmt.Errorf("looking for the first message of a log: %w", err)
	}
	return max(first[log], 1), nil
}

// check looks every few seconds for refills that others asked for, and whether the broker's logs are as they were left.
func (r *Relay) check(ctx context.Context, heads map[mainstay.TopicLane]int64) error {
	if !r.asked.Swap(false) && r.checked.Elapsed() < r.cfg.Check {
		return nil
	}
	r.checked = clock.Start()
	if err := r.refills(ctx); err != nil {
		return err
	}
	for log := range heads {
		c := r.logs[log]
		if c == nil || !c.compared || c.waits() {
			continue
		}
		tail, err := r.tail(ctx, log)
		if err != nil {
			c.fail(err)
			continue
		}
		c.compared = tail.Position == c.position && tail.MessageID == c.id
	}
	return nil
}

// reconnected lets every log be compared anew when the connection was made anew: the broker may have lost its end
// meanwhile, and given the lost positions to others, so that an expected position alone does not tell.
func (r *Relay) reconnected() bool {
	generation := r.cfg.Broker.Generation()
	if generation == r.generation {
		return false
	}
	r.generation = generation
	for _, c := range r.logs {
		c.compared = false
	}
	return true
}

// doubt looks, when the connection was made anew while msgs were published, whether what was the end of their logs
// before still is behind them.
func (r *Relay) doubt(ctx context.Context, msgs []*mainstay.Message, before map[mainstay.TopicLane]mark) error {
	if !r.reconnected() {
		return nil
	}
	for _, m := range msgs {
		log := m.TopicLane()
		was, ok := before[log]
		if !ok {
			continue
		}
		delete(before, log)
		kept, err := r.keeps(ctx, log, was)
		if err != nil {
			return err
		}
		if kept {
			continue
		}
		from, err := r.needed(ctx, log, m.Sequence-1)
		if err != nil {
			return err
		}
		if err := r.lost(ctx, log, from, "it took a message for the next one, and did not have the last"); err != nil {
			return err
		}
	}
	return nil
}

// mark is the last record of a log.
type mark struct {
	position int64
	id       string
}

// keeps says whether the broker still has a record where it was.
func (r *Relay) keeps(ctx context.Context, log mainstay.TopicLane, m mark) (bool, error) {
	if m.position == 0 {
		return true, nil
	}
	ctx, cancel := r.call(ctx, "looking at a record of the broker")
	defer cancel()
	at, err := r.cfg.Broker.At(ctx, log, m.position)
	if err != nil {
		return false, fmt.Errorf("looking at a record of the broker: %w", err)
	}
	return at.MessageID == m.id, nil
}

// lost says that the broker lost messages behind a sequence, and begins to publish them again.
func (r *Relay) lost(ctx context.Context, log mainstay.TopicLane, after int64, found string) error {
	r.cfg.Logger.WarnContext(ctx, "broker lost messages, refilling", slog.String("topic", log.Topic), slog.Int("lane", log.Lane),
		slog.Int64("published", r.logs[log].after), slog.Int64("from", after+1), slog.String("found", found))
	return r.refill(ctx, log, after, "the broker lost messages: "+found)
}
