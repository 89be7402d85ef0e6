package orchestrator_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/migrate"
	"github.com/mainstay-io/mainstay/internal/orchestrator"
	"github.com/mainstay-io/mainstay/internal/store/sqlite"
	"github.com/mainstay-io/mainstay/saga"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// trip books two things at once, then pays.
func trip(version int) saga.Definition {
	ask := saga.Retry{Timeout: time.Second, Max: time.Second, Attempts: 2}
	step := func(name string) saga.Step {
		return saga.Step{
			Name: name, Topic: name + "s", Command: name + ".book", Rejects: true, Ask: ask,
			Compensation: &saga.Compensation{Command: name + ".cancel", Ask: ask},
		}
	}
	return saga.Definition{
		Name: "trip", Version: version, Topic: "trip-replies", Deadline: time.Hour,
		Groups: [][]saga.Step{
			{step("flight"), step("hotel")},
			{{Name: "pay", Topic: "bank", Command: "bank.charge", Rejects: true, Pivot: true, Ask: ask}},
		},
	}
}

// binding notes what changed.
type binding struct {
	changes []string
	err     error
}

func (b *binding) Commands(_ context.Context, _ mainstay.Tx, cmds []*saga.Command) error {
	for _, c := range cmds {
		c.Payload = append([]byte(nil), c.Instance.Data...)
		c.Headers = map[string]string{"tenant": "t", mainstay.HeaderSaga: "not this"}
	}
	return b.err
}

func (b *binding) Changed(_ context.Context, _ mainstay.Tx, changes []saga.Change) error {
	for _, c := range changes {
		b.changes = append(b.changes, fmt.Sprint(c.From, " > ", c.Instance.State.Status))
	}
	return nil
}

type world struct {
	*binding
	store *sqlite.Store
	now   time.Time
	o     *orchestrator.Orchestrator
}

func setup(t *testing.T, versions ...saga.Definition) *world {
	t.Helper()
	path := filepath.Join(t.TempDir(), "test.db")
	db, err := sql.Open("sqlite", sqlite.DSN(path, "OFF", false))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close() // a test's connection
	if _, err := migrate.Up(t.Context(), db, mainstay.SQLite, 4); err != nil {
		t.Fatal(err)
	}
	w := &world{binding: &binding{}, now: time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)}
	w.store, err = sqlite.Open(t.Context(), sqlite.Config{Path: path, Sync: "OFF", Clock: func() time.Time { return w.now }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.store.Close(); err != nil {
			t.Error(err)
		}
	})
	if versions == nil {
		versions = []saga.Definition{trip(1)}
	}
	w.o = w.orchestrator(t, versions...)
	return w
}

func (w *world) orchestrator(t *testing.T, versions ...saga.Definition) *orchestrator.Orchestrator {
	t.Helper()
	o, err := orchestrator.New(orchestrator.Config{Store: w.store, Versions: versions, Binding: w.binding, Lanes: 4, Source: "test"})
	if err != nil {
		t.Fatal(err)
	}
	return o
}

const (
	idA = "0190f7c2-0000-7000-8000-00000000000a"
	idB = "0190f7c2-0000-7000-8000-00000000000b"
)

func (w *world) start(t *testing.T, ids ...string) {
	t.Helper()
	var begins []orchestrator.Begin
	for _, id := range ids {
		begins = append(begins, orchestrator.Begin{ID: id, CorrelationID: id, Key: "key", Data: []byte(`{"x":1}`), Traceparent: "00-1"})
	}
	err := w.store.Run(t.Context(), func(ctx context.Context, tx mainstay.Tx) error { return w.o.Start(ctx, tx, begins) })
	if err != nil {
		t.Fatal(err)
	}
}

func reply(id, step, op string, outcome mainstay.Outcome) *mainstay.Message {
	return &mainstay.Message{
		ID: "0190f7c2-0000-7000-8000-0000000000ff", Topic: "trip-replies", Key: "key", Type: "x." + string(outcome), Traceparent: "00-2",
		Headers: map[string]string{
			mainstay.HeaderSaga: id, mainstay.HeaderStep: step, mainstay.HeaderOp: op,
			mainstay.HeaderOutcome: string(outcome), mainstay.HeaderCode: "full",
		},
		Payload: []byte(`{"detail":"no room"}`),
	}
}

