package relay_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/broker/brokertest"
	"github.com/mainstay-io/mainstay/internal/history"
	"github.com/mainstay-io/mainstay/internal/relay"
)

// restore takes the database back to where a log had n messages, in a new era.
func (b *bench) restore(log mainstay.TopicLane, n int) {
	b.db.mu.Lock()
	defer b.db.mu.Unlock()
	b.db.logs[log] = b.db.logs[log][:n:n]
	m := b.db.logs[log][n-1]
	b.db.progress[log] = relay.Progress{
		TopicLane: log, Incarnation: m.Incarnation, Sequence: m.Sequence, MessageID: m.ID, BrokerPosition: m.Sequence,
	}
	b.db.past.Era, b.db.past.Compared = b.db.past.Era+"+", false
}

// other gives the log's next messages other ids than the ones that were there before.
func (b *bench) other(log mainstay.TopicLane, n int) {
	b.db.grow(log, n)
	b.db.mu.Lock()
	defer b.db.mu.Unlock()
	for _, m := range b.db.logs[log][len(b.db.logs[log])-n:] {
		m.ID = "0190f5fe-ffff-7c44-8e1a-" + m.ID[24:]
	}
}

func TestRelay_OpensAnIncarnationBehindABrokerThatIsAhead(t *testing.T) {
	t.Parallel()
	for name, running := range map[string]bool{"restored before the start": false, "restored under a running relay": true} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, b *bench) {
				log := brokertest.Log(0)
				b.db.grow(log, 10)
				_, stop := b.start(t, "a")
				synctest.Wait()
				if !running {
					stop()
				}
				b.restore(log, 6)
				b.other(log, 2) // accepted and numbered before anybody has compared
				if !running {
					_, stop = b.start(t, "a")
				}
				defer func() { stop() }()
				settle(t, relay.DefaultCheck+relay.DefaultPoll)
				b.wantBroker(t, log, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 7, 8)
				want := history.Log{{ID: 2, First: 7}}
				if diff := cmp.Diff(want, b.db.past.Logs[log]); diff != "" {
					t.Fatalf("incarnations (-want +got):\n%s", diff)
				}
				for _, m := range b.mem.Records(log)[10:] {
					if m.Incarnation != 2 || m.Since != 7 || !strings.HasPrefix(m.ID, "0190f5fe-ffff") {
						t.Fatalf("published %+v", m)
					}
				}
				if !b.db.past.Compared {
					t.Fatal("workers are not let in")
				}
				b.db.grow(log, 1)
				synctest.Wait()
				settle(t, 2*relay.DefaultCheck)
				b.wantBroker(t, log, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 7, 8, 9)
				if b.db.past.Current != 2 {
					t.Fatalf("incarnation %d was opened for nothing", b.db.past.Current)
				}
			})
		})
	}
}

// TestRelay_OpensAgainWhatSomebodyElseHasOpenedWithoutTheLog: the sequencer, which noticed the restore by itself, was
// faster. That explains nothing of this log, and is no reason to refuse it either.
func TestRelay_OpensAgainWhatSomebodyElseHasOpenedWithoutTheLog(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		log := brokertest.Log(0)
		b.db.grow(log, 10)
		_, stop := b.start(t, "a")
		settle(t, relay.DefaultRecord)
		stop()
		b.restore(log, 6)
		b.db.setFail(func(call string) error {
			if call == "open" && b.db.past.Current == 1 {
				b.db.past.Current = 2
			}
			return nil
		})
		r, stop := b.start(t, "a")
		defer stop()
		settle(t, relay.DefaultTTL+relay.DefaultCheck)
		if err := r.Ready(); err != nil || b.db.past.Current != 3 || !b.db.past.Compared {
			t.Fatalf("ready says %v, the history is %+v", err, b.db.past)
		}
	})
}

func TestRelay_KnowsWhatAnEarlierIncarnationLeft(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		log := brokertest.Log(0)
		b.db.grow(log, 10)
		_, stop := b.start(t, "a")
		synctest.Wait()
		stop()
		for range 2 { // the second time the broker still ends with what the first restore has left
			b.restore(log, 6)
			_, stop = b.start(t, "a")
			settle(t, relay.DefaultTTL+relay.DefaultCheck)
			stop()
		}
		if b.db.past.Current != 2 || !b.db.past.Compared {
			t.Fatalf("the history is %+v", b.db.past)
		}
	})
}

