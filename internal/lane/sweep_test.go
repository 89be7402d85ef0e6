package lane_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/broker/membroker"
	"github.com/mainstay-io/mainstay/internal/lane"
)

// TestEngine_SaysThatALaneStandsStill, whatever the reason: the consumer is not ready, and the log says so.
func TestEngine_SaysThatALaneStandsStill(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.reader = membroker.New(membroker.Options{})
	w.send(event("things", "k", "1"))
	out := &logged{}
	ran := w.start(func(c *lane.Config, s *faultyStore) {
		c.Logger, c.Sweep = slog.New(out), time.Millisecond
		s.blank.Store(true)
	}, handle("c", []string{"things"}, func(context.Context, *mainstay.Message) error { return nil }))
	t.Cleanup(ran.end)
	log := w.logOf("things", "k")
	w.until("it says so", func() bool {
		err := ran.ready()
		return err != nil && strings.Contains(err.Error(), "things/"+string(rune('0'+log.Lane))+" stands still behind 0")
	})
	w.until("it was logged", func() bool { return out.count("a lane stands still") > 0 })
	ran.store.blank.Store(false)
	w.until("the lane goes on", func() bool { return len(w.effects("c")) == 1 && ran.ready() == nil })
}

// TestEngine_ReadsALaneAnewOfWhichItHasAWrongIdea: a message that it takes for parked, and the database does not, must
// not stop its key for ever.
func TestEngine_ReadsALaneAnewOfWhichItHasAWrongIdea(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.send(event("things", "k", "1"))
	healed := make(chan struct{})
	c := handle("c", []string{"things"}, func(context.Context, *mainstay.Message) error {
		select {
		case <-healed:
			return nil
		default:
			return errors.New("not yet")
		}
	})
	first := w.start(func(c *lane.Config, _ *faultyStore) { c.Retry.Budget = time.Hour }, c)
	w.until("the message is parked", func() bool { return w.number("select count(*) from parked") == 1 })
	first.end()
	close(healed)
	w.rows("update parked set due_at = due_at + 2000000 where state = 'retry'") // it is in nobody's memory, and not due
	out := &logged{}
	second := w.start(func(c *lane.Config, _ *faultyStore) { c.Logger = slog.New(out) }, c)
	t.Cleanup(second.end)
	w.until("the lanes were read", func() bool { return second.ready() == nil })
	w.rows("delete from parked")
	w.send(event("things", "k", "2"))
	w.until("the next one was handled", func() bool { return len(w.effects("c")) == 1 })
	if out.count("is not there any more") == 0 {
		t.Error("nothing was said of it")
	}
}
