package storetest

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/orchestrator"
	"github.com/mainstay-io/mainstay/saga"
)

// Sagas is the conformance suite of orchestrator.Store.
func Sagas(t *testing.T, newFixture func(t *testing.T) *Fixture) {
	machineryTests{
		"inserted, loaded, saved":        sagasRoundTrip,
		"a version is compared and set":  sagasCompareAndSet,
		"the oldest of a lane are due":   sagasDue,
		"postponed, and nothing else":    sagasPostponed,
		"a failed insert leaves nothing": sagasAtomic,
		"nothing sent is an empty list":  sagasNothingSent,
	}.run(t, newFixture)
}

const (
	sagaA = "0190f7c2-0000-7000-8000-00000000000a"
	sagaB = "0190f7c2-0000-7000-8000-00000000000b"
	sagaC = "0190f7c2-0000-7000-8000-00000000000c"
)

var sagaStart = time.Date(2026, 5, 1, 12, 0, 0, 123000, time.UTC)

func sagaRow(id string, lane int, due time.Time) *orchestrator.Row {
	return &orchestrator.Row{
		Instance: saga.Instance{
			ID: id, Definition: "order", DefinitionVersion: 2, CorrelationID: id, Version: 1, Data: []byte(`{"total":1}`),
			State: saga.State{
				Status: saga.Running, Deadline: sagaStart.Add(time.Hour),
				Steps: []saga.StepState{{Name: "reserve", Status: saga.StepAsked, Asked: 1, Due: sagaStart.Add(time.Second)}},
			},
			CreatedAt: sagaStart, UpdatedAt: sagaStart,
		},
		Key: "k", Lane: lane, Due: due,
	}
}

func sagaHistory(r *orchestrator.Row) orchestrator.History {
	return orchestrator.History{SagaID: r.ID, Version: r.Version, At: r.UpdatedAt, Entry: `[{"x":1}]`, Sent: []string{sagaC}}
}

func (f *Fixture) insert(t *testing.T, rows ...*orchestrator.Row) error {
	t.Helper()
	return f.Run(t.Context(), func(ctx context.Context, tx mainstay.Tx) error {
		var hs []orchestrator.History
		for _, r := range rows {
			hs = append(hs, sagaHistory(r))
		}
		return f.Insert(ctx, tx, rows, hs)
	})
}

func (f *Fixture) load(t *testing.T, ids ...string) (rows []*orchestrator.Row) {
	t.Helper()
	err := f.Run(t.Context(), func(ctx context.Context, tx mainstay.Tx) (err error) {
		rows, err = f.Load(ctx, tx, ids)
		return err
	})
	noError(t, "loading", err)
	return rows
}

func (f *Fixture) save(t *testing.T, r *orchestrator.Row) error {
	t.Helper()
	return f.Run(t.Context(), func(ctx context.Context, tx mainstay.Tx) error {
		return f.Save(ctx, tx, []*orchestrator.Row{r}, []orchestrator.History{sagaHistory(r)})
	})
}

func equalRows(t *testing.T, want, got []*orchestrator.Row) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("rows (-want +got):\n%s", diff)
	}
}

func sagasRoundTrip(t *testing.T, f *Fixture) {
	a, b := sagaRow(sagaA, 0, sagaStart.Add(time.Second)), sagaRow(sagaB, 1, time.Time{})
	noError(t, "inserting", f.insert(t, a, b))
	equalRows(t, []*orchestrator.Row{a, b}, f.load(t, sagaB, sagaC, sagaA))
	a.Version, a.UpdatedAt, a.Due = 2, sagaStart.Add(time.Minute), time.Time{}
	a.State.Status, a.Ended = saga.Completed, a.UpdatedAt
	noError(t, "saving", f.save(t, a))
	equalRows(t, []*orchestrator.Row{a}, f.load(t, sagaA))
	equal(t, "history", "2", f.text(t, "select cast(count(*) as text) from saga_history where saga_id = $1", sagaA))
	equalRows(t, nil, f.load(t))
}

func sagasCompareAndSet(t *testing.T, f *Fixture) {
	a := sagaRow(sagaA, 0, time.Time{})
	noError(t, "inserting", f.insert(t, a))
	for _, version := range []int64{1, 3} {
		a.Version = version
		if err := f.save(t, a); err == nil {
			t.Fatalf("saved as version %d over version 1", version)
		}
	}
	a.Version = 2
	noError(t, "saving", f.save(t, a))
	if err := f.save(t, a); err == nil {
		t.Fatal("saved twice")
	}
	equal(t, "history", "2", f.text(t, "select cast(count(*) as text) from saga_history where saga_id = $1", sagaA))
}