// TestRelay_ComparesALogThatHasLeftTheOutbox: the broker may have been filled with it late, and keep it longer than the
// outbox does. What was recorded is not somebody else's.
func TestRelay_ComparesALogThatHasLeftTheOutbox(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		log := brokertest.Log(0)
		b.db.grow(log, 5)
		_, stop := b.start(t, "a")
		settle(t, relay.DefaultRecord)
		stop()
		b.db.gone = 5
		b.db.past.Era, b.db.past.Compared = b.db.past.Era+"+", false
		r, stop := b.start(t, "a")
		defer stop()
		settle(t, relay.DefaultTTL)
		if err := r.Ready(); err != nil || !b.db.past.Compared || b.db.past.Current != 1 {
			t.Fatalf("ready says %v, the history is %+v", err, b.db.past)
		}
		b.db.grow(log, 1)
		settle(t, relay.DefaultRecord)
		b.wantBroker(t, log, 1, 2, 3, 4, 5, 6)
	})
}

func TestRelay_RefusesALogThatSomebodyElseWrites(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		log := brokertest.Log(0)
		b.db.grow(log, 5)
		r, stop := b.start(t, "a")
		defer stop()
		synctest.Wait()
		foreign := brokertest.Message(log, 3)
		foreign.ID = "0190f5fe-7a3b-7c44-8e1a-2b7c5d9e0f11"
		if _, err := b.mem.Publish(t.Context(), []*mainstay.Message{foreign}, nil); err != nil {
			t.Fatal(err)
		}
		b.db.grow(log, 1)
		settle(t, time.Minute)
		var stranger *relay.StrangerError
		if err := r.Ready(); !errors.As(err, &stranger) || stranger.TopicLane != log {
			t.Fatalf("ready says %v", err)
		}
		if b.db.past.Current != 1 {
			t.Fatalf("incarnation %d was opened, which explains nothing", b.db.past.Current)
		}
	})
}

// TestRelay_PublishesWhatWasPublishedInTheIncarnationOfBefore: another relay did, before it knew of the new one. Readers
// step over what is of the old one.
func TestRelay_PublishesWhatWasPublishedInTheIncarnationOfBefore(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		log := brokertest.Log(0)
		b.db.grow(log, 6)
		_, stop := b.start(t, "a")
		settle(t, relay.DefaultRecord)
		stop()
		b.db.progress[log] = relay.Progress{TopicLane: log, Incarnation: 1, Sequence: 3, BrokerPosition: 3, MessageID: b.db.logs[log][2].ID}
		late := relay.Progress{TopicLane: log, Incarnation: 1, Sequence: 6, BrokerPosition: 6, MessageID: b.db.logs[log][5].ID}
		if _, err := b.db.OpenIncarnation(t.Context(), relay.Opening{Seen: 1, Above: 1, Reason: "test"}); err != nil {
			t.Fatal(err)
		}
		b.db.progress[log] = late
		_, stop = b.start(t, "b")
		defer stop()
		settle(t, 2*relay.DefaultTTL)
		b.wantBroker(t, log, 1, 2, 3, 4, 5, 6, 4, 5, 6)
		for _, m := range b.mem.Records(log)[6:] {
			if m.Incarnation != 2 {
				t.Errorf("%d is of incarnation %d", m.Sequence, m.Incarnation)
			}
		}
	})
}

// failOver takes the database back to where a log had n messages, in a new era, and gives it so many others, all at
// once: nobody has noticed when the log is longer than it was.
func (b *bench) failOver(log mainstay.TopicLane, n, others int) {
	b.restore(log, n)
	b.db.mu.Lock()
	defer b.db.mu.Unlock()
	for range others {
		m := brokertest.Message(log, int64(len(b.db.logs[log])+1))
		m.ID = "0190f5fe-ffff-7c44-8e1a-" + m.ID[24:]
		b.db.logs[log] = append(b.db.logs[log], m)
	}
}

