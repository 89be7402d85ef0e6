package relay

import (
	"context"
	"errors"
	"fmt"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/broker"
	"github.com/mainstay-io/mainstay/internal/clock"
	"github.com/mainstay-io/mainstay/internal/lease"
)

// compare settles, for every log that is not settled, where the relay goes on: behind what was published, which the
// broker may have lost meanwhile. A log whose tail cannot be looked at waits by itself.
func (r *Relay) compare(ctx context.Context, heads map[mainstay.TopicLane]int64) error {
	var recorded map[mainstay.TopicLane]Progress
	for log := range heads {
		c := r.logs[log]
		if c == nil || c.compared || c.waits() { // nil when the lane was lost in this turn
			continue
		}
		if recorded == nil {
			err := r.saveUnrecorded(ctx)
			if err != nil {
				return err
			}
			if err := r.sameEra(ctx); err != nil {
				return err
			}
			if recorded, err = r.progress(ctx); err != nil {
				return err
			}
			if err := r.refills(ctx); err != nil {
				return err
			}
			if c = r.logs[log]; c == nil {
				continue
			}
		}
		tail, err := r.tail(ctx, log)
		if err != nil {
			c.fail(err)
			continue
		}
		if err := r.settle(ctx, log, recorded[log], tail); err != nil {
			return err
		}
	}
	return nil
}

// sameEra reads the database's history anew: another relay, which had a lane before, may have published what was
// recorded there in an incarnation that this one does not know yet. An error says that it is another era.
func (r *Relay) sameEra(ctx context.Context) error {
	past, err := r.history(ctx)
	if err != nil {
		return err
	}
	if past.Era != r.past.Era {
		return fmt.Errorf("the database may have gone back to an earlier moment: %w", lease.ErrFenced)
	}
	r.learn(past)
	return nil
}

// settle sets the log's cursor from what was recorded and what the broker has.
func (r *Relay) settle(ctx context.Context, log mainstay.TopicLane, p Progress, tail broker.Tail) error {
	c := r.logs[log]
	// Another relay may have recorded, in the incarnation of before, what has other names by now.
	c.after, c.incarnation = min(p.Sequence, r.past.Logs[log].Next(p.Incarnation, p.Sequence)-1), p.Incarnation
	if tail.Position != p.BrokerPosition || tail.MessageID != p.MessageID {
		known, err := r.knows(ctx, log, tail)
		if err != nil {
			return err
		}
		if !known {
			if found, err := r.strange(ctx, log, tail); err != nil || found != "" {
				return errors.Join(err, r.refuse(ctx, log, p, tail, found))
			}
		}
		// What was lost is noted before the tail is recorded: afterwards nothing tells of it any more.
		if sure, err := r.mourn(ctx, log, p, tail, known); err != nil || !sure {
			return err
		}
		if known && tail.Sequence > p.Sequence { // stored, but the acknowledgement was lost
			if err := r.adopt(ctx, log, tail); err != nil || r.logs[log] != c {
				return err
			}
			c.after, c.incarnation = tail.Sequence, tail.Incarnation
		}
	}
	c.compared, c.position, c.id = true, tail.Position, tail.MessageID
	return nil
}

// refuse deals with a log whose end is of another history. Where an incarnation can begin behind what was published and
// handled of it, it does; else the log waits for a person.
func (r *Relay) refuse(ctx context.Context, log mainstay.TopicLane, p Progress, tail broker.Tail, found string) error {
	if found == "" {
		return nil
	}
	if err := r.explain(log, tail, p, found); err != nil {
		r.logs[log].fail(err)
		return nil // it is kept with the log
	}
	opened, err := r.open(ctx, Opening{Seen: r.past.Current, Above: tail.Incarnation, Logs: []mainstay.TopicLane{log}, Reason: found})
	if err != nil || !opened {
		return err // where somebody else has opened one, the log is compared anew
	}
	if found, err = r.strange(ctx, log, tail); found != "" {
		r.hopeless[log] = found
	}
	return err
}

