package process_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/mainstay-io/mainstay/internal/testkit/cluster"
	"github.com/mainstay-io/mainstay/internal/testkit/pgproxy"
	"github.com/mainstay-io/mainstay/internal/testkit/pgtest"
)

// work is something after whose commit a process may not know what became of it. A transaction with the one statement,
// and without the other, is about it; each so many-th of them is cut.
type work struct {
	name, with, without string
	every               int
}

func works() []work {
	return []work{
		{"ingest: accepting", "ingest.accept", "none", 5},
		{"outbox: numbering", "sequencer.round", "none", 5},
		{"outbox: recording", "relay.save_progress", "none", 5},
		{"worker: handling", "lane.move", "lane.unpark", 5},
		{"worker: settling calls", "lane.unpark", "none", 5},
		{"worker: firing timers", "saga.save", "lane.move", 1}, // there are few
		{"outbox and worker: taking lanes", "lease.take", "none", 3},
		{"outbox and worker: keeping lanes", "lease.renew", "none", 3},
	}
}

func (w work) is(statements []string) bool {
	has := func(mark string) bool {
		return slices.ContainsFunc(statements, func(s string) bool { return strings.Contains(s, "/* "+mark+" */") })
	}
	return has(w.with) && !has(w.without)
}

// ways are those in which a commit is cut.
func ways() []pgproxy.Fault { return []pgproxy.Fault{pgproxy.Before, pgproxy.Amid, pgproxy.After} }

// cuts chooses commits of each kind of work, in the ways in turn, and counts them.
type cuts struct {
	mu   sync.Mutex
	seen map[string]int
	done map[string]map[pgproxy.Fault]int
}

func newCuts() *cuts {
	c := &cuts{seen: map[string]int{}, done: map[string]map[pgproxy.Fault]int{}}
	for _, w := range works() {
		c.done[w.name] = map[pgproxy.Fault]int{}
	}
	return c
}

func (c *cuts) choose(statements ...string) pgproxy.Fault {
	at := slices.IndexFunc(works(), func(w work) bool { return w.is(statements) })
	if at < 0 {
		return pgproxy.None
	}
	name, every := works()[at].name, works()[at].every
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen[name]++
	if c.seen[name]%every != 0 {
		return pgproxy.None
	}
	way := ways()[c.seen[name]/every%3]
	c.done[name][way]++
	return way
}

// lacking names the work that was not cut in each way so many times.
func (c *cuts) lacking(times int) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var lacking []string
	for _, w := range works() {
		for _, way := range ways() {
			if n := c.done[w.name][way]; n < times {
				lacking = append(lacking, fmt.Sprintf("%s in way %d: %d of %d", w.name, way, n, times))
			}
		}
	}
	return lacking
}

// TestProcesses_CutCommits lets every process reach the database through a proxy that drops connections at commits
// of each kind of work: before it is forwarded, while the server is at it, and after it was answered. Each finds
// out what became of its work, until every kind was cut several times in every way.
func TestProcesses_CutCommits(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	p, cut := pgproxy.Start(t, database), newCuts()
	shape := cluster.Shape{Plain: true, Database: database, Through: p.URL(), Flags: brief()}
	underLoad(t, shape, func(ctx context.Context, c *cluster.Cluster) {
		busy(ctx, t, c, "commits are cut")
		p.Cut(func(c pgproxy.Commit) pgproxy.Fault { return cut.choose(c.Statements...) })
		p.CutAlone(func(statement string) pgproxy.Fault { return cut.choose(statement) })
		c.WaitAccepted(ctx, 10*clients)
		c.Until(ctx, "every work was cut in every way", func(context.Context) (bool, error) {
			if lacking := cut.lacking(2); len(lacking) > 0 {
				return false, fmt.Errorf("lacking: %v", lacking)
			}
			return true, nil
		})
		busy(ctx, t, c, "commits were cut")
		p.Cut(nil)
		p.CutAlone(nil)
	})
	for _, name := range slices.Sorted(maps.Keys(cut.done)) {
		t.Logf("%s: cut before, amid, after: %v of %d", name, cut.done[name], cut.seen[name])
	}
}