func sagasDue(t *testing.T, f *Fixture) {
	at := func(d time.Duration) time.Time { return sagaStart.Add(d) }
	noError(t, "inserting", f.insert(t, sagaRow(sagaA, 0, at(2*time.Second)), sagaRow(sagaB, 0, at(time.Second)), sagaRow(sagaC, 1, time.Time{})))
	for _, tc := range []struct {
		lanes []int
		now   time.Time
		limit int
		want  []string
	}{
		{[]int{0, 1}, at(0), 10, nil},
		{[]int{0, 1}, at(time.Second), 10, []string{sagaB}},
		{[]int{0, 1}, at(time.Hour), 10, []string{sagaB, sagaA}},
		{[]int{0, 1}, at(time.Hour), 1, []string{sagaB}},
		{[]int{1}, at(time.Hour), 10, nil},
	} {
		ids, err := f.Due(t.Context(), "order", tc.lanes, tc.now, tc.limit)
		noError(t, "reading what is due", err)
		if !cmp.Equal(tc.want, ids, cmpopts.EquateEmpty()) {
			t.Fatalf("%+v: got %v", tc, ids)
		}
	}
	wantUrgent := func(now, begun time.Duration, want ...string) {
		ids, err := f.Urgent(t.Context(), "order", []int{0, 1}, at(now), at(begun), 10)
		noError(t, "reading what is urgent", err)
		if !cmp.Equal(want, ids, cmpopts.EquateEmpty()) {
			t.Fatalf("urgent after %v of what began by %v: %v, want %v", now, begun, ids, want)
		}
	}
	wantUrgent(time.Hour, 0, sagaB, sagaA)
	wantUrgent(time.Second, 0, sagaB)
	wantUrgent(time.Hour, -time.Microsecond)
	b := f.load(t, sagaB)[0]
	b.Version, b.State.Status = b.Version+1, saga.Compensating
	noError(t, "saving", f.save(t, b))
	wantUrgent(time.Hour, 0, sagaA)
	if ids, err := f.Due(t.Context(), "other", []int{0}, at(time.Hour), 10); err != nil || len(ids) != 0 {
		t.Fatalf("of another definition: %v, %v", ids, err)
	}
}

func sagasAtomic(t *testing.T, f *Fixture) {
	noError(t, "inserting", f.insert(t, sagaRow(sagaA, 0, time.Time{})))
	if err := f.insert(t, sagaRow(sagaB, 0, time.Time{}), sagaRow(sagaA, 0, time.Time{})); err == nil {
		t.Fatal("the same saga twice")
	}
	equal(t, "loaded", 1, len(f.load(t, sagaA, sagaB)))
}

func sagasNothingSent(t *testing.T, f *Fixture) {
	a := sagaRow(sagaA, 0, time.Time{})
	err := f.Run(t.Context(), func(ctx context.Context, tx mainstay.Tx) error {
		h := sagaHistory(a)
		h.Sent = nil
		return f.Insert(ctx, tx, []*orchestrator.Row{a}, []orchestrator.History{h})
	})
	noError(t, "inserting", err)
	equal(t, "sent", "[]", f.text(t, "select cast(sent as text) from saga_history where saga_id = $1", sagaA))
}

func sagasPostponed(t *testing.T, f *Fixture) {
	a, b, c := sagaRow(sagaA, 0, sagaStart), sagaRow(sagaB, 0, sagaStart), sagaRow(sagaC, 0, sagaStart)
	noError(t, "inserting", f.insert(t, a, b, c))
	a.Due, b.Due = sagaStart.Add(time.Minute), time.Time{}
	noError(t, "postponing", f.Run(t.Context(), func(ctx context.Context, tx mainstay.Tx) error {
		return f.Postpone(ctx, tx, []*orchestrator.Row{a, b})
	}))
	equalRows(t, []*orchestrator.Row{a, b, c}, f.load(t, sagaA, sagaB, sagaC))
	ids, err := f.Due(t.Context(), "order", []int{0}, sagaStart.Add(time.Second), 10)
	noError(t, "reading what is due", err)
	equal(t, "due", sagaC, strings.Join(ids, " "))
}
