package storetest

import (
	"context"
	"testing"
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/clock"
	"github.com/mainstay-io/mainstay/internal/ingest"
	"github.com/mainstay-io/mainstay/internal/lane"
	"github.com/mainstay-io/mainstay/internal/lease"
	"github.com/mainstay-io/mainstay/internal/orchestrator"
	"github.com/mainstay-io/mainstay/internal/relay"
	"github.com/mainstay-io/mainstay/internal/retention"
	"github.com/mainstay-io/mainstay/saga"
)

// Cleanable is a store that can be cleaned.
type Cleanable interface {
	Machinery
	ingest.Store
	retention.Store
	FirstRetained(ctx context.Context) (map[mainstay.TopicLane]int64, error)
	Lanes() int
}

// RetentionFixture is an empty store, and ways around it.
type RetentionFixture struct {
	Fixture
	Store Cleanable
	// Age makes a table's rows older by whole days, in the named column; messages with their log.
	Age func(t *testing.T, table, column string, days int)
	// Count counts a table's rows.
	Count func(t *testing.T, table string) int

	lease lease.Lease
}

// Retention is the conformance suite of retention.Store.
func Retention(t *testing.T, newFixture func(t *testing.T) *RetentionFixture) {
	for name, test := range map[string]func(*testing.T, *RetentionFixture){
		"old messages go":                         retentionMessages,
		"young messages stay":                     retentionYoung,
		"a consumer holds its messages":           retentionConsumer,
		"the relay holds its messages":            retentionRelay,
		"a refill holds its messages":             retentionRefill,
		"a consumer starts at what is kept":       retentionRegister,
		"a parked message has its own copy":       retentionParked,
		"idempotency records go when expired":     retentionIdempotency,
		"cases go when ended and out of reach":    retentionDeadLetters,
		"ended sagas go with all they have":       retentionSagas,
		"sagas wait for their messages to go":     retentionSagasWait,
		"outcomes without a saga go by their age": retentionBarrier,
		"a lost lease removes nothing":            retentionFenced,
		"a dry run removes nothing":               retentionDry,
		"no limit is for ever":                    retentionForEver,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.Machinery = f.Store
			if f.Settle == nil {
				f.Settle = func(*testing.T) {}
			}
			ls, err := f.Store.Acquire(t.Context(), retention.LeaseName, []int{0}, "test", time.Minute, true)
			noError(t, "acquiring the lease", err)
			f.lease = ls[0]
			test(t, f)
		})
	}
}

const aDay = 24 * time.Hour

// old is a limit that everything is past which a test has aged.
func old() retention.Limits {
	return retention.Limits{Outbox: time.Microsecond, History: 30 * aDay, Barrier: 90 * aDay}
}

// published is old where a relay publishes.
func published() retention.Limits {
	l := old()
	l.Published = true
	return l
}

func register(t *testing.T, s lane.Store, consumer string, topics ...string) {
	t.Helper()
	noError(t, "registering", s.Register(t.Context(), lane.Registration{Consumer: consumer, Topics: topics}))
}

// clean runs a task's steps until there is nothing more to do, and once more: a day of the outbox is sealed in one and
// removed in another.
func (f *RetentionFixture) clean(t *testing.T, task func(context.Context, retention.Step) (retention.Result, error), l retention.Limits) retention.Result {
	t.Helper()
	all := retention.Result{Removed: map[string]int64{}}
	cursor := ""
	for again := 2; again > 0; {
		res, err := task(t.Context(), retention.Step{Lease: f.lease, Limits: l, Rows: 3, Cursor: cursor})
		noError(t, "cleaning", err)
		for table, n := range res.Removed {
			all.Removed[table] += n
		}
		all.Holds, cursor = res.Holds, res.Cursor
		if !res.More {
			again--
		}
	}
	return all
}

func (f *RetentionFixture) rows(t *testing.T, table string, want int) {
	t.Helper()
	if n := f.Count(t, table); n != want {
		t.Errorf("%s has %d rows, want %d", table, n, want)
	}
}

func (f *RetentionFixture) holds(t *testing.T, res retention.Result, want ...[2]string) {
	t.Helper()
	var got [][2]string
	for _, h := range res.Holds {
		got = append(got, [2]string{h.Reason, h.Name})
		if h.For <= 0 {
			t.Errorf("%s %s holds for %v", h.Reason, h.Name, h.For)
		}
	}
	equal(t, "holds", want, got)
}

