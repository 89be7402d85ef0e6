package postgres

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/lane"
	"github.com/mainstay-io/mainstay/internal/orchestrator"
	"github.com/mainstay-io/mainstay/saga"
)

var _ orchestrator.Store = (*Store)(nil)

func sagaRow(id string, now time.Time) *orchestrator.Row {
	return &orchestrator.Row{
		Instance: saga.Instance{
			ID: id, Definition: "order", DefinitionVersion: 3, CorrelationID: "c-" + id, Version: 1, Data: []byte("{\x00}"),
			State: saga.State{Status: saga.Running, Steps: []saga.StepState{}}, CreatedAt: now, UpdatedAt: now,
		},
		Key: "k-" + id, Lane: 2, Due: now.Add(time.Minute),
	}
}

func historyRow(r *orchestrator.Row) []orchestrator.History {
	return []orchestrator.History{{SagaID: r.ID, Version: r.Version, At: r.UpdatedAt, Entry: "it went on", Sent: []string{"m"}}}
}

func inTx(t *testing.T, s *Store, fn func(ctx context.Context, tx mainstay.Tx) error) {
	t.Helper()
	if err := s.Run(t.Context(), fn); err != nil {
		t.Fatal(err)
	}
}

func load(t *testing.T, s *Store, ids ...string) (rows []*orchestrator.Row) {
	t.Helper()
	inTx(t, s, func(ctx context.Context, tx mainstay.Tx) (err error) {
		rows, err = s.Load(ctx, tx, ids)
		return err
	})
	return rows
}

func TestSaga_KeepsInstances(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	now := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
	a, b := sagaRow("a", now), sagaRow("b", now)
	inTx(t, s, func(ctx context.Context, tx mainstay.Tx) error {
		return s.Insert(ctx, tx, []*orchestrator.Row{b, a}, append(historyRow(a), historyRow(b)...))
	})
	if diff := cmp.Diff([]*orchestrator.Row{a, b}, load(t, s, "b", "a", "none")); diff != "" {
		t.Fatal(diff)
	}
	a.Version, a.State.Status, a.Due, a.Ended = 2, saga.Completed, time.Time{}, now
	inTx(t, s, func(ctx context.Context, tx mainstay.Tx) error {
		return s.Save(ctx, tx, []*orchestrator.Row{a}, historyRow(a))
	})
	if diff := cmp.Diff([]*orchestrator.Row{a, b}, load(t, s, "a", "b")); diff != "" {
		t.Fatal(diff)
	}
	err := s.Run(t.Context(), func(ctx context.Context, tx mainstay.Tx) error {
		return s.Save(ctx, tx, []*orchestrator.Row{a}, nil)
	})
	if !errors.Is(err, lane.ErrTransient) {
		t.Fatalf("saving the same version twice: got %v, want transient", err)
	}
}

func TestSaga_TellsWhatIsDue(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	early, late, elsewhere := sagaRow("early", now), sagaRow("late", now), sagaRow("elsewhere", now)
	early.Due, elsewhere.Lane = now.Add(time.Second), 1
	inTx(t, s, func(ctx context.Context, tx mainstay.Tx) error {
		return s.Insert(ctx, tx, []*orchestrator.Row{late, early, elsewhere}, nil)
	})
	for at, want := range map[time.Duration][]string{0: nil, time.Second: {"early"}, time.Hour: {"early", "late"}} {
		got, err := s.Due(t.Context(), "order", []int{2, 3}, now.Add(at), 10)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("after %v: %s", at, diff)
		}
	}
}
