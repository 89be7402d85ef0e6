package lane

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/broker"
)

// feed reads one lane of the broker for all consumers that hold it in this process.
type feed struct {
	cancel context.CancelFunc
	done   sync.WaitGroup
}

// feed starts, restarts or ends the reading of a lane, after its holders changed.
func (e *Engine) feed(ctx context.Context, n int) {
	if f := e.feeds[n]; f != nil {
		f.cancel()
		f.done.Wait()
		delete(e.feeds, n)
	}
	if len(e.starts(n)) == 0 || ctx.Err() != nil {
		return
	}
	for _, r := range e.runs {
		r.subscribing(n)
	}
	ctx, cancel := context.WithCancel(ctx)
	f := &feed{cancel: cancel}
	e.feeds[n] = f
	f.done.Go(func() { e.read(ctx, n) })
}

func (e *Engine) stopFeeds() {
	for n, f := range e.feeds {
		f.cancel()
		f.done.Wait()
		delete(e.feeds, n)
	}
}

// starts are the lowest places by topic of those that hold the lane.
func (e *Engine) starts(n int) []broker.Start {
	lowest := map[string]Place{}
	for _, r := range e.runs {
		for topic, p := range r.placesOf(n) {
			if l, ok := lowest[topic]; !ok || p.Sequence < l.Sequence {
				lowest[topic] = p
			}
		}
	}
	var starts []broker.Start
	for topic, p := range lowest {
		starts = append(starts, broker.Start{
			TopicLane:   mainstay.TopicLane{Topic: topic, Lane: n},
			Incarnation: p.Incarnation, Sequence: p.Sequence,
		})
	}
	return starts
}

// read delivers what the broker has until ctx ends.
func (e *Engine) read(ctx context.Context, n int) {
	for pause := 50 * time.Millisecond; ctx.Err() == nil; pause = min(2*pause, 2*time.Second) {
		began := e.cfg.Clock()
		err := e.readOnce(ctx, n)
		if ctx.Err() != nil {
			return
		}
		if e.cfg.Clock().Sub(began) > 10*time.Second {
			pause = 50 * time.Millisecond
		}
		e.cfg.Logger.WarnContext(ctx, "reading from the broker was interrupted, trying again; meanwhile the log is read",
			"lane", n, "err", err)
		if !wait(ctx, pause) {
			return
		}
	}
}

func (e *Engine) readOnce(ctx context.Context, n int) (err error) {
	sub, err := e.cfg.Reader.Subscribe(ctx, e.starts(n))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, sub.Close()) }()
	for {
		ms, err := sub.Next(ctx)
		if err != nil {
			return err
		}
		for _, r := range e.runs {
			r.deliver(ms, false)
		}
	}
}

// tellAtMost is the most messages of a commit that are told. Where there are more the broker is no slower, and what it
// brings comes in larger batches, which cost less.
const tellAtMost = 16

// tell gives the consumers what this process has just committed to the log. It does not block.
func (e *Engine) tell(ms []*mainstay.Message) {
	if len(ms) > tellAtMost {
		return
	}
	for _, r := range e.runs {
		r.deliver(ms, true)
	}
}

// sweep compares logs with places, now and then: what the broker did not deliver is read from the database.
func (e *Engine) sweep(ctx context.Context) {
	for wait(ctx, e.cfg.Sweep) {
		heads, err := e.cfg.Store.Heads(ctx)
		if err != nil {
			if ctx.Err() == nil {
				e.cfg.Logger.WarnContext(ctx, "the heads of the logs could not be read, trying again", "err", err)
			}
			continue
		}
		for _, r := range e.runs {
			r.sweep(ctx, heads)
		}
	}
}