// fill sends ten messages of one key and gives their log.
func (f *RetentionFixture) fill(t *testing.T) mainstay.TopicLane {
	t.Helper()
	ms := make([]*mainstay.Message, 10)
	for i := range ms {
		ms[i] = message("things", "k", string(rune('0'+i)))
	}
	f.send(t, ms...)
	return ms[0].TopicLane()
}

// to moves a consumer's place of a log.
func (f *RetentionFixture) to(t *testing.T, consumer string, log mainstay.TopicLane, sequence int64) {
	t.Helper()
	ps, err := f.Places(t.Context(), consumer, []int{log.Lane})
	noError(t, "reading places", err)
	err = f.Unit(t.Context(), lane.Unit{Consumer: consumer}, func(_ context.Context, tx lane.Tx) error {
		to := ps[0]
		to.Sequence = sequence
		tx.Move(ps[0], to)
		return nil
	})
	noError(t, "moving a place", err)
}

func (f *RetentionFixture) published(t *testing.T, log mainstay.TopicLane, sequence int64) {
	t.Helper()
	ls, err := f.Acquire(t.Context(), "relay", []int{log.Lane}, "relay", time.Minute, true)
	noError(t, "acquiring", err)
	noError(t, "saving progress", f.SaveProgress(t.Context(), relay.Save{Leases: ls, Progress: []relay.Progress{{TopicLane: log, Incarnation: 1, Sequence: sequence, BrokerPosition: sequence}}}))
}

func (f *RetentionFixture) first(t *testing.T, log mainstay.TopicLane) int64 {
	t.Helper()
	firsts, err := f.Store.FirstRetained(t.Context())
	noError(t, "reading first sequences", err)
	return max(firsts[log], 1)
}

// gone removes what is in the outbox, which nobody needs.
func (f *RetentionFixture) gone(t *testing.T) {
	t.Helper()
	f.Age(t, "outbox", "created_at", 1)
	f.clean(t, f.Store.CleanOutbox, old())
	f.rows(t, "outbox", 0)
}

func retentionMessages(t *testing.T, f *RetentionFixture) {
	register(t, f.Store, "c", "things")
	log := f.fill(t)
	f.Age(t, "outbox", "created_at", 1)
	f.send(t, message("things", "k", "a"), message("things", "k", "b"))
	f.to(t, "c", log, 12)
	f.published(t, log, 12)

	res := f.clean(t, f.Store.CleanOutbox, published())
	f.holds(t, res)
	if res.Removed["outbox"] < 10 || f.first(t, log) != 1+res.Removed["outbox"] {
		t.Errorf("removed %v, the first that is kept is %d", res.Removed, f.first(t, log))
	}
	if n := f.Count(t, "outbox"); n > 2 {
		t.Errorf("%d messages are left", n)
	}
	f.send(t, message("things", "k", "c"))
	ms := f.read(t, log, 12, 10)
	if payloads(ms) != "c" {
		t.Errorf("behind 12 there is %q", payloads(ms))
	}
}

func retentionYoung(t *testing.T, f *RetentionFixture) {
	log := f.fill(t)
	f.Age(t, "outbox", "created_at", 1)
	res := f.clean(t, f.Store.CleanOutbox, retention.Limits{Outbox: 7 * aDay})
	f.holds(t, res)
	f.rows(t, "outbox", 10)
	if payloads(f.read(t, log, 0, 10)) != "0123456789" || f.first(t, log) != 1 {
		t.Error("messages are missing before their time")
	}
}

func retentionConsumer(t *testing.T, f *RetentionFixture) {
	register(t, f.Store, "quick", "things")
	register(t, f.Store, "lagging", "things")
	log := f.fill(t)
	f.to(t, "quick", log, 10)
	f.to(t, "lagging", log, 6)
	f.Age(t, "outbox", "created_at", 1)
	res := f.clean(t, f.Store.CleanOutbox, old())
	f.holds(t, res, [2]string{retention.HeldByConsumer, "lagging"})
	if first := f.first(t, log); first > 7 || payloads(f.read(t, log, 6, 10)) != "6789" {
		t.Errorf("a consumer lost its messages: what is kept begins at %d", first)
	}
	f.to(t, "lagging", log, 10)
	f.holds(t, f.clean(t, f.Store.CleanOutbox, old()))
	f.rows(t, "outbox", 0)
	if f.first(t, log) != 11 {
		t.Errorf("the first that is kept is %d", f.first(t, log))
	}
}

