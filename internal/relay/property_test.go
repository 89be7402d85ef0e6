package relay_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/broker"
	"github.com/mainstay-io/mainstay/internal/broker/brokertest"
	"github.com/mainstay-io/mainstay/internal/broker/membroker"
)

// step is one thing that happens to a relay, its broker or its database.
type step struct {
	Do   string
	Lane int
	N    int
}

func steps() *rapid.Generator[[]step] {
	one := rapid.Custom(func(t *rapid.T) step {
		return step{
			Do: rapid.SampledFrom([]string{
				"grow", "grow", "grow", "wait", "lose ack", "fail publish", "database away", "forget all", "forget tail", "restart", "second relay", "repeat",
			}).Draw(t, "do"),
			Lane: rapid.IntRange(0, 2).Draw(t, "lane"),
			N:    rapid.IntRange(1, 12).Draw(t, "n"),
		}
	})
	return rapid.SliceOfN(one, 1, 30)
}

// TestRelay_BrokerEndsWithTheWholeLog plays any faults against the relay. After they have ended, the broker has
// every message, and since it last lost something the first copies stand in order.
func TestRelay_BrokerEndsWithTheWholeLog(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		plan := steps().Draw(rt, "steps")
		var failure error
		synctest.Test(t, func(t *testing.T) { failure = play(t, newBench(), plan) })
		if failure != nil {
			rt.Fatal(failure)
		}
	})
}

func play(t *testing.T, b *bench, plan []step) error {
	t.Helper()
	_, stop := b.start(t, "a")
	for i, s := range plan {
		switch s.Do {
		case "restart":
			stop()
			_, stop = b.start(t, fmt.Sprintf("a%d", i))
		case "second relay":
			_, stopSecond := b.start(t, fmt.Sprintf("b%d", i))
			before := stop
			stop = func() { before(); stopSecond() }
		default:
			b.apply(t, s)
		}
	}
	b.faulty.Set(membroker.Faults{})
	b.db.setFail(nil)
	settle(t, time.Minute)
	stop()
	for lane := range 3 {
		if err := b.check(brokertest.Log(lane)); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) apply(t *testing.T, s step) {
	t.Helper()
	log := brokertest.Log(s.Lane)
	times := s.N
	countdown := func(err error) error {
		if times--; times >= 0 && times%2 == 0 {
			return err
		}
		return nil
	}
	switch s.Do {
	case "grow":
		b.db.grow(log, s.N)
	case "wait":
		settle(t, time.Duration(s.N)*500*time.Millisecond)
	case "lose ack":
		b.faulty.Set(membroker.Faults{AfterPublish: func([]*mainstay.Message) error { return countdown(broker.ErrUnknown) }})
	case "fail publish":
		b.faulty.Set(membroker.Faults{BeforePublish: func([]*mainstay.Message) error { return countdown(broker.ErrUnknown) }})
	case "database away":
		b.db.setFail(func(string) error { return countdown(errStore) })
	case "forget all":
		b.lost = true
		b.mem.Wipe()
	case "forget tail":
		b.lost = true
		b.mem.DropTail(log, s.N)
	case "repeat":
		// A stale relay that publishes without looking.
		if ms := b.mem.Records(log); len(ms) > 0 {
			_, _ = b.mem.Publish(t.Context(), ms[max(0, len(ms)-s.N):], nil)
		}
	}
}

// check holds what the broker has against the log: whoever reads it from its beginning, skips what he has and waits
// for what comes next, gets the whole log.
func (b *bench) check(log mainstay.TopicLane) error {
	head, place := int64(len(b.db.logs[log])), int64(0)
	for _, m := range b.mem.Records(log) {
		if want := b.db.logs[log][m.Sequence-1]; want.ID != m.ID {
			return fmt.Errorf("%v: sequence %d names another message", log, m.Sequence)
		}
		switch {
		case m.Sequence == place+1:
			place++
		case m.Sequence > place+1 && !b.lost:
			return fmt.Errorf("%v: the first copy of %d stands behind that of a later one", log, place+1)
		}
	}
	if place != head {
		return fmt.Errorf("%v: a reader gets %d of %d messages", log, place, head)
	}
	if got := b.db.published(log); got != head {
		return fmt.Errorf("%v: recorded progress is %d of %d", log, got, head)
	}
	if len(b.db.refills) > 0 {
		return fmt.Errorf("refills are left over: %v", b.db.refills)
	}
	return nil
}
