package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/broker"
	"github.com/mainstay-io/mainstay/internal/clock"
	"github.com/mainstay-io/mainstay/internal/lease"
)

// groups are the logs that have something to publish: those that went well together, the others each alone.
func (r *Relay) groups(heads map[mainstay.TopicLane]int64) [][]mainstay.TopicLane {
	var together []mainstay.TopicLane
	var groups [][]mainstay.TopicLane
	for log, head := range heads {
		c := r.logs[log]
		if c == nil {
			continue
		}
		r.noteBehind(c, head)
		switch {
		case !c.compared || c.waits() || head <= c.after:
		case c.apart:
			groups = append(groups, []mainstay.TopicLane{log})
		default:
			together = append(together, log)
		}
	}
	if len(together) > 0 {
		groups = append(groups, together)
	}
	return groups
}

// noteBehind keeps since when the broker lacks something of a log that ends at head.
func (r *Relay) noteBehind(c *cursor, head int64) {
	switch {
	case c.compared && head <= c.after:
		c.succeeded()
	case (c.compared || head > c.after) && c.behind.IsZero():
		c.behind = r.cfg.Clock()
	}
}

// succeeded forgets earlier failures, and that the log was behind.
func (c *cursor) succeeded() { c.behind, c.apart, c.failures, c.err = time.Time{}, false, 0, nil }

// move takes a round of messages from the logs to the broker and records it; more says that one of the logs that it
// moved ends beyond that, at its head. An error is of the database; what the broker says is kept with the logs.
func (r *Relay) move(ctx context.Context, logs []mainstay.TopicLane, heads map[mainstay.TopicLane]int64) (more bool, err error) {
	began := clock.Start()
	after, expect, before := map[mainstay.TopicLane]int64{}, map[mainstay.TopicLane]int64{}, map[mainstay.TopicLane]mark{}
	for _, log := range logs {
		if c := r.logs[log]; c != nil { // nil when the lane was lost in this turn
			after[log], expect[log], before[log] = c.after, c.position, mark{c.position, c.id}
		}
	}
	if len(after) == 0 {
		return false, nil
	}
	msgs, err := r.next(ctx, after)
	if err != nil || len(msgs) == 0 {
		return false, err
	}
	if r.beyond(msgs) {
		return true, nil
	}
	r.readAhead(ctx, msgs, after, heads)
	for _, m := range msgs {
		if c := r.logs[m.TopicLane()]; m.CreatedAt.Before(c.behind) {
			c.behind = m.CreatedAt
		}
	}
	last, err := r.publish(ctx, msgs, expect)
	if err != nil {
		return r.failed(ctx, msgs, err)
	}
	if err := r.doubt(ctx, msgs, before); err != nil {
		return false, err
	}
	r.record(msgs, last)
	r.cfg.Hooks.Round(began.Elapsed())
	for log := range last { // a store may share the round out among the logs, and leave a part of it unused
		c := r.logs[log] // nil when the lane was lost meanwhile
		more = more || c != nil && c.after < heads[log]
	}
	return more, nil
}

func (r *Relay) read(ctx context.Context, after map[mainstay.TopicLane]int64, limit int) ([]*mainstay.Message, error) {
	return r.readIn(ctx, r.past.Era, after, limit)
}

// readIn reads in an era. It may be called by any goroutine.
func (r *Relay) readIn(ctx context.Context, era string, after map[mainstay.TopicLane]int64, limit int) ([]*mainstay.Message, error) {
	ctx, cancel := r.call(ctx, "reading the log")
	defer cancel()
	msgs, err := r.cfg.Store.ReadLogIn(ctx, era, after, limit)
	if err != nil {
		return nil, fmt.Errorf("reading the log: %w", err)
	}
	return msgs, nil
}

// beyond says that one of the messages is of an incarnation that was opened meanwhile, by another relay: it may begin
// before what was read last. The next turn looks.
func (r *Relay) beyond(msgs []*mainstay.Message) bool {
	for _, m := range msgs {
		if m.Incarnation > r.past.Current {
			r.sure = false
			return true
		}
	}
	return false
}

func (r *Relay) publish(ctx context.Context, msgs []*mainstay.Message, expect map[mainstay.TopicLane]int64) (map[mainstay.TopicLane]int64, error) {
	sent := msgs
	if len(r.refused) > 0 {
		sent = make([]*mainstay.Message, len(msgs))
		for i, m := range msgs {
			if sent[i] = m; r.refused[m.ID] {
				sent[i] = tombstone(m)
			}
		}
	}
	ctx, cancel := r.call(ctx, "publishing")
	defer cancel()
	return r.cfg.Broker.Publish(ctx, sent, expect)
}

// tombstone is the marker in the place of m.
func tombstone(m *mainstay.Message) *mainstay.Message {
	return &mainstay.Message{
		ID: m.ID, Topic: m.Topic, Key: m.Key, Type: mainstay.TypeTombstone, Source: "/mainstay/relay",
		CreatedAt: m.CreatedAt, Lane: m.Lane, Incarnation: m.Incarnation, Sequence: m.Sequence,
	}
}