func (w *world) handle(t *testing.T, ms ...*mainstay.Message) (errs []error, err error) {
	t.Helper()
	err = w.store.Run(t.Context(), func(ctx context.Context, tx mainstay.Tx) (err error) {
		errs, err = w.o.HandleBatch(ctx, tx, ms)
		return err
	})
	return errs, err
}

func (w *world) must(t *testing.T, ms ...*mainstay.Message) {
	t.Helper()
	if errs, err := w.handle(t, ms...); errors.Join(append(errs, err)...) != nil {
		t.Fatal(errs, err)
	}
}

func (w *world) row(t *testing.T, id string) *orchestrator.Row {
	t.Helper()
	var rows []*orchestrator.Row
	err := w.store.Run(t.Context(), func(ctx context.Context, tx mainstay.Tx) (err error) {
		rows, err = w.store.Load(ctx, tx, []string{id})
		return err
	})
	if err != nil || len(rows) != 1 {
		t.Fatal(rows, err)
	}
	return rows[0]
}

// sent are the types of all commands so far.
func (w *world) sent(t *testing.T) []string {
	t.Helper()
	rows, err := w.store.Reader().QueryContext(t.Context(), "select type from outbox order by position")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var types []string
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			t.Fatal(err)
		}
		types = append(types, s)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return types
}

func (w *world) wantSent(t *testing.T, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, w.sent(t)); diff != "" {
		t.Fatalf("commands (-want +got):\n%s", diff)
	}
}

func TestStart_SendsTheFirstCommands(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.start(t, idA)
	w.wantSent(t, "flight.book", "hotel.book")
	log := mainstay.TopicLane{Topic: "flights", Lane: w.row(t, idA).Lane}
	ms, err := w.store.ReadLog(t.Context(), map[mainstay.TopicLane]int64{log: 0}, 1)
	if err != nil || len(ms) != 1 {
		t.Fatal(ms, err)
	}
	want := map[string]string{
		"tenant": "t", mainstay.HeaderSaga: idA, mainstay.HeaderStep: "flight", mainstay.HeaderOp: mainstay.OpDo, mainstay.HeaderReplyTo: "trip-replies",
	}
	if diff := cmp.Diff(want, ms[0].Headers); diff != "" {
		t.Fatal(diff)
	}
	if m := ms[0]; m.Key != "key" || string(m.Payload) != `{"x":1}` || m.CorrelationID != idA || m.Traceparent != "00-1" || m.Source != "test" {
		t.Fatalf("command %+v", m)
	}
	if len(w.changes) != 0 {
		t.Fatalf("changes %v", w.changes)
	}
}

func TestHandleBatch_SeveralRepliesOfOneSaga(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.start(t, idA, idB)
	do, done := mainstay.OpDo, mainstay.OutcomeDone
	w.must(t, reply(idA, "flight", do, done), reply(idB, "flight", do, done), reply(idA, "hotel", do, done), reply(idA, "pay", do, done))
	w.wantSent(t, "flight.book", "hotel.book", "flight.book", "hotel.book", "bank.charge")
	if a, b := w.row(t, idA), w.row(t, idB); a.Version != 2 || a.State.Status != saga.Completed || a.Ended.IsZero() || b.Version != 2 || b.State.Status != saga.Running {
		t.Fatalf("a %+v, b %+v", a, b)
	}
	if diff := cmp.Diff([]string{"running > completed"}, w.changes); diff != "" {
		t.Fatal(diff)
	}
	w.must(t, reply(idA, "pay", do, done)) // late: it changes nothing
	if v := w.row(t, idA).Version; v != 2 {
		t.Fatalf("version %d after a late reply", v)
	}
}

func TestHandleBatch_Compensates(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.start(t, idA)
	w.must(t, reply(idA, "flight", mainstay.OpDo, mainstay.OutcomeDone), reply(idA, "hotel", mainstay.OpDo, mainstay.OutcomeRejected))
	w.wantSent(t, "flight.book", "hotel.book", "flight.cancel")
	w.must(t, reply(idA, "flight", mainstay.OpUndo, mainstay.OutcomeDone))
	row := w.row(t, idA)
	if row.State.Status != saga.Compensated || row.State.Reason.Code != "full" || row.State.Reason.Detail != "no room" || !row.Due.IsZero() {
		t.Fatalf("row %+v", row)
	}
	if diff := cmp.Diff([]string{"running > compensating", "compensating > compensated"}, w.changes); diff != "" {
		t.Fatal(diff)
	}
}

