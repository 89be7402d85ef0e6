package storetest

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/clock"
	"github.com/mainstay-io/mainstay/internal/lane"
	"github.com/mainstay-io/mainstay/internal/lease"
	"github.com/mainstay-io/mainstay/internal/obs"
	"github.com/mainstay-io/mainstay/internal/orchestrator"
	"github.com/mainstay-io/mainstay/saga"
)

// BacklogStore is a store whose backlog is read.
type BacklogStore interface {
	lane.Store
	orchestrator.Store
	obs.BacklogReader
	lease.Store
	Lanes() int
	Run(ctx context.Context, fn func(ctx context.Context, tx mainstay.Tx) error) error
}

// Backlog is the conformance suite of obs.BacklogReader. The function makes an empty store, with a function that gives
// what was sent its sequences.
func Backlog(t *testing.T, newStore func(t *testing.T) (s BacklogStore, number func())) {
	for name, test := range map[string]func(*testing.T, BacklogStore, func()){
		"nothing waits":              backlogNothing,
		"messages beyond a place":    backlogUnhandled,
		"parked and dead by state":   backlogParked,
		"sagas by status":            backlogSagas,
		"lanes that nobody holds":    backlogHeld,
		"an ended context is obeyed": backlogEndedContext,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, number := newStore(t)
			test(t, s, number)
		})
	}
}