func retentionRelay(t *testing.T, f *RetentionFixture) {
	log := f.fill(t)
	f.Age(t, "outbox", "created_at", 1)
	f.holds(t, f.clean(t, f.Store.CleanOutbox, published()), [2]string{retention.HeldByRelay, "things"})
	f.rows(t, "outbox", 10)
	f.published(t, log, 7)
	f.holds(t, f.clean(t, f.Store.CleanOutbox, old()), [2]string{retention.HeldByRelay, "things"})
	if payloads(f.read(t, log, 7, 10)) != "789" {
		t.Error("the relay lost its messages")
	}
	f.published(t, log, 10)
	f.holds(t, f.clean(t, f.Store.CleanOutbox, published()))
	f.rows(t, "outbox", 0)
}

func retentionRefill(t *testing.T, f *RetentionFixture) {
	log := f.fill(t)
	f.published(t, log, 10)
	ls, err := f.Acquire(t.Context(), "relay", []int{log.Lane}, "relay", time.Minute, true)
	noError(t, "acquiring", err)
	noError(t, "starting a refill", f.StartRefill(t.Context(), relay.Refill{TopicLane: log, Sequence: 4, Reason: "lost"}))
	f.Age(t, "outbox", "created_at", 1)
	f.holds(t, f.clean(t, f.Store.CleanOutbox, old()), [2]string{retention.HeldByRefill, "things"})
	if payloads(f.read(t, log, 4, 10)) != "456789" {
		t.Error("the refill lost its messages")
	}
	end := []relay.Advance{{TopicLane: log, From: 4, To: 10, Done: true}}
	noError(t, "ending the refill", f.SaveProgress(t.Context(), relay.Save{Leases: ls, Refills: end}))
	f.holds(t, f.clean(t, f.Store.CleanOutbox, old()))
	f.rows(t, "outbox", 0)
}

func retentionRegister(t *testing.T, f *RetentionFixture) {
	log := f.fill(t)
	f.gone(t)
	f.send(t, message("things", "k", "a"))
	register(t, f.Store, "new", "things")
	ps, err := f.Places(t.Context(), "new", []int{log.Lane})
	noError(t, "reading places", err)
	if ps[0].Sequence != 10 {
		t.Errorf("a new consumer starts behind %d, and messages are kept from %d on", ps[0].Sequence, f.first(t, log))
	}
}

func retentionParked(t *testing.T, f *RetentionFixture) {
	register(t, f.Store, "c", "things")
	log := f.fill(t)
	m := f.read(t, log, 0, 1)[0]
	ref := lane.Ref{TopicLane: log, Sequence: 1}
	err := f.Unit(t.Context(), lane.Unit{Consumer: "c"}, func(_ context.Context, tx lane.Tx) error {
		tx.Park(lane.Parked{Ref: ref, Key: "k", State: lane.ParkedDead, Due: tx.Now(), Message: m})
		tx.DeadLetter(lane.DeadLetter{Ref: ref, Message: m, Kind: mainstay.KindTerminal, Attempts: 1, At: tx.Now()})
		return nil
	})
	noError(t, "parking", err)
	f.to(t, "c", log, 10)
	f.gone(t)
	f.Age(t, "dead_letter", "entered_at", 1000)
	f.clean(t, f.Store.CleanDeadLetters, old())
	f.rows(t, "dead_letter", 1)
	ps, err := f.LoadParked(t.Context(), "c", []lane.Ref{ref})
	noError(t, "loading what is parked", err)
	if len(ps) != 1 || string(ps[0].Message.Payload) != "0" {
		t.Errorf("the dead letter is %+v", ps)
	}
}

func retentionIdempotency(t *testing.T, f *RetentionFixture) {
	expired := ingestRequest("expired", 1, "one")
	expired.Retention = -time.Hour
	ingestAccept(t, f.Store, expired, ingestRequest("kept", 1, "two"))
	res := f.clean(t, f.Store.CleanIdempotency, old())
	if res.Removed["idempotency"] != 1 {
		t.Errorf("removed %v", res.Removed)
	}
	f.rows(t, "idempotency", 1)
	results, _ := ingestAccept(t, f.Store, ingestRequest("kept", 1, "three"))
	ingestIs(t, results[0], ingestRequest("kept", 1, "two"))
}

