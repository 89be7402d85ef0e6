package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/lane"
	"github.com/mainstay-io/mainstay/internal/lease"
	"github.com/mainstay-io/mainstay/internal/orchestrator"
	"github.com/mainstay-io/mainstay/internal/relay"
)

// Machinery is what a store keeps for lanes, relays and sagas.
type Machinery interface {
	lane.Store
	relay.Store
	orchestrator.Store
	Run(ctx context.Context, fn func(ctx context.Context, tx mainstay.Tx) error) error
}

// Fixture is an empty store with at least two lanes. Settle, where it is set, numbers what was committed: a store with
// one writer does so at append.
type Fixture struct {
	Machinery
	Settle func(t *testing.T)
}

type machineryTests map[string]func(*testing.T, *Fixture)

func (tests machineryTests) run(t *testing.T, newFixture func(t *testing.T) *Fixture) {
	t.Helper()
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			if f.Settle == nil {
				f.Settle = func(*testing.T) {}
			}
			test(t, f)
		})
	}
}

func message(topic, key, payload string) *mainstay.Message {
	return &mainstay.Message{
		Topic: topic, Key: key, Type: "test.happened", Source: "test", AggregateType: "thing", AggregateID: key,
		CorrelationID: "story", CausationID: "cause", Traceparent: "00-1-2-3", DataSchema: "s1",
		Headers: map[string]string{"h": "v"}, Payload: []byte(payload),
	}
}

func (f *Fixture) send(t *testing.T, ms ...*mainstay.Message) {
	t.Helper()
	err := f.Run(t.Context(), func(_ context.Context, tx mainstay.Tx) error {
		tx.Send(ms...)
		return nil
	})
	if err != nil {
		t.Fatalf("sending: %v", err)
	}
	f.Settle(t)
}

// read gives the payloads of a log behind a sequence, and fails when its sequences are not dense.
func (f *Fixture) read(t *testing.T, log mainstay.TopicLane, after int64, limit int) []*mainstay.Message {
	t.Helper()
	ms, err := f.ReadLog(t.Context(), map[mainstay.TopicLane]int64{log: after}, limit)
	if err != nil {
		t.Fatalf("reading the log: %v", err)
	}
	for i, m := range ms {
		if m.Sequence != after+1+int64(i) || m.TopicLane() != log {
			t.Fatalf("message %d behind %d of %v is %d of %v", i, after, log, m.Sequence, m.TopicLane())
		}
	}
	return ms
}

func payloads(ms []*mainstay.Message) string {
	s := ""
	for _, m := range ms {
		s += string(m.Payload)
	}
	return s
}

func equal(t *testing.T, what string, want, got any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("%s (-want +got):\n%s", what, diff)
	}
}

