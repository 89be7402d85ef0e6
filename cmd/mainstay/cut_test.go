package main

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mainstay-io/mainstay/internal/testkit/load"
	"github.com/mainstay-io/mainstay/internal/testkit/pgproxy"
	"github.com/mainstay-io/mainstay/internal/testkit/pgtest"
	"github.com/mainstay-io/mainstay/internal/testkit/proc"
)

// TestServe_SurvivesCutCommits cuts each fifth commit under load from clients that retry blindly: before it reaches
// the server, while the server is at it, and after the server has answered. Ingest, relay and lanes must each
// find out what became of theirs.
func TestServe_SurvivesCutCommits(t *testing.T) {
	t.Parallel()
	bin, url := proc.Build(t, "./cmd/mainstay"), pgtest.New(t)
	runCommand(t, bin, "migrate", "up", "--database", url, "--lanes", "4")
	p := pgproxy.Start(t, url)
	s := startServer(t, bin, "--data", t.TempDir(), "--database", p.URL(), "--call-timeout", "300ms", "--step-timeout", "1s", "--order-deadline", "3m")
	blind := load.Blind(t, s.URL, s.OpsURL)
	hits := newHits()
	p.Cut(hits.choose)
	j := load.NewJournal(t)
	loading, stopLoad := context.WithTimeout(t.Context(), 6*time.Second)
	defer stopLoad()
	load.Run(loading, t, j, 12, blind)()
	ids := j.Accepted()
	for _, id := range ids {
		if o, err := s.Await(t.Context(), id, 3*time.Minute); err != nil || !o.Ended() {
			t.Fatalf("order %s did not end: %+v, error %v", id, o, err)
		}
	}
	p.Cut(nil)
	out := verify(t, "--database", url, "--journal", j.Path())
	t.Logf("%d orders, %d commits, cut by work and way: %v\n%s", len(ids), p.Commits(), hits.by, out)
	hits.conclusive(t)
}

// hits counts the commits that were cut, by the work that was in them and by the way.
type hits struct {
	seen map[string]int
	by   map[string]map[pgproxy.Fault]int
}

// works are what a transaction may be about, and the statement that tells it.
func works() map[string]string {
	return map[string]string{"accepting": "ingest.accept", "handling": "lane.move", "publishing": "relay.save_progress"}
}

func newHits() *hits {
	h := &hits{seen: map[string]int{}, by: map[string]map[pgproxy.Fault]int{}}
	for work := range works() {
		h.by[work] = map[pgproxy.Fault]int{}
	}
	return h
}

// choose cuts each fifth commit of each kind of work, in the three ways in turn.
func (h *hits) choose(c pgproxy.Commit) pgproxy.Fault {
	for work, mark := range works() {
		if !slices.ContainsFunc(c.Statements, func(s string) bool { return strings.Contains(s, mark) }) {
			continue
		}
		h.seen[work]++
		if h.seen[work]%5 != 0 {
			return pgproxy.None
		}
		way := []pgproxy.Fault{pgproxy.Before, pgproxy.Amid, pgproxy.After}[h.seen[work]/5%3]
		h.by[work][way]++
		return way
	}
	return pgproxy.None
}

// conclusive fails the test unless every kind of work was cut in every way.
func (h *hits) conclusive(t testing.TB) {
	t.Helper()
	for work, ways := range h.by {
		for _, way := range []pgproxy.Fault{pgproxy.Before, pgproxy.Amid, pgproxy.After} {
			if ways[way] == 0 {
				t.Errorf("inconclusive: no commit of %s was cut in way %d", work, way)
			}
		}
	}
}