func retentionDeadLetters(t *testing.T, f *RetentionFixture) {
	log := f.fill(t)
	f.gone(t)
	f.send(t, message("things", "k", "a"))
	err := f.Unit(t.Context(), lane.Unit{Consumer: "c"}, func(_ context.Context, tx lane.Tx) error {
		for _, sequence := range []int64{1, 2, 11} {
			tx.DeadLetter(lane.DeadLetter{
				Ref: lane.Ref{TopicLane: log, Sequence: sequence}, Message: message("things", "k", "x"), Kind: mainstay.KindTerminal, At: tx.Now(),
			})
		}
		return nil
	})
	noError(t, "opening cases", err)
	err = f.Unit(t.Context(), lane.Unit{Consumer: "c"}, func(_ context.Context, tx lane.Tx) error {
		tx.EndDeadLetter(lane.DeadResolved, lane.Ref{TopicLane: log, Sequence: 1}, lane.Ref{TopicLane: log, Sequence: 11})
		return nil
	})
	noError(t, "ending cases", err)
	f.clean(t, f.Store.CleanDeadLetters, old())
	f.rows(t, "dead_letter", 3) // just ended
	f.Age(t, "dead_letter", "ended_at", 31)
	f.clean(t, f.Store.CleanDeadLetters, old())
	f.rows(t, "dead_letter", 2) // one is open, the message of the other is still in the outbox
}

// ended inserts a saga that ended so many days ago, with its history and a step's outcome; 0 is one that runs.
func (f *RetentionFixture) ended(t *testing.T, id string, days int, code string) {
	t.Helper()
	now := clock.System()
	r := &orchestrator.Row{Key: id}
	r.ID, r.CorrelationID, r.Version, r.Data = id, id, 1, []byte("{}")
	r.Definition, r.DefinitionVersion = "order", 1
	r.State = saga.State{Status: saga.Completed, Steps: []saga.StepState{{Name: "reserve", Status: saga.StepDone, Asked: 1, Code: code}}}
	r.CreatedAt, r.UpdatedAt, r.Ended = now, now, now.Add(-time.Duration(days)*aDay)
	if days == 0 {
		r.State.Status, r.Ended = saga.Running, time.Time{}
	}
	err := f.Run(t.Context(), func(ctx context.Context, tx mainstay.Tx) error {
		return f.Insert(ctx, tx, []*orchestrator.Row{r}, []orchestrator.History{{SagaID: id, Version: 1, At: now, Entry: "[]"}})
	})
	noError(t, "inserting a saga", err)
	f.outcome(t, id+"/reserve", mainstay.OpDo)
}

func (f *RetentionFixture) outcome(t *testing.T, step, op string) {
	t.Helper()
	err := f.Unit(t.Context(), lane.Unit{Consumer: "c"}, func(_ context.Context, tx lane.Tx) error {
		tx.PutBarriers(lane.Barrier{StepKey: step, Op: op, Outcome: mainstay.OutcomeDone, MessageID: "m"})
		return nil
	})
	noError(t, "booking an outcome", err)
}

// park parks a message of a step at the consumer, in a lane of its own.
func (f *RetentionFixture) park(t *testing.T, key, step string, sequence int64) {
	t.Helper()
	err := f.Unit(t.Context(), lane.Unit{Consumer: "c"}, func(_ context.Context, tx lane.Tx) error {
		tx.Park(lane.Parked{
			Ref: lane.Ref{TopicLane: mainstay.TopicLane{Topic: "elsewhere"}, Sequence: sequence}, Key: key, State: lane.ParkedRetry, StepKey: step,
			Op: mainstay.OpDo, Due: tx.Now(), Message: message("elsewhere", key, "x"),
		})
		return nil
	})
	noError(t, "parking", err)
}

func retentionSagas(t *testing.T, f *RetentionFixture) {
	f.fill(t)
	f.gone(t)
	for id, days := range map[string]int{"old": 40, "older": 50, "fresh": 29, "running": 0, "parked": 40, "stepping": 40, "dead": 40} {
		f.ended(t, id, days, "")
	}
	f.ended(t, "decided", 40, "skipped")
	f.park(t, "parked", "", 1)
	f.park(t, "other", "stepping/reserve", 2)
	err := f.Unit(t.Context(), lane.Unit{Consumer: "c"}, func(_ context.Context, tx lane.Tx) error {
		tx.DeadLetter(lane.DeadLetter{
			Ref: lane.Ref{TopicLane: mainstay.TopicLane{Topic: "elsewhere"}, Sequence: 3}, Message: message("elsewhere", "dead", "x"), At: tx.Now(),
		})
		return nil
	})
	noError(t, "opening a case", err)
	res := f.clean(t, f.Store.CleanSagas, old())
	equal(t, "removed", map[string]int64{"saga": 2, "saga_history": 2, "barrier": 2}, res.Removed)
	for _, table := range []string{"saga", "saga_history", "barrier"} {
		f.rows(t, table, 6)
	}
}