// mourn finds out what was lost of a log whose tail is not the recorded one, and begins to publish it again. As long
// as the recorded record stands where it was, nothing is lost, and what is behind it came without a record: a round
// whose acknowledgement was lost, another relay's, or a stranger's. Sure is false of a log whose record cannot be looked
// at: it waits.
func (r *Relay) mourn(ctx context.Context, log mainstay.TopicLane, p Progress, tail broker.Tail, known bool) (sure bool, err error) {
	kept, err := r.keeps(ctx, log, mark{p.BrokerPosition, p.MessageID})
	if err != nil {
		r.logs[log].fail(err)
		return false, nil // it is kept with the log
	}
	if kept {
		return true, nil
	}
	found := fmt.Sprintf("it ends at %d", tail.Sequence)
	if known && tail.Position < p.BrokerPosition {
		return true, r.lost(ctx, log, tail.Sequence, found) // it went back to an earlier state, of which this was the end
	}
	if !known && tail.Position > 0 {
		found = "it ends with a message that the log does not have"
	}
	from, err := r.needed(ctx, log, p.Sequence)
	if err != nil || from >= p.Sequence {
		return true, err
	}
	return true, r.lost(ctx, log, from, found)
}

// adopt records what the broker was found to have; the log has no cursor afterwards when its lane was lost.
func (r *Relay) adopt(ctx context.Context, log mainstay.TopicLane, tail broker.Tail) error {
	p := Progress{
		TopicLane: log, Incarnation: tail.Incarnation, Sequence: tail.Sequence, MessageID: tail.MessageID, BrokerPosition: tail.Position,
	}
	held := map[int]lease.Lease{log.Lane: r.leases[log.Lane]}
	if err := r.save(ctx, map[mainstay.TopicLane]Progress{log: p}, held); err != nil {
		return r.fenced(ctx, err)
	}
	return nil
}

// needed is the sequence up to which nobody needs the broker's copy any more: where the last registered consumer is.
// For readers that are not registered a log without consumers is filled again as a whole, unless it is empty because
// the broker has let go of old messages.
func (r *Relay) needed(ctx context.Context, log mainstay.TopicLane, published int64) (int64, error) {
	placesCtx, cancel := r.call(ctx, "reading the lowest places")
	defer cancel()
	places, err := r.cfg.Store.MinPlaces(placesCtx)
	if err != nil {
		return 0, fmt.Errorf("reading the lowest places: %w", err)
	}
	if place, registered := places[log]; registered {
		return min(place, published), nil
	}
	aged, err := r.aged(ctx, log, published)
	if err != nil || !aged {
		return 0, err
	}
	return published, nil
}

// aged says whether the broker has had the message for so long that it need not have it any more.
func (r *Relay) aged(ctx context.Context, log mainstay.TopicLane, sequence int64) (bool, error) {
	if r.cfg.Keep <= 0 || sequence < 1 {
		return false, nil
	}
	ms, err := r.read(ctx, map[mainstay.TopicLane]int64{log: sequence - 1}, 1)
	if err != nil || len(ms) == 0 {
		return false, err
	}
	return r.cfg.Clock().Sub(ms[0].CreatedAt) >= r.cfg.Keep, nil
}

// knows says whether the broker's last record is the log's message of that sequence.
func (r *Relay) knows(ctx context.Context, log mainstay.TopicLane, tail broker.Tail) (bool, error) {
	if tail.Sequence < 1 {
		return false, nil
	}
	ms, err := r.read(ctx, map[mainstay.TopicLane]int64{log: tail.Sequence - 1}, 1)
	if err != nil {
		return false, err
	}
	return len(ms) == 1 && ms[0].Sequence == tail.Sequence && ms[0].ID == tail.MessageID && ms[0].Incarnation == tail.Incarnation, nil
}

func (r *Relay) tail(ctx context.Context, log mainstay.TopicLane) (broker.Tail, error) {
	ctx, cancel := r.call(ctx, "looking at the broker's tail")
	defer cancel()
	tail, err := r.cfg.Broker.Tail(ctx, log)
	if err != nil {
		return tail, fmt.Errorf("looking at the broker's tail: %w", err)
	}
	return tail, nil
}

func (r *Relay) progress(ctx context.Context) (map[mainstay.TopicLane]Progress, error) {
	ctx, cancel := r.call(ctx, "reading the relay's progress")
	defer cancel()
	ps, err := r.cfg.Store.Progress(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the relay's progress: %w", err)
	}
	byLog := make(map[mainstay.TopicLane]Progress, len(ps))
	for _, p := range ps {
		byLog[p.TopicLane] = p
	}
	return byLog, nil
}

// fail lets the log be compared anew and published alone, after a pause.
func (c *cursor) fail(err error) {
	c.compared, c.apart, c.err = false, true, err
	c.failures++
	c.failed, c.pause = clock.Start(), backoff(c.failures)
}

// waits says whether the log is in the pause after a failure.
func (c *cursor) waits() bool { return c.failures > 0 && c.failed.Elapsed() < c.pause }
