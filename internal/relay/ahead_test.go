package relay_test

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/broker"
	"github.com/mainstay-io/mainstay/internal/broker/brokertest"
	"github.com/mainstay-io/mainstay/internal/broker/membroker"
	"github.com/mainstay-io/mainstay/internal/relay"
)

// counting lets the n-th read of the log do something first.
func counting(reads *atomic.Int64, n int64, first func()) func(call string) error {
	return func(call string) error {
		if call == "read" && reads.Add(1) == n && first != nil {
			first()
		}
		return nil
	}
}

func sequenceUpTo(n int64) (all []int64) {
	for s := int64(1); s <= n; s++ {
		all = append(all, s)
	}
	return all
}

// TestRelay_ReadsTheNextRoundWhileItPublishes holds the first publish until the second round was read.
func TestRelay_ReadsTheNextRoundWhileItPublishes(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		const n = 2*relay.DefaultBatch + relay.DefaultBatch/2
		log := brokertest.Log(0)
		b.db.grow(log, n)
		second, rounds := make(chan struct{}), 0
		var reads atomic.Int64
		b.db.setFail(counting(&reads, 2, func() { close(second) }))
		b.faulty.Set(membroker.Faults{BeforePublish: func([]*mainstay.Message) error {
			if rounds++; rounds == 1 {
				<-second
			}
			return nil
		}})
		_, stop := b.start(t, "a")
		defer stop()
		synctest.Wait()
		b.wantBroker(t, log, sequenceUpTo(n)...)
		if rounds != 3 || reads.Load() != 3 {
			t.Fatalf("%d rounds, %d reads, want 3 of each", rounds, reads.Load())
		}
	})
}

// TestRelay_ReadsAnewWhatItReadAheadInVain fails a publish whose messages were not stored, after the next round was read.
func TestRelay_ReadsAnewWhatItReadAheadInVain(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		const n = 3 * relay.DefaultBatch
		log := brokertest.Log(0)
		b.db.grow(log, n)
		rounds := 0
		b.faulty.Set(membroker.Faults{BeforePublish: func([]*mainstay.Message) error {
			if rounds++; rounds == 2 {
				return broker.ErrUnknown
			}
			return nil
		}})
		_, stop := b.start(t, "a")
		defer stop()
		settle(t, relay.DefaultCheck)
		b.wantBroker(t, log, sequenceUpTo(n)...)
	})
}

// TestRelay_GivesOtherLogsTheRoomThatIsLeft has a log grow while the next round of another one was read already.
func TestRelay_GivesOtherLogsTheRoomThatIsLeft(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		const n = relay.DefaultBatch + 10
		long, late := brokertest.Log(0), brokertest.Log(1)
		b.db.grow(long, n)
		var sizes []int
		var reads atomic.Int64
		read := make(chan struct{})
		b.db.setFail(counting(&reads, 2, func() { close(read) }))
		b.faulty.Set(membroker.Faults{BeforePublish: func(ms []*mainstay.Message) error {
			if sizes = append(sizes, len(ms)); len(sizes) == 1 {
				<-read
				b.db.grow(late, 5)
			}
			return nil
		}})
		_, stop := b.start(t, "a")
		defer stop()
		synctest.Wait()
		b.wantBroker(t, long, sequenceUpTo(n)...)
		b.wantBroker(t, late, sequenceUpTo(5)...)
		if len(sizes) != 2 || sizes[1] != 15 {
			t.Fatalf("rounds of %v, want the late log in the second", sizes)
		}
	})
}

// TestRelay_PublishesNothingThatItReadAheadInAnotherEra ends the era while a round that was read in it waits, and the
// database has other messages then.
func TestRelay_PublishesNothingThatItReadAheadInAnotherEra(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		const n = 2 * relay.DefaultBatch
		log := brokertest.Log(0)
		b.db.grow(log, n)
		rounds, read := 0, make(chan struct{})
		var reads atomic.Int64
		b.db.setFail(counting(&reads, 2, func() { close(read) }))
		b.faulty.Set(membroker.Faults{BeforePublish: func([]*mainstay.Message) error {
			if rounds++; rounds != 1 {
				return nil
			}
			<-read
			b.db.mu.Lock()
			b.db.past.Era, b.db.past.Compared = "2", false
			for _, m := range b.db.logs[log][relay.DefaultBatch:] {
				other := *m
				other.ID = "another-" + m.ID
				b.db.logs[log][m.Sequence-1] = &other
			}
			b.db.mu.Unlock()
			timer := time.NewTimer(relay.DefaultCheck) // the relay looks at the history before its next round
			<-timer.C
			return nil
		}})
		_, stop := b.start(t, "a")
		defer stop()
		settle(t, relay.DefaultCheck)
		for _, m := range b.mem.Records(log)[relay.DefaultBatch:] {
			if want := "another-" + brokertest.Message(log, m.Sequence).ID; m.ID != want {
				t.Fatalf("%d is %s, which was read in the era before", m.Sequence, m.ID)
			}
		}
		b.wantBroker(t, log, sequenceUpTo(n)...)
	})
}