// TestRelay_PublishesNothingOfAnotherEraBehindTheOld: with it at the end of the broker's log, nothing would tell that
// messages of the lost time are before it.
func TestRelay_PublishesNothingOfAnotherEraBehindTheOld(t *testing.T) {
	t.Parallel()
	for name, refill := range map[string]bool{"new messages": false, "a refill": true} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, b *bench) {
				log := brokertest.Log(0)
				b.db.grow(log, 10)
				_, stop := b.start(t, "a")
				defer stop()
				settle(t, relay.DefaultRecord)
				b.failOver(log, 6, 8)
				if refill {
					b.db.refills[log] = relay.Refill{TopicLane: log, Sequence: 2, Reason: "test"}
				}
				settle(t, relay.DefaultPoll) // it looks at the log, and not yet at the history
				settle(t, 3*relay.DefaultCheck)
				next, past := int64(1), b.db.past.Logs[log]
				for _, m := range b.mem.Records(log) {
					if m.Sequence == next && past.Has(m.Incarnation, m.Sequence) {
						if m.ID != b.db.logs[log][next-1].ID {
							t.Fatalf("readers take message %s as %d, and the database has %s", m.ID, next, b.db.logs[log][next-1].ID)
						}
						next++
					}
				}
				if next <= 14 {
					t.Fatalf("readers get no %d", next)
				}
			})
		})
	}
}

// TestRelay_PublishesWhatWasRelabelled: another relay has opened an incarnation that begins before what this one has
// published last, and it finds out from the next messages.
func TestRelay_PublishesWhatWasRelabelled(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		log := brokertest.Log(0)
		b.db.grow(log, 6)
		_, stop := b.start(t, "a")
		defer stop()
		settle(t, relay.DefaultRecord)
		b.openAt(t, log, 3)
		b.db.grow(log, 2)
		settle(t, relay.DefaultPoll)
		b.wantBroker(t, log, 1, 2, 3, 4, 5, 6, 4, 5, 6, 7, 8)
		if at := b.db.progress[log]; at.Incarnation == 2 && at.Sequence != 8 {
			t.Errorf("the progress is %+v", at)
		}
	})
}

// openAt opens an incarnation that begins in the log behind a sequence, as another relay does that knows of no more.
func (b *bench) openAt(t *testing.T, log mainstay.TopicLane, sequence int64) {
	t.Helper()
	b.db.mu.Lock()
	late := b.db.progress[log]
	early := b.db.logs[log][sequence-1]
	b.db.progress[log] = relay.Progress{TopicLane: log, Incarnation: 1, Sequence: sequence, MessageID: early.ID, BrokerPosition: sequence}
	b.db.mu.Unlock()
	if _, err := b.db.OpenIncarnation(t.Context(), relay.Opening{Seen: 1, Above: 1, Reason: "test"}); err != nil {
		t.Fatal(err)
	}
	b.db.mu.Lock()
	defer b.db.mu.Unlock()
	b.db.progress[log] = late
}

// TestRelay_KnowsTheHistoryOfALaneThatItTakesOver: its holder of before has published a part of an incarnation that
// this relay has not heard of.
func TestRelay_KnowsTheHistoryOfALaneThatItTakesOver(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		log := brokertest.Log(0)
		b.db.grow(log, 6)
		r := relay.New(relay.Config{Store: b.db, Leases: b.db, Broker: b.faulty, Holder: "a", Lanes: 4, Check: time.Hour, Logger: b.logger})
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = r.Run(ctx) })
		defer running.Wait()
		defer cancel()
		settle(t, relay.DefaultRecord)
		b.openAt(t, log, 3)
		b.db.mu.Lock()
		other := b.db.logs[log][3:5] // published by the other, who has the lane for a while and records nothing
		b.db.holders[0] = holding{holder: "b", epoch: b.db.holders[0].epoch + 1, expires: time.Now().Add(relay.DefaultTTL)}
		b.db.mu.Unlock()
		if _, err := b.mem.Publish(t.Context(), other, nil); err != nil {
			t.Fatal(err)
		}
		settle(t, 3*relay.DefaultTTL)
		b.wantBroker(t, log, 1, 2, 3, 4, 5, 6, 4, 5, 4, 5, 6) // copies do no harm
	})
}
