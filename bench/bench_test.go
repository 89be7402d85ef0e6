package main

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mainstay-io/mainstay/internal/bench"
)

func TestParse(t *testing.T) {
	t.Parallel()
	o, err := parse([]string{"-only", "hop,relay", "-rounds", "5", "-sync", "always", "-o", "json"})
	want := options{only: map[string]bool{"hop": true, "relay": true}, rounds: 5, json: true, size: o.size}
	if diff := cmp.Diff(want, o, cmp.AllowUnexported(options{}, sizes{})); err != nil || diff != "" {
		t.Error(err, diff)
	}
	if o, err := parse([]string{"-quick"}); err != nil || o.rounds != 1 || o.size.hop > 1000 || !o.lazy {
		t.Errorf("%+v, %v", o, err)
	}
	for _, args := range [][]string{{"-only", "hops"}, {"-rounds", "0"}, {"-sync", "never"}, {"-o", "xml"}, {"now"}} {
		if _, err := parse(args); err == nil {
			t.Errorf("%v: accepted", args)
		}
	}
}

func TestContest_TakesTurnsAndCountsTheMedian(t *testing.T) {
	t.Parallel()
	var order []string
	rates := map[string][]float64{"ours": {100, 400, 200}, "peer": {50, 10, 400}}
	sideOf := func(name string) side {
		return side{name, "", func(context.Context) (float64, error) {
			order = append(order, name)
			rate := rates[name][0]
			rates[name] = rates[name][1:]
			return rate, nil
		}}
	}
	got, err := contest{"hop", "messages", []side{sideOf("ours"), sideOf("peer")}}.run(t.Context(), 3)
	if err != nil {
		t.Fatal(err)
	}
	if want := "ours peer ours peer ours peer"; strings.Join(order, " ") != want {
		t.Errorf("ran %v, want %s", order, want)
	}
	want := []result{
		{Name: "ours", Median: 200, Least: 100, Most: 400, Rounds: []float64{100, 400, 200}, OursToThis: 1},
		{Name: "peer", Median: 50, Least: 10, Most: 400, Rounds: []float64{50, 10, 400}, OursToThis: 4},
	}
	if diff := cmp.Diff(want, got.Sides); diff != "" {
		t.Error(diff)
	}
}

func TestContest_AFailedRoundHasNoFigure(t *testing.T) {
	t.Parallel()
	broken := side{"ours", "", func(context.Context) (float64, error) { return 1000, errors.New("away") }}
	if _, err := (contest{"hop", "messages", []side{broken}}).run(t.Context(), 1); err == nil || !strings.Contains(err.Error(), "ours: away") {
		t.Errorf("error is %v", err)
	}
	if _, err := sound(bench.Result{Operations: 10, Faults: map[string]int64{"unfinished": 1}}, nil); err == nil {
		t.Error("a run with unfinished operations is taken for sound")
	}
}

func TestReport(t *testing.T) {
	t.Parallel()
	r := report{
		Rounds: 3, Sync: "lazy", Payload: 300, Postgres: "PostgreSQL 15.1", Versions: map[string]string{"b": "v2", "a": "v1"},
		Contests: []outcome{{"hop", "messages", []result{{Name: "ours", Settings: "fast", Median: 200, Least: 100, Most: 400, OursToThis: 1}}}},
		Machine:  bench.Machine{CPU: "Abacus", Cores: 2},
	}
	var b strings.Builder
	if err := r.write(&b, false); err != nil {
		t.Fatal(err)
	}
	want := `hop     messages/s  spread   ours/this  
  ours  200         100-400  1.00       fast

rounds    3 of each side, in turn; 300 bytes; NATS syncs lazy
postgres  PostgreSQL 15.1, fsync and synchronous_commit on
peer      a v1
peer      b v2
machine   Abacus, 2 cores,  , mainstay  
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Error(diff)
	}
}