func TestHandleBatch_RefusesUnknownSagas(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.start(t, idA)
	ids := []string{idB, "", "nonsense", strings.ReplaceAll(idA, "-", ""), "urn:uuid:" + idA}
	ms := []*mainstay.Message{reply(idA, "flight", mainstay.OpDo, mainstay.OutcomeDone)}
	for _, id := range ids {
		ms = append(ms, reply(id, "flight", mainstay.OpDo, mainstay.OutcomeDone))
	}
	errs, err := w.handle(t, ms...)
	if err != nil || errs[0] != nil {
		t.Fatal(errs, err)
	}
	for i, id := range ids {
		if mainstay.KindOf(t.Context(), errs[i+1]) != mainstay.KindTerminal {
			t.Errorf("%q: %v", id, errs[i+1])
		}
	}
	if w.row(t, idA).Version != 2 {
		t.Fatal("the known saga has not changed")
	}
}

func TestVersions_EachInstanceKeepsItsOwn(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.start(t, idA)
	w.o = w.orchestrator(t, trip(2))
	errs, err := w.handle(t, reply(idA, "flight", mainstay.OpDo, mainstay.OutcomeDone))
	if err != nil || mainstay.KindOf(t.Context(), errs[0]) != mainstay.KindRetryable || errs[0] == nil {
		t.Fatalf("a version that nobody knows: %v, %v", errs, err)
	}
	w.o = w.orchestrator(t, trip(1), trip(2))
	w.must(t, reply(idA, "flight", mainstay.OpDo, mainstay.OutcomeDone))
	w.start(t, idB)
	if a, b := w.row(t, idA), w.row(t, idB); a.DefinitionVersion != 1 || b.DefinitionVersion != 2 {
		t.Fatalf("versions %d and %d", a.DefinitionVersion, b.DefinitionVersion)
	}
}

// fire lets the clock go on to when the first timer is due, and fires what is.
func (w *world) fire(t *testing.T) int {
	t.Helper()
	w.now = w.row(t, idA).Due
	ids, err := w.o.Due(t.Context(), []int{0, 1, 2, 3}, w.now, 10)
	if err != nil {
		t.Fatal(err)
	}
	again := append(append([]string{}, ids...), ids...)
	err = w.store.Run(t.Context(), func(ctx context.Context, tx mainstay.Tx) error { return w.o.Fire(ctx, tx, again) })
	if err != nil {
		t.Fatal(err)
	}
	if len(ids) > 0 && again[0] != ids[0] {
		t.Fatal("the caller's ids were changed")
	}
	return len(ids)
}

func TestFire_AsksAgainAndNeedsAnOperator(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.start(t, idA)
	if ids, err := w.o.Due(t.Context(), []int{0, 1, 2, 3}, w.now, 10); err != nil || len(ids) != 0 {
		t.Fatalf("due at once: %v, %v", ids, err)
	}
	if n := w.fire(t); n != 1 {
		t.Fatalf("%d due", n)
	}
	w.wantSent(t, "flight.book", "hotel.book", "flight.book", "hotel.book")
	w.fire(t)
	if s := w.row(t, idA).State.Status; s != saga.NeedsOperator {
		t.Fatalf("status %s", s)
	}
	w.must(t, reply(idA, "flight", mainstay.OpDo, mainstay.OutcomeDone), reply(idA, "hotel", mainstay.OpDo, mainstay.OutcomeDone))
	want := []string{"running > needs_operator", "needs_operator > running"}
	if diff := cmp.Diff(want, w.changes); diff != "" {
		t.Fatal(diff)
	}
}