func noError(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func fenced(t *testing.T, what string, err error) {
	t.Helper()
	if !errors.Is(err, lease.ErrFenced) {
		t.Fatalf("%s: got %v, want fenced", what, err)
	}
}

// Leases is the conformance suite of lease.Store.
func Leases(t *testing.T, newFixture func(t *testing.T) *Fixture) {
	machineryTests{
		"one holder at a time":        leasesOneHolder,
		"a holder takes its own anew": leasesOwn,
		"force takes all":             leasesForce,
		"a lost lease is not renewed": leasesRenew,
		"a lease runs out":            leasesExpire,
		"names are apart":             leasesNames,
		"one that attends is counted": leasesAttend,
	}.run(t, newFixture)
}

func (f *Fixture) acquire(t *testing.T, name, holder string, ttl time.Duration, force bool, lanes ...int) []lease.Lease {
	t.Helper()
	ls, err := f.Acquire(t.Context(), name, lanes, holder, ttl, force)
	noError(t, "acquiring", err)
	return ls
}

// Sharing is the conformance suite of lease.Sharing, for stores that several processes may use at a time.
func Sharing(t *testing.T, newFixture func(t *testing.T) *Fixture) {
	machineryTests{
		"members are counted by name":    sharingMembers,
		"what others hold is told":       sharingTaken,
		"one that falls silent is gone":  sharingSilence,
		"one that leaves is gone":        sharingLeave,
		"one that comes back is counted": sharingReturn,
	}.run(t, newFixture)
}

func (f *Fixture) attend(t *testing.T, name, holder string, ttl time.Duration) lease.Standing {
	t.Helper()
	standing, err := f.Attend(t.Context(), name, holder, ttl)
	noError(t, "attending", err)
	slices.Sort(standing.Taken)
	return standing
}

func leasesAttend(t *testing.T, f *Fixture) {
	f.acquire(t, "c", "x", time.Minute, false, 0)
	for range 2 {
		equal(t, "standing", lease.Standing{Members: 1}, f.attend(t, "c", "x", time.Minute))
	}
	noError(t, "leaving", f.Leave(t.Context(), "c", "x"))
	noError(t, "leaving again", f.Leave(t.Context(), "c", "x"))
}

func sharingMembers(t *testing.T, f *Fixture) {
	for i, holder := range []string{"x", "y", "z"} {
		equal(t, "members", i+1, f.attend(t, "c", holder, time.Minute).Members)
	}
	equal(t, "members of another name", 1, f.attend(t, "d", "x", time.Minute).Members)
	equal(t, "members", 3, f.attend(t, "c", "x", time.Minute).Members)
}

func sharingTaken(t *testing.T, f *Fixture) {
	f.acquire(t, "c", "x", time.Minute, false, 0, 3)
	f.acquire(t, "c", "y", time.Minute, false, 1)
	f.acquire(t, "c", "z", time.Microsecond, false, 2)
	f.acquire(t, "d", "y", time.Minute, false, 2)
	equal(t, "taken", []int{1}, f.attend(t, "c", "x", time.Minute).Taken)
	equal(t, "taken", []int{0, 3}, f.attend(t, "c", "y", time.Minute).Taken)
	equal(t, "taken", []int{0, 1, 3}, f.attend(t, "c", "new", time.Minute).Taken)
}

func sharingSilence(t *testing.T, f *Fixture) {
	f.attend(t, "c", "x", time.Microsecond)
	equal(t, "members", 1, f.attend(t, "c", "y", time.Minute).Members)
}

func sharingLeave(t *testing.T, f *Fixture) {
	f.attend(t, "c", "x", time.Minute)
	equal(t, "members", 2, f.attend(t, "c", "y", time.Minute).Members)
	noError(t, "leaving", f.Leave(t.Context(), "c", "x"))
	equal(t, "members after one has left", 1, f.attend(t, "c", "y", time.Minute).Members)
}

func sharingReturn(t *testing.T, f *Fixture) {
	f.attend(t, "c", "x", time.Microsecond)
	f.attend(t, "c", "y", time.Minute)
	equal(t, "members", 2, f.attend(t, "c", "x", time.Minute).Members)
	equal(t, "members", 2, f.attend(t, "c", "y", time.Minute).Members)
}

func leasesOneHolder(t *testing.T, f *Fixture) {
	equal(t, "taken", []lease.Lease{{Name: "c", Lane: 0, Epoch: 1}, {Name: "c", Lane: 1, Epoch: 1}}, f.acquire(t, "c", "x", time.Minute, false, 0, 1))
	equal(t, "taken from a holder", 0, len(f.acquire(t, "c", "y", time.Minute, false, 0, 1)))
	noError(t, "releasing", f.Release(t.Context(), "x", []lease.Lease{{Name: "c", Lane: 1, Epoch: 1}}))
	equal(t, "taken after a release", []lease.Lease{{Name: "c", Lane: 1, Epoch: 2}}, f.acquire(t, "c", "y", time.Minute, false, 0, 1))
	noError(t, "releasing what another holds", f.Release(t.Context(), "x", []lease.Lease{{Name: "c", Lane: 1, Epoch: 2}, {Name: "c", Lane: 1, Epoch: 1}}))
	equal(t, "taken after a stranger's release", 0, len(f.acquire(t, "c", "x", time.Minute, false, 1)))
}

func leasesOwn(t *testing.T, f *Fixture) {
	f.acquire(t, "c", "x", time.Minute, false, 0)
	equal(t, "taken", []lease.Lease{{Name: "c", Lane: 0, Epoch: 2}}, f.acquire(t, "c", "x", time.Minute, false, 0))
}

func leasesForce(t *testing.T, f *Fixture) {
	f.acquire(t, "c", "x", time.Minute, false, 0)
	equal(t, "taken", []lease.Lease{{Name: "c", Lane: 0, Epoch: 2, Unclean: true, From: "x"}}, f.acquire(t, "c", "y", time.Minute, true, 0))
}

func leasesRenew(t *testing.T, f *Fixture) {
	ls := f.acquire(t, "c", "x", time.Minute, false, 0, 1)
	f.acquire(t, "c", "y", time.Minute, true, 1)
	kept, err := f.Renew(t.Context(), "x", ls, time.Minute)
	noError(t, "renewing", err)
	equal(t, "kept", ls[:1], kept)
}

func leasesExpire(t *testing.T, f *Fixture) {
	f.acquire(t, "c", "x", -time.Second, false, 0)
	equal(t, "taken", []lease.Lease{{Name: "c", Lane: 0, Epoch: 2, Unclean: true, From: "x"}}, f.acquire(t, "c", "y", time.Minute, false, 0))
}

func leasesNames(t *testing.T, f *Fixture) {
	f.acquire(t, "c", "x", time.Minute, false, 0)
	equal(t, "taken", []lease.Lease{{Name: "d", Lane: 0, Epoch: 1}}, f.acquire(t, "d", "y", time.Minute, false, 0))
}

// Log is the conformance suite of the log and of relay.Store.
func Log(t *testing.T, newFixture func(t *testing.T) *Fixture) {
	machineryTests{
		"sequences are dense, in the order of Send": logDense,
		"a message comes back whole":                logWhole,
		"heads, and where reading ends":             logHeads,
		"a reader is woken":                         logWake,
		"progress under a lease":                    logProgress,
		"refills":                                   logRefills,
		"incarnations":                              logIncarnations,
		"who was fenced by one knows of it":         logIncarnationsAreKnown,
		"the lowest places":                         logMinPlaces,
		"a refused message, once":                   logDeadLetter,
		"the limit is for all logs":                 logLimit,
	}.run(t, newFixture)
}

func logDense(t *testing.T, f *Fixture) {
	var first *mainstay.Message
	for i := range 4 {
		var ms []*mainstay.Message
		for j := range 3 {
			ms = append(ms, message("a", "k", fmt.Sprint(3*i+j)), message("b", "k", "x"))
		}
		f.send(t, ms...)
		if first == nil {
			first = ms[0]
		}
	}
	ms := f.read(t, first.TopicLane(), 0, 100)
	equal(t, "the log", "01234567891011", payloads(ms))
	equal(t, "its rest", "1011", payloads(f.read(t, first.TopicLane(), 10, 100)))
	equal(t, "other log", 12, len(f.read(t, mainstay.TopicLane{Topic: "b", Lane: first.Lane}, 0, 100)))
}

func logWhole(t *testing.T, f *Fixture) {
	want := message("a", "k", "\x00\xff")
	f.send(t, want)
	got := f.read(t, want.TopicLane(), 0, 10)
	equal(t, "messages", 1, len(got))
	if got[0].Incarnation != 1 || got[0].CreatedAt.IsZero() {
		t.Fatalf("got %+v", got[0])
	}
	whole := *want
	whole.Incarnation, whole.Sequence, whole.CreatedAt = 1, 1, got[0].CreatedAt
	equal(t, "message", &whole, got[0])
}

func logHeads(t *testing.T, f *Fixture) {
	heads, err := f.Heads(t.Context())
	noError(t, "reading heads", err)
	equal(t, "heads of an empty store", 0, len(heads))
	m := message("a", "k", "1")
	f.send(t, m, message("a", "k", "2"))
	heads, err = f.Heads(t.Context())
	noError(t, "reading heads", err)
	equal(t, "heads", map[mainstay.TopicLane]int64{m.TopicLane(): 2}, heads)
	equal(t, "behind the head", 0, len(f.read(t, m.TopicLane(), 2, 10)))
	equal(t, "of another log", 0, len(f.read(t, mainstay.TopicLane{Topic: "z"}, 0, 10)))
	ms, err := f.ReadLog(t.Context(), nil, 10)
	if err != nil || len(ms) != 0 {
		t.Fatalf("reading no log: %v, %v", ms, err)
	}
}

func logWake(t *testing.T, f *Fixture) {
	wake, stop := f.Wake()
	defer stop()
	other, stopOther := f.Wake()
	stopOther()
	f.send(t, message("a", "k", "1"))
	select {
	case <-wake:
	case <-time.After(10 * time.Second):
		t.Fatal("nobody was woken")
	}
	select {
	case <-other:
		t.Fatal("a stopped reader was woken")
	default:
	}
}

func logProgress(t *testing.T, f *Fixture) {
	ls := f.acquire(t, "relay", "x", time.Minute, false, 0)
	at := relay.Progress{TopicLane: mainstay.TopicLane{Topic: "a"}, Incarnation: 1, Sequence: 7, MessageID: "0190f7c2-0000-7000-8000-000000000001", BrokerPosition: 9}
	noError(t, "saving", f.SaveProgress(t.Context(), relay.Save{Leases: ls, Progress: []relay.Progress{at}}))
	at.Sequence, at.BrokerPosition = 5, 1 // refilled
	noError(t, "saving what went back", f.SaveProgress(t.Context(), relay.Save{Leases: ls, Progress: []relay.Progress{at}}))
	further := at
	further.Sequence = 100
	f.acquire(t, "relay", "y", time.Minute, true, 0)
	fenced(t, "saving with a lost lease", f.SaveProgress(t.Context(), relay.Save{Leases: ls, Progress: []relay.Progress{further}}))
	ps, err := f.Progress(t.Context())
	noError(t, "reading", err)
	equal(t, "progress", []relay.Progress{at}, ps)
}

func logRefills(t *testing.T, f *Fixture) {
	ls := f.acquire(t, "relay", "x", time.Minute, false, 0)
	at := relay.Refill{TopicLane: mainstay.TopicLane{Topic: "a"}, Sequence: 7, Reason: "because"}
	begin := func(sequence int64) {
		noError(t, "beginning", f.StartRefill(t.Context(), relay.Refill{TopicLane: at.TopicLane, Sequence: sequence, Reason: "because"}))
	}
	advance := func(from, to int64, done bool) {
		noError(t, "moving", f.SaveProgress(t.Context(), relay.Save{Leases: ls, Refills: []relay.Advance{{TopicLane: at.TopicLane, From: from, To: to, Done: done}}}))
	}
	wants := func(what string, want ...relay.Refill) {
		t.Helper()
		got, err := f.Refills(t.Context())
		noError(t, "reading", err)
		equal(t, what, want, append([]relay.Refill(nil), got...))
	}
	begin(7)
	begin(9)
	wants("one that is asked for again, further on", at)
	advance(7, 8, false)
	at.Sequence = 8
	wants("moved", at)
	begin(3)
	advance(8, 9, true)
	at.Sequence = 3
	wants("taken back while a round was under way", at)
	f.acquire(t, "relay", "y", time.Minute, true, 0)
	fenced(t, "moving with a lost lease", f.SaveProgress(t.Context(), relay.Save{Leases: ls, Refills: []relay.Advance{{TopicLane: at.TopicLane, From: 3, To: 9}}}))
	ls = f.acquire(t, "relay", "y", time.Minute, true, 0)
	advance(3, 9, true)
	wants("ended")
}

func logMinPlaces(t *testing.T, f *Fixture) {
	m := message("a", "k", "1")
	f.send(t, m, message("a", "k", "2"))
	noError(t, "registering", f.Register(t.Context(), lane.Registration{Consumer: "late", Topics: []string{"a"}, Latest: true}))
	min, err := f.MinPlaces(t.Context())
	noError(t, "reading", err)
	equal(t, "lowest place", int64(2), min[m.TopicLane()])
	noError(t, "registering", f.Register(t.Context(), lane.Registration{Consumer: "early", Topics: []string{"a", "b"}}))
	min, err = f.MinPlaces(t.Context())
	noError(t, "reading", err)
	equal(t, "lowest place", int64(0), min[m.TopicLane()])
}

func logDeadLetter(t *testing.T, f *Fixture) {
	m := message("a", "k", "1")
	f.send(t, m)
	m = f.read(t, m.TopicLane(), 0, 1)[0]
	noError(t, "recording", f.Machinery.DeadLetter(t.Context(), m, errors.New("too large \x00\xff")))
	equal(t, "state", "open", f.deadState(t, "relay", m))
	u := lane.Unit{Consumer: "relay"}
	err := f.Unit(t.Context(), u, func(_ context.Context, tx lane.Tx) error {
		tx.EndDeadLetter(lane.DeadResolved, lane.Ref{TopicLane: m.TopicLane(), Sequence: m.Sequence})
		return nil
	})
	noError(t, "ending the case", err)
	noError(t, "recording again", f.Machinery.DeadLetter(t.Context(), m, errors.New("too large")))
	equal(t, "state when it comes again", "resolved", f.deadState(t, "relay", m))
}

// deadState reads the state of a message's case, "" when there is none.
func (f *Fixture) deadState(t *testing.T, consumer string, m *mainstay.Message) string {
	t.Helper()
	return f.text(t, "select state from dead_letter where consumer = $1 and topic = $2 and sequence = $3", consumer, m.Topic, m.Sequence)
}

// text reads the first column of the first row as text, "" when there is none.
func (f *Fixture) text(t *testing.T, query string, args ...any) (text string) {
	t.Helper()
	err := f.Run(t.Context(), func(ctx context.Context, tx mainstay.Tx) error {
		rows, err := tx.QueryContext(ctx, query, args...)
		if err != nil {
			return err
		}
		defer rows.Close() // rows.Err tells
		if rows.Next() {
			if err := rows.Scan(&text); err != nil {
				return err
			}
		}
		return rows.Err()
	})
	noError(t, query, err)
	return text
}

func logLimit(t *testing.T, f *Fixture) {
	var ms []*mainstay.Message
	after := map[mainstay.TopicLane]int64{}
	for i := range 40 {
		ms = append(ms, message("a", fmt.Sprint(i%4), fmt.Sprint(i)), message("b", fmt.Sprint(i%4), fmt.Sprint(i)))
	}
	f.send(t, ms...)
	for _, m := range ms {
		after[m.TopicLane()] = 0
	}
	got := 0
	for range 100 {
		page, err := f.ReadLog(t.Context(), after, 10)
		noError(t, "reading", err)
		if len(page) > 10 {
			t.Fatalf("%d messages, more than 10", len(page))
		}
		for _, m := range page {
			if m.Sequence != after[m.TopicLane()]+1 {
				t.Fatalf("%v: %d comes after %d", m.TopicLane(), m.Sequence, after[m.TopicLane()])
			}
			after[m.TopicLane()] = m.Sequence
		}
		got += len(page)
		if len(page) == 0 {
			break
		}
	}
	equal(t, "messages", len(ms), got)
}
