package verify_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/verify"
)

func each(t *testing.T, test func(t *testing.T, w *world)) {
	t.Helper()
	for _, dialect := range []mainstay.Dialect{mainstay.SQLite, mainstay.Postgres} {
		t.Run(string(dialect), func(t *testing.T) {
			t.Parallel()
			test(t, newWorld(t, dialect))
		})
	}
}

func run(t *testing.T, o verify.Options) verify.Report {
	t.Helper()
	r, err := verify.Run(t.Context(), o)
	must(t, err)
	return r
}

func TestRun(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		t.Run("healthy", func(t *testing.T) { healthy(t, w) })
		t.Run("open orders", func(t *testing.T) { openIsLimited(t, w) })
		planting(t, w)
		journals(t, w)
		options(t, w)
	})
}

func healthy(t *testing.T, w *world) {
	t.Parallel()
	r := run(t, w.copy(t).options())
	for _, c := range r.Checks {
		t.Logf("%-16s %s", c.Name, c.Summary)
		for _, v := range c.Violations {
			t.Errorf("%s: %s: %s", c.Name, v.ID, v.Detail)
		}
		if c.Skipped != "" {
			t.Errorf("%s was skipped: %s", c.Name, c.Skipped)
		}
	}
	want := verify.Counts{
		Accepted: 7, Confirmed: 2, Cancelled: 3, NeedsOperator: 1, Pending: 1, OpenDeadLetters: 1,
		Owed: []verify.Amount{{Currency: "EUR", Amount: 2500}},
	}
	if diff := cmp.Diff(want, r.Counts); diff != "" {
		t.Error(diff)
	}
	if len(r.Open) != 1 || r.Open[0].DeadLetterSince == nil || time.Since(*r.Open[0].DeadLetterSince).Abs() > time.Hour {
		t.Fatalf("one open order with a dead letter of today is wanted: %+v", r.Open)
	}
	r.Open[0].DeadLetterSince = nil
	open := []verify.Open{{
		OrderID: w.ids["stuck"], Currency: "EUR", Owed: 2500,
		Steps: []verify.Stuck{{Step: "authorise", Op: "undo", Code: "retryable", Detail: "sandbox: service unavailable"}},
	}}
	if diff := cmp.Diff(open, r.Open); diff != "" {
		t.Error(diff)
	}
}

// openIsLimited: the oldest are named, an order without a readable saga among them, and all are counted.
func openIsLimited(t *testing.T, w *world) {
	t.Parallel()
	p := w.copy(t)
	p.exec(t, "update orders set status = 'needs_operator', ended_at = null; delete from saga where id = '$confirmed'")
	o := p.options()
	o.Limit = 3
	if r := run(t, o); len(r.Open) != 3 || r.Counts.NeedsOperator != 7 {
		t.Errorf("3 of 7 open orders are wanted: %+v", r)
	}
	o.Limit = 0
	if r := run(t, o); len(r.Open) != 7 || !slices.IsSortedFunc(r.Open, func(a, b verify.Open) int { return strings.Compare(a.OrderID, b.OrderID) }) {
		t.Errorf("7 open orders are wanted, by age: %+v", r.Open)
	}
}
