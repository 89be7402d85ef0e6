package relay_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/broker"
	"github.com/mainstay-io/mainstay/internal/broker/brokertest"
	"github.com/mainstay-io/mainstay/internal/history"
	"github.com/mainstay-io/mainstay/internal/relay"
)

// TestRelay_Answer asks a relay that works: what it says of its logs, and from where it publishes again.
func TestRelay_Answer(t *testing.T) {
	log := brokertest.Log(0)
	for name, c := range map[string]struct {
		before func(b *bench)
		asked  []broker.Wanted
		topic  string
		want   []broker.Held
		mine   bool
		// again is what the broker has of the log behind its first 10 records.
		again []int64
		fails string
	}{
		"where it ends": {
			asked: []broker.Wanted{{Lane: 0, After: 4}}, mine: true,
			want: []broker.Held{{Lane: 0, First: 1, Last: 10, FirstIncarnation: 1, LastIncarnation: 1}},
		},
		"what is missing": {
			asked: []broker.Wanted{{Lane: 0, After: 7, Again: true}}, mine: true, again: []int64{8, 9, 10},
			want: []broker.Held{{Lane: 0, First: 1, Last: 10, FirstIncarnation: 1, LastIncarnation: 1}},
		},
		"more than it keeps": {
			before: func(b *bench) { b.db.gone = 5 },
			asked:  []broker.Wanted{{Lane: 0, After: 2, Again: true}}, mine: true, again: []int64{6, 7, 8, 9, 10},
			want: []broker.Held{{Lane: 0, First: 6, Last: 10, FirstIncarnation: 1, LastIncarnation: 1}},
		},
		"nothing that is missing": {
			asked: []broker.Wanted{{Lane: 0, After: 10, Again: true}}, mine: true,
			want: []broker.Held{{Lane: 0, First: 1, Last: 10, FirstIncarnation: 1, LastIncarnation: 1}},
		},
		"numbers from nowhere": {
			asked: []broker.Wanted{{Lane: 0, After: 1 << 60, Again: true}, {Lane: -1, Again: true}, {Lane: 1 << 30, Again: true}, {Lane: 0, After: -1 << 60, Again: true}}, mine: true,
			want: []broker.Held{{Lane: 0, First: 1, Last: 10, FirstIncarnation: 1, LastIncarnation: 1}},
		},
		"a log that was never written to": {
			asked: []broker.Wanted{{Lane: 3, Again: true}}, mine: true,
			want: []broker.Held{{Lane: 3, First: 1, FirstIncarnation: 1, LastIncarnation: 1}},
		},
		"a history": {
			before: func(b *bench) {
				b.db.past.Current, b.db.past.Logs = 3, map[mainstay.TopicLane]history.Log{log: {{ID: 2, First: 4}, {ID: 3, First: 9}}}
			},
			asked: []broker.Wanted{{Lane: 0, After: 1}}, mine: true, again: []int64{4, 5, 6, 7, 8, 9, 10}, // as it went back
			want: []broker.Held{{Lane: 0, First: 1, Last: 10, FirstIncarnation: 1, LastIncarnation: 3, Past: history.Log{{ID: 2, First: 4}, {ID: 3, First: 9}}}},
		},
		"another topic": {topic: "others", asked: []broker.Wanted{{Lane: 0, Again: true}}},
		"while it may be about to open an incarnation": {
			before: func(b *bench) { b.db.past.Compared = false },
			asked:  []broker.Wanted{{Lane: 0, Again: true}},
		},
		"while the database is away": {
			before: func(b *bench) { b.db.fail = func(call string) error { return errStore } },
			asked:  []broker.Wanted{{Lane: 0, Again: true}}, fails: "is not answered",
		},
		"while no refill can be noted": {
			before: func(b *bench) { b.db.fail = failingAt("start refill") },
			asked:  []broker.Wanted{{Lane: 0, Again: true}}, fails: "is not answered",
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, b *bench) {
				b.db.grow(log, 10)
				r, stop := b.start(t, "a")
				defer stop()
				synctest.Wait()
				settle(t, relay.DefaultRecord)
				if c.before != nil {
					b.db.mu.Lock()
					c.before(b)
					b.db.mu.Unlock()
				}
				topic := c.topic
				if topic == "" {
					topic = log.Topic
				}
				a, mine := r.Answer(t.Context(), broker.Question{Topic: topic, Logs: c.asked})
				if mine != c.mine {
					t.Fatalf("answers: %v", mine)
				}
				if diff := cmp.Diff(c.want, a.Logs); mine && diff != "" {
					t.Errorf("answer (-want +got):\n%s", diff)
				}
				if said := b.log.String(); !strings.Contains(said, c.fails) {
					t.Errorf("it says %q", said)
				}
				if c.fails == "" {
					settle(t, relay.DefaultCheck)
				}
				if diff := cmp.Diff(c.again, b.sequences(log)[10:]); diff != "" && (len(c.again) > 0 || len(b.sequences(log)) > 10) {
					t.Errorf("published again (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// failingAt fails one call of the store.
func failingAt(call string) func(string) error {
	return func(c string) error {
		if c == call {
			return fmt.Errorf("%s: %w", c, errStore)
		}
		return nil
	}
}

// TestRelay_AnswerIsBounded: the database does not answer, and the question waits no longer than a call may take.
func TestRelay_AnswerIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		r := relay.New(relay.Config{Store: silent{b.db}, Leases: b.db, Broker: b.mem, Lanes: 4, Logger: b.logger})
		began := time.Now()
		_, mine := r.Answer(t.Context(), broker.Question{Topic: "orders"})
		if took := time.Since(began); mine || took != relay.DefaultCall || !strings.Contains(b.log.String(), "longer than") {
			t.Fatalf("it answers after %v: %v; it says %q", took, mine, b.log.String())
		}
	})
}

// silent is a database whose history cannot be read, for as long as one may wait.
type silent struct{ *database }

func (silent) Seam(ctx context.Context) (history.Seam, error) {
	<-ctx.Done()
	return history.Seam{}, context.Cause(ctx)
}