// retentionSagasWait: as long as the outbox may have a message of a saga, everything about it stays.
func retentionSagasWait(t *testing.T, f *RetentionFixture) {
	register(t, f.Store, "lagging", "things")
	log := f.fill(t)
	f.ended(t, "old", 40, "")
	f.Age(t, "outbox", "created_at", 1)
	f.clean(t, f.Store.CleanOutbox, old())
	f.clean(t, f.Store.CleanSagas, old())
	f.rows(t, "saga", 1)
	f.to(t, "lagging", log, 10)
	f.clean(t, f.Store.CleanOutbox, old())
	f.clean(t, f.Store.CleanSagas, old())
	f.rows(t, "saga", 0)
	f.rows(t, "barrier", 0)
}

func retentionBarrier(t *testing.T, f *RetentionFixture) {
	f.ended(t, "here", 0, "")
	for _, id := range []string{"a", "b", "d", "e", "f", "pair", "parked"} {
		f.outcome(t, id+"/reserve", mainstay.OpDo)
	}
	f.park(t, "k", "parked/reserve", 1)
	f.clean(t, f.Store.CleanBarrier, old())
	f.rows(t, "barrier", 8)
	f.Age(t, "barrier", "created_at", 91)
	f.outcome(t, "young/reserve", mainstay.OpDo)
	f.outcome(t, "pair/reserve", mainstay.OpUndo)
	res := f.clean(t, f.Store.CleanBarrier, old())
	if res.Removed["barrier"] != 5 {
		t.Errorf("removed %v", res.Removed)
	}
	f.rows(t, "barrier", 5) // here, young, parked, and both of the pair
}

func retentionFenced(t *testing.T, f *RetentionFixture) {
	f.fill(t)
	f.Age(t, "outbox", "created_at", 1)
	expired := ingestRequest("expired", 1, "one")
	expired.Retention = -time.Hour
	ingestAccept(t, f.Store, expired)
	_, err := f.Acquire(t.Context(), retention.LeaseName, []int{0}, "another", time.Minute, true)
	noError(t, "taking over", err)
	for range 2 {
		_, err = f.Store.CleanOutbox(t.Context(), retention.Step{Lease: f.lease, Limits: old(), Rows: 100})
		fenced(t, "cleaning the outbox", err)
	}
	_, err = f.Store.CleanIdempotency(t.Context(), retention.Step{Lease: f.lease, Limits: old(), Rows: 100})
	fenced(t, "cleaning records", err)
	f.rows(t, "outbox", 10)
	f.rows(t, "idempotency", 1)
}

func retentionDry(t *testing.T, f *RetentionFixture) {
	f.fill(t)
	f.Age(t, "outbox", "created_at", 1)
	expired := ingestRequest("expired", 1, "one")
	expired.Retention = -time.Hour
	ingestAccept(t, f.Store, expired)
	for name, task := range map[string]func(context.Context, retention.Step) (retention.Result, error){
		"outbox": f.Store.CleanOutbox, "idempotency": f.Store.CleanIdempotency,
	} {
		_, err := task(t.Context(), retention.Step{Lease: f.lease, Limits: old(), Rows: 100, DryRun: true})
		noError(t, "a dry run on "+name, err)
	}
	f.rows(t, "outbox", 10)
	f.rows(t, "idempotency", 1)
	f.rows(t, "log_floor", 0)
	f.rows(t, "cleaned", 0)
}

func retentionForEver(t *testing.T, f *RetentionFixture) {
	f.fill(t)
	f.Age(t, "outbox", "created_at", 1)
	f.outcome(t, "a/reserve", mainstay.OpDo)
	f.Age(t, "barrier", "created_at", 10_000)
	for _, task := range []func(context.Context, retention.Step) (retention.Result, error){
		f.Store.CleanOutbox, f.Store.CleanSagas, f.Store.CleanBarrier, f.Store.CleanDeadLetters,
	} {
		f.clean(t, task, retention.Limits{})
	}
	f.rows(t, "outbox", 10)
	f.rows(t, "barrier", 1)
}
