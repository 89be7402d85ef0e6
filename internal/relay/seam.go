package relay

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/broker"
	"github.com/mainstay-io/mainstay/internal/clock"
	"github.com/mainstay-io/mainstay/internal/history"
)

// StrangerError says that a log at the broker holds a message that this database cannot have published, and that no
// restore explains.
type StrangerError struct {
	mainstay.TopicLane
	// Found is what is wrong with the broker's last record.
	Found string
}

// Error names the log and says what to do.
func (e *StrangerError) Error() string {
	return fmt.Sprintf("the broker's log %s/%d is written by somebody else: %s. A topic is published by one database only: "+
		"give this one topics, a broker or a stream of its own", e.Topic, e.Lane, e.Found)
}

// seam makes sure, at the start, after every failure and every few seconds, that this is still the database whose
// logs were compared with the broker's. A database that went back to an earlier moment finds messages there that it
// never wrote, and goes on in a new incarnation.
func (r *Relay) seam(ctx context.Context) error {
	if r.sure && r.seamed.Elapsed() < r.cfg.Check {
		return nil
	}
	past, err := r.history(ctx)
	if err != nil {
		return err
	}
	if past.Era != r.past.Era {
		clear(r.unrecorded) // it may be of what the database has forgotten
	}
	r.learn(past)
	if !past.Compared {
		if err := r.compareAll(ctx); err != nil {
			return err
		}
	}
	r.sure, r.seamed = true, clock.Start()
	return nil
}

// learn takes what the database says of its history; of another one every log is compared anew.
func (r *Relay) learn(past history.Seam) {
	if past.Era != r.past.Era || past.Current != r.past.Current {
		for _, c := range r.logs {
			c.compared = false
		}
	}
	r.past = past
}

func (r *Relay) history(ctx context.Context) (history.Seam, error) {
	ctx, cancel := r.call(ctx, "reading the database's history")
	defer cancel()
	return r.cfg.Store.Seam(ctx)
}

// compareAll holds the ends of all logs at the broker against the database, opens an incarnation if one of them is of
// another history, and then lets workers read.
func (r *Relay) compareAll(ctx context.Context) error {
	for opened := false; ; {
		o, err := r.strangers(ctx)
		if err != nil {
			return err
		}
		if len(o.Logs) == 0 {
			break
		}
		if opened {
			r.hopeless[o.Logs[0]] = o.Reason
			return &StrangerError{o.Logs[0], o.Reason}
		}
		if opened, err = r.open(ctx, o); err != nil {
			return err
		}
	}
	ctx, cancel := r.call(ctx, "noting that log and broker were compared")
	defer cancel()
	if err := r.cfg.Store.Compared(ctx, r.past.Era); err != nil {
		return fmt.Errorf("noting that log and broker were compared: %w", err)
	}
	return nil
}

// open opens an incarnation, and forgets what was settled before. Opened is false where somebody else was faster: the
// logs then have to be looked at again, since that one may have been opened for another reason.
func (r *Relay) open(ctx context.Context, o Opening) (opened bool, err error) {
	r.cfg.Logger.WarnContext(ctx, "the broker has messages that this database never wrote, as after a restore: a new incarnation begins",
		slog.Int64("was", o.Seen), slog.String("found", o.Reason))
	callCtx, cancel := r.call(ctx, "opening an incarnation")
	defer cancel()
	if opened, err = r.cfg.Store.OpenIncarnation(callCtx, o); err != nil {
		return false, fmt.Errorf("opening an incarnation: %w", err)
	}
	for _, c := range r.logs {
		c.compared = false
	}
	return opened, r.sameEra(ctx)
}

// strangers looks at the ends of all logs at the broker; the opening that they make necessary has no logs when there is
// none.
func (r *Relay) strangers(ctx context.Context) (Opening, error) {
	o := Opening{Seen: r.past.Current}
	callCtx, cancel := r.call(ctx, "listing the logs")
	logs, err := r.cfg.Store.Logs(callCtx)
	cancel()
	if err != nil {
		return o, fmt.Errorf("listing the logs: %w", err)
	}
	recorded, err := r.progress(ctx)
	if err != nil {
		return o, err
	}
	for _, log := range logs {
		tail, err := r.tail(ctx, log)
		if err != nil {
			return o, err
		}
		if p := recorded[log]; tail.Position == p.BrokerPosition && tail.MessageID == p.MessageID {
			continue // also where the outbox does not have it any more
		}
		found, err := r.strange(ctx, log, tail)
		if err == nil && found != "" {
			err = r.explain(log, tail, recorded[log], found)
		}
		if err != nil {
			return o, err
		}
		if found != "" {
			o.Above, o.Logs, o.Reason = max(o.Above, tail.Incarnation), append(o.Logs, log), found
		}
	}
	return o, nil
}

// explain gives nil when a restore may be behind what was found at the end of a log: then an incarnation helps that
// begins behind what was published.
func (r *Relay) explain(log mainstay.TopicLane, tail broker.Tail, p Progress, found string) error {
	foreign := tail.Origin != "" && r.cfg.Origin != "" && tail.Origin != r.cfg.Origin
	if foreign {
		found += ", written by database " + tail.Origin + ", and this is " + r.cfg.Origin
	}
	if foreign || tail.Sequence <= p.Sequence || r.hopeless[log] == found {
		return &StrangerError{log, found}
	}
	return nil
}

// strange says what is wrong with a record that this database did not publish in its present history; "" when nothing
// is. A record that was replaced by a later incarnation is explained.
func (r *Relay) strange(ctx context.Context, log mainstay.TopicLane, tail broker.Tail) (string, error) {
	if tail.Sequence < 1 || r.past.Logs[log].Stale(tail.Incarnation, tail.Sequence) {
		return "", nil
	}
	if tail.Incarnation > r.past.Current {
		return fmt.Sprintf("it ends in incarnation %d, and this is %d", tail.Incarnation, r.past.Current), nil
	}
	ms, err := r.read(ctx, map[mainstay.TopicLane]int64{log: tail.Sequence - 1}, 1)
	switch {
	case err != nil:
		return "", err
	case len(ms) == 0:
		return fmt.Sprintf("it ends at %d, where the database has nothing", tail.Sequence), nil
	case ms[0].Sequence == tail.Sequence && ms[0].ID != tail.MessageID:
		return fmt.Sprintf("it has message %s as %d, and the database has %s", tail.MessageID, tail.Sequence, ms[0].ID), nil
	}
	return "", nil
}
