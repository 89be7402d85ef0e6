package relay_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/broker"
	"github.com/mainstay-io/mainstay/internal/broker/brokertest"
	"github.com/mainstay-io/mainstay/internal/broker/membroker"
	"github.com/mainstay-io/mainstay/internal/relay"
)

// sequences are those of the records of a log at the broker.
func (b *bench) sequences(log mainstay.TopicLane) []int64 {
	return brokertest.Sequences(b.mem.Records(log))[log]
}

// reads gives the place of somebody who reads the log's records from a place on, and waits at every gap.
func (b *bench) reads(log mainstay.TopicLane, place int64) int64 {
	for _, s := range b.sequences(log) {
		if s == place+1 {
			place++
		}
	}
	return place
}

// overwrite gives the positions of a log's last n records to others: the last one stands exactly where the last message
// was.
func (b *bench) overwrite(t *testing.T, log mainstay.TopicLane, n int) {
	t.Helper()
	b.mem.DropTail(log, n)
	var foreign []*mainstay.Message
	for range n {
		m := brokertest.Message(log, 1000)
		m.ID = "0190f5fe-7a3b-7c44-8e1a-2b7c5d9e0f11"
		foreign = append(foreign, m)
	}
	if _, err := b.mem.Publish(t.Context(), foreign, nil); err != nil {
		t.Fatal(err)
	}
}

func TestRelay_NewMessagesDoNotWaitForARefill(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		log, batch := brokertest.Log(0), int64(relay.DefaultBatch)
		b.db.grow(log, int(20*batch))
		_, stop := b.start(t, "a")
		defer stop()
		synctest.Wait()
		b.mem.Wipe()
		b.db.grow(log, 1) // is refused at the expected position
		settle(t, relay.DefaultCheck+relay.DefaultPoll)
		got, last := b.sequences(log), 20*batch+1
		if at := slices.Index(got, last); at < 0 || int64(at) > batch {
			t.Fatalf("the new message is the %d. of %d records, behind the refill", at+1, len(got))
		}
		if place := b.reads(log, 0); place != last {
			t.Fatalf("a reader comes to %d of %d", place, last)
		}
		if len(b.db.refills) > 0 {
			t.Fatalf("the refill has not ended: %v", b.db.refills)
		}
	})
}

// However many logs are refilled, a new message of another log waits for a round or two of them.
func TestRelay_NewMessagesDoNotWaitForTheRefillsOfOtherLogs(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		var logs []mainstay.TopicLane
		for i := range 12 {
			logs = append(logs, mainstay.TopicLane{Topic: fmt.Sprint("topic", i)})
			b.db.grow(logs[i], 2*relay.DefaultBatch)
		}
		_, stop := b.start(t, "a")
		defer stop()
		settle(t, relay.DefaultRecord)
		b.mem.Wipe()
		fresh, saves, found := brokertest.Log(0), 0, 0
		b.db.setFail(func(call string) error {
			if call != "save" {
				return nil
			}
			if saves++; saves == 1 {
				b.db.logs[fresh] = append(b.db.logs[fresh], brokertest.Message(fresh, 1))
			}
			if found == 0 && len(b.sequences(fresh)) > 0 {
				found = saves
			}
			return nil
		})
		settle(t, relay.DefaultCheck+relay.DefaultPoll)
		if found == 0 || found > len(logs)/2 {
			t.Errorf("the new message was there at the %d. of %d records of the refills", found, saves)
		}
		for _, log := range logs {
			if place := b.reads(log, 0); place != 2*relay.DefaultBatch {
				t.Errorf("a reader of %s comes to %d", log.Topic, place)
			}
		}
	})
}

func TestRelay_ARefillIsTakenOverWhereAKilledRelayLeftIt(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		log, half := brokertest.Log(0), relay.DefaultBatch/2
		b.db.grow(log, 6*half)
		_, stop := b.start(t, "a")
		settle(t, relay.DefaultRecord)
		b.mem.Wipe()
		saves := 0
		b.db.setFail(func(call string) error {
			if call == "save" {
				saves++
			}
			if saves > 2 { // killed in the third round, after it was published and before it was recorded
				return errStore
			}
			return nil
		})
		settle(t, relay.DefaultCheck+relay.DefaultPoll)
		stop()
		if f := b.db.refills[log]; f.Sequence != int64(2*half) {
			t.Fatalf("the refill was left at %d", f.Sequence)
		}
		had := len(b.sequences(log))
		b.db.setFail(nil)
		_, stop = b.start(t, "b")
		defer stop()
		settle(t, 2*relay.DefaultTTL)
		if place := b.reads(log, 0); place != int64(6*half) {
			t.Fatalf("a reader comes to %d", place)
		}
		if again := len(b.sequences(log)) - had; again > 4*half {
			t.Fatalf("%d were published again: it did not go on where it was", again)
		}
	})
}

func TestRelay_SeesThatOthersGotTheLostPositions(t *testing.T) {
	t.Parallel()
	log := brokertest.Log(0)
	spoil := func(t *testing.T, b *bench) {
		t.Helper()
		b.overwrite(t, log, 3)
	}
	for name, when := range map[string]func(t *testing.T, b *bench){
		"before a publish": spoil,
		"during a publish": func(t *testing.T, b *bench) {
			t.Helper()
			var once sync.Once
			b.faulty.Set(membroker.Faults{BeforePublish: func([]*mainstay.Message) error {
				once.Do(func() { spoil(t, b) })
				return nil
			}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, b *bench) {
				b.db.grow(log, 10)
				_, stop := b.start(t, "a")
				defer stop()
				synctest.Wait()
				when(t, b)
				b.db.grow(log, 1) // its expected position holds
				settle(t, 2*relay.DefaultCheck)
				if place := b.reads(log, 0); place != 11 {
					t.Fatalf("a reader comes to %d of 11: %v", place, b.sequences(log))
				}
			})
		})
	}
}