func TestAbandon_NeedsAnOperator(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.start(t, idA)
	w.now = w.row(t, idA).Due
	sent := w.sent(t)
	for range 2 { // what is not there any more, or was given up before, is left alone
		err := w.store.Run(t.Context(), func(ctx context.Context, tx mainstay.Tx) error {
			return errors.Join(w.o.Abandon(ctx, tx, idA, errors.New("4 processes")), w.o.Abandon(ctx, tx, "nobody", errors.New("4 processes")))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	row := w.row(t, idA)
	for _, name := range []string{"flight", "hotel"} {
		if st, _ := row.State.Step(name); st.Status != saga.StepFailed || st.Code != saga.CodeCrash || st.Detail != "4 processes" {
			t.Errorf("step %s is %+v", name, st)
		}
	}
	if row.State.Status != saga.NeedsOperator || !row.Due.IsZero() && !row.Due.After(w.now) {
		t.Errorf("status %s, due %v, now %v", row.State.Status, row.Due, w.now)
	}
	w.wantSent(t, sent...)
	if diff := cmp.Diff([]string{"running > needs_operator"}, w.changes); diff != "" {
		t.Error(diff)
	}
	w.must(t, reply(idA, "flight", mainstay.OpDo, mainstay.OutcomeDone), reply(idA, "hotel", mainstay.OpDo, mainstay.OutcomeDone))
	if s := w.row(t, idA).State.Status; s != saga.Running {
		t.Errorf("after the replies: %s", s)
	}
}

func TestHandleBatch_FailsAsAWhole(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.start(t, idA)
	w.err = errors.New("no address")
	ms := []*mainstay.Message{reply(idA, "flight", mainstay.OpDo, mainstay.OutcomeDone), reply(idA, "hotel", mainstay.OpDo, mainstay.OutcomeDone)}
	if _, err := w.handle(t, ms...); !errors.Is(err, w.err) {
		t.Fatalf("got %v", err)
	}
	if v := w.row(t, idA).Version; v != 1 {
		t.Fatalf("version %d", v)
	}
	w.err = nil
	w.must(t, ms...)
	w.wantSent(t, "flight.book", "hotel.book", "bank.charge")
}

// conflicting answers Load with a row that somebody else changes before Save.
type conflicting struct{ *sqlite.Store }

func (c conflicting) Load(ctx context.Context, tx mainstay.Tx, ids []string) ([]*orchestrator.Row, error) {
	rows, err := c.Store.Load(ctx, tx, ids)
	if err == nil {
		_, err = tx.ExecContext(ctx, "update saga set version = version + 1")
	}
	return rows, err
}

func TestHandleBatch_ComparesVersions(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.start(t, idA)
	o, err := orchestrator.New(orchestrator.Config{
		Store: conflicting{w.store}, Versions: []saga.Definition{trip(1)}, Binding: w.binding, Lanes: 4, Source: "test",
	})
	if err != nil {
		t.Fatal(err)
	}
	w.o = o
	if _, err := w.handle(t, reply(idA, "flight", mainstay.OpDo, mainstay.OutcomeDone)); err == nil {
		t.Fatal("it was saved over another's change")
	}
	if v := w.row(t, idA).Version; v != 1 {
		t.Fatalf("version %d", v)
	}
}

func TestCommandTopics_OfAllVersions(t *testing.T) {
	t.Parallel()
	second := trip(2)
	second.Groups[1][0].Topic = "purse"
	if diff := cmp.Diff([]string{"bank", "flights", "hotels", "purse"}, setup(t, trip(1), second).o.CommandTopics()); diff != "" {
		t.Fatal(diff)
	}
}

func TestNew_Refuses(t *testing.T) {
	t.Parallel()
	other := trip(2)
	other.Topic = "elsewhere"
	wrong := trip(1)
	wrong.Deadline = 0
	for name, versions := range map[string][]saga.Definition{
		"no version": nil, "another topic": {trip(1), other}, "a definition with mistakes": {wrong},
	} {
		if _, err := orchestrator.New(orchestrator.Config{Versions: versions}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// A transition leaves an earlier due time where it is; the tick that comes too early moves it on, and does nothing else.
func TestFire_TooEarlyOnlyMovesTheDueTime(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.start(t, idA)
	first := w.row(t, idA).Due
	w.now = w.now.Add(time.Second)
	w.must(t, reply(idA, "flight", mainstay.OpDo, mainstay.OutcomeDone), reply(idA, "hotel", mainstay.OpDo, mainstay.OutcomeDone))
	before := w.row(t, idA)
	if !before.Due.Equal(first) || !before.State.Due().After(first) {
		t.Fatalf("due %v, its state %v, at first %v", before.Due, before.State.Due(), first)
	}
	sent := w.sent(t)
	if n := w.fire(t); n != 1 {
		t.Fatalf("%d due", n)
	}
	want := *before
	want.Due = before.State.Due()
	if diff := cmp.Diff(&want, w.row(t, idA)); diff != "" {
		t.Fatal(diff)
	}
	w.wantSent(t, sent...)
}
