package relay_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/broker/brokertest"
	"github.com/mainstay-io/mainstay/internal/relay"
)

// sharing is a database that gives each log an equal share of a round, as PostgreSQL's does.
type sharing struct{ *database }

func (s sharing) ReadLogIn(ctx context.Context, era string, after map[mainstay.TopicLane]int64, limit int) ([]*mainstay.Message, error) {
	return s.database.ReadLogIn(ctx, era, after, limit/len(after)*len(after))
}

// A backlog is moved at once, and not a round at each poll, also when no round is as large as it may be.
func TestRelay_GoesOnWhileALogHasMore(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		const each = 20
		for lane := range 3 {
			b.db.grow(brokertest.Log(lane), each)
		}
		r := relay.New(relay.Config{Store: sharing{b.db}, Leases: b.db, Broker: b.faulty, Holder: "a", Lanes: 4, Batch: 10})
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = r.Run(ctx) })
		synctest.Wait() // until it has nothing to do but to wait for time
		for lane := range 3 {
			if got := len(b.mem.Records(brokertest.Log(lane))); got != each {
				t.Errorf("lane %d was published up to %d of %d without a pause", lane, got, each)
			}
		}
		cancel()
		running.Wait()
	})
}