// TestRelay_LooksBehindEveryLogOfARoundAfterAReconnect: one log that is whole says nothing of the others.
func TestRelay_LooksBehindEveryLogOfARoundAfterAReconnect(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		whole, cut := brokertest.Log(0), brokertest.Log(1)
		b.db.grow(whole, 10)
		b.db.grow(cut, 10)
		_, stop := b.start(t, "a")
		defer stop()
		synctest.Wait()
		var once sync.Once
		b.faulty.Set(membroker.Faults{BeforePublish: func([]*mainstay.Message) error {
			once.Do(func() { b.overwrite(t, cut, 3) })
			return nil
		}})
		b.db.mu.Lock() // so that one round has both
		b.db.logs[whole] = append(b.db.logs[whole], brokertest.Message(whole, 11))
		b.db.logs[cut] = append(b.db.logs[cut], brokertest.Message(cut, 11))
		b.db.mu.Unlock()
		settle(t, 2*relay.DefaultCheck)
		if place := b.reads(cut, 0); place != 11 {
			t.Fatalf("a reader comes to %d of 11: %v", place, b.sequences(cut))
		}
	})
}

// TestRelay_ALossIsNotForgottenByAFailure: what was lost is found once, while the recorded end of the log and the
// broker's differ; whatever fails then, it is noted before anything else is recorded.
func TestRelay_ALossIsNotForgottenByAFailure(t *testing.T) {
	t.Parallel()
	log := brokertest.Log(0)
	for name, fail := range map[string]func(b *bench){
		"of the broker": func(b *bench) {
			n := 0
			b.faulty.Set(membroker.Faults{At: func() error {
				if n++; n == 1 {
					return broker.ErrUnknown
				}
				return nil
			}})
		},
		"of the database": func(b *bench) {
			n := 0
			b.db.setFail(func(call string) error {
				if call == "places" {
					if n++; n == 1 {
						return errStore
					}
				}
				return nil
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, b *bench) {
				b.db.grow(log, 10)
				_, stop := b.start(t, "a")
				synctest.Wait()
				stop()
				b.overwrite(t, log, 3)
				b.db.grow(log, 1)
				if _, err := b.mem.Publish(t.Context(), b.db.logs[log][10:], nil); err != nil { // and it was not recorded
					t.Fatal(err)
				}
				fail(b)
				_, stop = b.start(t, "b")
				defer stop()
				settle(t, 10*time.Second)
				b.db.grow(log, 1)
				settle(t, 2*relay.DefaultCheck)
				if place := b.reads(log, 0); place != 12 {
					t.Fatalf("a reader comes to %d of 12: %v", place, b.sequences(log))
				}
			})
		})
	}
}

func TestRelay_GoesOnBehindWhatLeftTheOutbox(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		log := brokertest.Log(0)
		b.db.grow(log, 10)
		_, stop := b.start(t, "a")
		defer stop()
		synctest.Wait()
		b.db.gone = 6
		b.mem.Wipe()
		settle(t, 2*relay.DefaultCheck)
		if diff := cmp.Diff([]int64{7, 8, 9, 10}, b.sequences(log)); diff != "" {
			t.Fatalf("at the broker (-want +got):\n%s", diff)
		}
		if len(b.db.refills) > 0 {
			t.Fatalf("the refill has not ended: %v", b.db.refills)
		}
	})
}

func TestRelay_RefillsWhatAnOperatorAsksFor(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		log := brokertest.Log(0)
		b.db.grow(log, 4)
		_, stop := b.start(t, "a")
		defer stop()
		synctest.Wait()
		if err := b.db.StartRefill(t.Context(), relay.Refill{TopicLane: log, Sequence: 1, Reason: "test"}); err != nil {
			t.Fatal(err)
		}
		settle(t, relay.DefaultCheck+relay.DefaultPoll)
		b.wantBroker(t, log, 1, 2, 3, 4, 2, 3, 4)
		b.db.grow(log, 1)
		synctest.Wait()
		b.wantBroker(t, log, 1, 2, 3, 4, 2, 3, 4, 5)
	})
}

func TestRelay_ARefillAdvancesThroughFailures(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		log, n := brokertest.Log(0), 0
		b.db.grow(log, 3*relay.DefaultBatch)
		_, stop := b.start(t, "a")
		defer stop()
		synctest.Wait()
		b.mem.Wipe()
		b.faulty.Set(failing(func() error {
			if n++; n%2 == 0 {
				return broker.ErrUnknown
			}
			return nil
		}))
		settle(t, time.Minute)
		if place := b.reads(log, 0); place != 3*relay.DefaultBatch {
			t.Fatalf("a reader comes to %d", place)
		}
	})
}

// failing fails publishes whose messages were stored, as do says.
func failing(do func() error) membroker.Faults {
	return membroker.Faults{AfterPublish: func([]*mainstay.Message) error { return do() }}
}