func readBacklog(t *testing.T, s BacklogStore) obs.Backlog {
	t.Helper()
	b, err := s.Backlog(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// counts compares depths by their counts.
func counts[K comparable](t *testing.T, got map[K]obs.Depth, want map[K]int64) {
	t.Helper()
	numbers := map[K]int64{}
	for k, d := range got {
		numbers[k] = d.Count
		if (d.Count == 0) != (d.Oldest == 0) {
			t.Errorf("%v: %d wait, the oldest for %v", k, d.Count, d.Oldest)
		}
	}
	if diff := cmp.Diff(want, numbers, cmpopts.EquateEmpty()); diff != "" {
		t.Error(diff)
	}
}

func backlogRegister(t *testing.T, s BacklogStore, consumer string, topics ...string) {
	t.Helper()
	if err := s.Register(t.Context(), lane.Registration{Consumer: consumer, Topics: topics}); err != nil {
		t.Fatal(err)
	}
}

func backlogSend(t *testing.T, s BacklogStore, number func(), topic string, keys ...string) {
	t.Helper()
	err := s.Run(t.Context(), func(_ context.Context, tx mainstay.Tx) error {
		for _, key := range keys {
			tx.Send(&mainstay.Message{Topic: topic, Key: key, Type: "test.happened", Payload: []byte("{}")})
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	number()
}

func backlogUnit(t *testing.T, s BacklogStore, consumer string, fn func(tx lane.Tx)) {
	t.Helper()
	err := s.Unit(t.Context(), lane.Unit{Consumer: consumer}, func(_ context.Context, tx lane.Tx) error {
		fn(tx)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func backlogNothing(t *testing.T, s BacklogStore, _ func()) {
	backlogRegister(t, s, "c", "things", "others")
	b := readBacklog(t, s)
	counts(t, b.Unhandled, map[obs.ConsumerTopic]int64{{Consumer: "c", Topic: "things"}: 0, {Consumer: "c", Topic: "others"}: 0})
	counts(t, b.Parked, map[string]int64{"c": 0})
	counts(t, b.Dead, map[string]int64{"c": 0, "relay": 0})
	counts(t, b.Sagas, nil)
	if b.Unnumbered != 0 {
		t.Errorf("nothing was written, and the oldest that is not numbered has waited for %v", b.Unnumbered)
	}
}

// Of a consumer all lanes count, whoever held them before; of the relay once there was one, and of others nothing.
func backlogHeld(t *testing.T, s BacklogStore, _ func()) {
	backlogRegister(t, s, "c", "things")
	hold := func(name string, ttl time.Duration, lanes ...int) []lease.Lease {
		t.Helper()
		taken, err := s.Acquire(t.Context(), name, lanes, "x", ttl, false)
		if err != nil || len(taken) != len(lanes) {
			t.Fatalf("took %v, %v", taken, err)
		}
		return taken
	}
	want := func(what string, unheld map[string]int) {
		t.Helper()
		if diff := cmp.Diff(unheld, readBacklog(t, s).Unheld); diff != "" {
			t.Errorf("%s: %s", what, diff)
		}
	}
	all := s.Lanes()
	want("nobody was there", map[string]int{"c": all})
	given := hold("c", time.Hour, 0, 1)
	hold("c", -time.Second, 2)
	hold("relay", time.Hour, 0)
	hold("cleaner", time.Hour, 0)
	want("two are held, and one was", map[string]int{"c": all - 2, "relay": all - 1})
	if err := s.Release(t.Context(), "x", given[:1]); err != nil {
		t.Fatal(err)
	}
	want("one was given back", map[string]int{"c": all - 1, "relay": all - 1})
}

func backlogUnhandled(t *testing.T, s BacklogStore, number func()) {
	backlogRegister(t, s, "c", "things")
	backlogRegister(t, s, "idle", "things", "others")
	sent := clock.Start()
	backlogSend(t, s, number, "things", "k", "k", "l", "m")
	again := clock.Start()
	backlogSend(t, s, number, "things", "k")
	things, idle := obs.ConsumerTopic{Consumer: "c", Topic: "things"}, obs.ConsumerTopic{Consumer: "idle", Topic: "things"}
	others := obs.ConsumerTopic{Consumer: "idle", Topic: "others"}

	b := readBacklog(t, s)
	counts(t, b.Unhandled, map[obs.ConsumerTopic]int64{things: 5, idle: 5, others: 0})
	if age := b.Unhandled[things].Oldest; age > sent.Elapsed() {
		t.Errorf("the oldest is %v old, and was written %v ago", age, sent.Elapsed())
	}
	backlogHandle(t, s, "c", map[string]int{"k": 1}) // the last of k stays
	b = readBacklog(t, s)
	counts(t, b.Unhandled, map[obs.ConsumerTopic]int64{things: 1, idle: 5, others: 0})
	if age := b.Unhandled[things].Oldest; age > again.Elapsed() {
		t.Errorf("the oldest is %v old, and was written %v ago", age, again.Elapsed())
	}
	if b.Unhandled[idle].Oldest <= b.Unhandled[things].Oldest {
		t.Errorf("%v for all, %v for the last one", b.Unhandled[idle].Oldest, b.Unhandled[things].Oldest)
	}
}

// backlogHandle moves the consumer's places to the ends of the logs, but for as many messages of a key's lane.
func backlogHandle(t *testing.T, s BacklogStore, consumer string, leave map[string]int) {
	t.Helper()
	heads, err := s.Heads(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	after := map[mainstay.TopicLane]int64{}
	for log := range heads {
		after[log] = 0
	}
	ms, err := s.ReadLog(t.Context(), after, 1000)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range ms {
		if n, ok := leave[m.Key]; ok {
			heads[m.TopicLane()] -= int64(n)
			delete(leave, m.Key)
		}
	}
	var lanes []int
	for log := range heads {
		lanes = append(lanes, log.Lane)
	}
	places, err := s.Places(t.Context(), consumer, lanes)
	if err != nil {
		t.Fatal(err)
	}
	backlogUnit(t, s, consumer, func(tx lane.Tx) {
		for _, from := range places {
			to := from
			to.Sequence = heads[from.TopicLane]
			if to.Sequence > from.Sequence {
				tx.Move(from, to)
			}
		}
	})
}

func backlogParked(t *testing.T, s BacklogStore, _ func()) {
	backlogRegister(t, s, "c", "things")
	backlogRegister(t, s, "fine", "things")
	message := &mainstay.Message{ID: "0190b6f0-0000-7000-8000-000000000001", Topic: "things", Key: "k", Type: "test.happened"}
	ref := func(sequence int64) lane.Ref {
		return lane.Ref{TopicLane: mainstay.TopicLane{Topic: "things", Lane: 1}, Sequence: sequence}
	}
	began, now := clock.Start(), clock.System()
	backlogUnit(t, s, "c", func(tx lane.Tx) {
		for i, state := range []lane.ParkedState{lane.ParkedRetry, lane.ParkedQueued, lane.ParkedDead} {
			tx.Park(lane.Parked{Ref: ref(int64(i + 1)), Key: "k", State: state, Due: now, Message: message})
		}
		for i, at := range []time.Time{now.Add(-time.Hour), now.Add(-2 * time.Hour), now.Add(-3 * time.Hour)} {
			tx.DeadLetter(lane.DeadLetter{Ref: ref(int64(i + 3)), Message: message, Kind: mainstay.KindTerminal, Attempts: 1, At: at})
		}
	})
	backlogUnit(t, s, "c", func(tx lane.Tx) { tx.EndDeadLetter(lane.DeadResolved, ref(5)) })
	b := readBacklog(t, s)
	counts(t, b.Parked, map[string]int64{"c": 2, "fine": 0})
	if age := b.Parked["c"].Oldest; age > began.Elapsed() {
		t.Errorf("the oldest is parked for %v, since %v", age, began.Elapsed())
	}
	counts(t, b.Dead, map[string]int64{"c": 2, "fine": 0, "relay": 0})
	about(t, b.Dead["c"].Oldest, 2*time.Hour)
}

// about says that an age is what it was when the test began, and a little more.
func about(t *testing.T, age, want time.Duration) {
	t.Helper()
	if age < want || age > want+10*time.Minute {
		t.Errorf("the oldest has waited for %v, want %v", age, want)
	}
}

func backlogSagas(t *testing.T, s BacklogStore, _ func()) {
	now := clock.System()
	var rows []*orchestrator.Row
	for id, row := range map[string]struct {
		definition string
		status     saga.Status
		age        time.Duration
	}{
		"a": {"order", saga.Running, time.Hour}, "b": {"order", saga.Running, 2 * time.Hour},
		"c": {"order", saga.Completed, 3 * time.Hour}, "d": {"order", saga.NeedsOperator, 4 * time.Hour},
		"e": {"return", saga.Running, 5 * time.Hour},
	} {
		r := &orchestrator.Row{Key: id}
		r.ID, r.CorrelationID, r.Version, r.Data = id, id, 1, []byte("{}")
		r.Definition, r.DefinitionVersion, r.State.Status = row.definition, 1, row.status
		r.CreatedAt, r.UpdatedAt = now.Add(-row.age), now
		if row.status == saga.Completed {
			r.Ended = now
		}
		rows = append(rows, r)
	}
	err := s.Run(t.Context(), func(ctx context.Context, tx mainstay.Tx) error { return s.Insert(ctx, tx, rows, nil) })
	if err != nil {
		t.Fatal(err)
	}
	b := readBacklog(t, s)
	running, stuck := obs.SagaStatus{Saga: "order", Status: "running"}, obs.SagaStatus{Saga: "order", Status: "needs_operator"}
	other := obs.SagaStatus{Saga: "return", Status: "running"}
	counts(t, b.Sagas, map[obs.SagaStatus]int64{running: 2, stuck: 1, other: 1})
	about(t, b.Sagas[running].Oldest, 2*time.Hour)
	about(t, b.Sagas[stuck].Oldest, 4*time.Hour)
	about(t, b.Sagas[other].Oldest, 5*time.Hour)
}

func backlogEndedContext(t *testing.T, s BacklogStore, _ func()) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Backlog(ctx); err == nil {
		t.Error("the backlog was read after the end of the context")
	}
}