// record moves the cursors behind what the broker has acknowledged. That is written to the database now and then only
// (see Config.Record): until then the broker's tail tells a successor the same.
func (r *Relay) record(msgs []*mainstay.Message, last map[mainstay.TopicLane]int64) {
	if len(r.unrecorded) == 0 {
		r.unrecordedSince = clock.Start()
	}
	for _, m := range msgs {
		log := m.TopicLane()
		c := r.logs[log]
		delete(r.refused, m.ID)
		r.unrecorded[log] = Progress{
			TopicLane: log, Incarnation: m.Incarnation, Sequence: m.Sequence, MessageID: m.ID, BrokerPosition: last[log],
		}
		c.after, c.incarnation, c.position, c.id = m.Sequence, m.Incarnation, last[log], m.ID
		c.succeeded()
	}
	r.cfg.Hooks.Published(len(msgs))
}

// keepRecord saves progress that has waited long enough.
func (r *Relay) keepRecord(ctx context.Context) error {
	if len(r.unrecorded) == 0 || r.unrecordedSince.Elapsed() < r.cfg.Record {
		return nil
	}
	return r.saveUnrecorded(ctx)
}

// saveUnrecorded saves the progress of every log under the leases. When that fails nothing is known, and the logs are
// compared with the broker.
func (r *Relay) saveUnrecorded(ctx context.Context) error {
	if len(r.unrecorded) == 0 {
		return nil
	}
	held := map[int]lease.Lease{}
	for log := range r.unrecorded {
		held[log.Lane] = r.leases[log.Lane]
	}
	latest := r.unrecorded
	r.unrecorded = map[mainstay.TopicLane]Progress{}
	if err := r.save(ctx, latest, held); err != nil {
		for log := range latest {
			r.logs[log].compared = false
		}
		return r.fenced(ctx, err)
	}
	return nil
}

func (r *Relay) save(ctx context.Context, latest map[mainstay.TopicLane]Progress, held map[int]lease.Lease) error {
	ps, leases := make([]Progress, 0, len(latest)), make([]lease.Lease, 0, len(held))
	for _, p := range latest {
		ps = append(ps, p)
	}
	for _, l := range held {
		leases = append(leases, l)
	}
	ctx, cancel := r.call(ctx, "recording the relay's progress")
	defer cancel()
	if err := r.cfg.Store.SaveProgress(ctx, Save{Era: r.past.Era, Incarnation: r.past.Current, Leases: leases, Progress: ps}); err != nil {
		return fmt.Errorf("recording the relay's progress: %w", err)
	}
	return nil
}

// fenced asks at once which lanes are still held, when a write under the leases said that some are not, or that the
// database's history is not what it was, which the next turn looks at.
func (r *Relay) fenced(ctx context.Context, err error) error {
	if !errors.Is(err, lease.ErrFenced) {
		return err
	}
	r.sure = false
	return r.shareNow(ctx)
}

// failed draws the conclusion from a publish that did not succeed; again says that the next turn is due at once.
func (r *Relay) failed(ctx context.Context, msgs []*mainstay.Message, err error) (again bool, _ error) {
	var refused *broker.RefusedError
	if errors.As(err, &refused) && !r.refused[refused.MessageID] {
		return true, r.deadLetter(ctx, msgs, refused)
	}
	r.cfg.Logger.DebugContext(ctx, "a publish did not succeed", slog.Any("err", err), slog.Int("messages", len(msgs)))
	unsettled := map[*cursor]bool{}
	for _, m := range msgs {
		unsettled[r.logs[m.TopicLane()]] = true
	}
	for c := range unsettled {
		if c.fail(err); c.failures == 1 {
			c.pause = 0
		}
	}
	if errors.Is(err, broker.ErrFull) {
		return false, nil
	}
	return false, r.shareNow(ctx)
}

// deadLetter records a message that the broker never takes; from now on a marker is published for it. What was
// stored of its round the comparison tells.
func (r *Relay) deadLetter(ctx context.Context, msgs []*mainstay.Message, refused *broker.RefusedError) error {
	for _, m := range msgs {
		r.logs[m.TopicLane()].compared = false
		if m.ID != refused.MessageID {
			continue
		}
		ctx, cancel := r.call(ctx, "recording a dead letter")
		defer cancel()
		if err := r.cfg.Store.DeadLetter(ctx, m, refused); err != nil {
			return fmt.Errorf("recording a dead letter: %w", err)
		}
		r.refused[m.ID] = true
		r.cfg.Logger.ErrorContext(ctx, "the broker refuses a message for ever, it became a dead letter",
			slog.String("message_id", m.ID), slog.String("topic", m.Topic), slog.Any("err", refused))
	}
	return nil
}
