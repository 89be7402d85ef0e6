package process_test

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/mainstay-io/mainstay/internal/testkit/cluster"
)

// faultsTimeout bounds a whole run: load, faults, and the way of everything to its end.
const faultsTimeout = 4 * time.Minute

// Kills, pauses, restarts, and the loss of broker and database run processes with the race detector, where the tests are
// built with it. Clusters of NATS, full streams, restored databases and participants apart run plain ones.

// clients is how many post at a time.
const clients = 8

// underLoad runs the shape under load from clients that repeat blindly, lets the faults happen, and wants every order
// to have ended and every invariant to hold.
func underLoad(t *testing.T, shape cluster.Shape, faults func(ctx context.Context, c *cluster.Cluster)) *cluster.Cluster {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), faultsTimeout)
	defer cancel()
	c := cluster.Start(t, shape)
	loaded, stop := context.WithCancel(ctx)
	defer stop()
	wait := c.Load(loaded, clients)
	c.WaitAccepted(ctx, 5*clients)
	faults(ctx, c)
	c.WaitAccepted(ctx, 5*clients) // it still works
	stop()
	wait()
	c.WaitEnded(ctx)
	t.Log(c.Verify())
	return c
}

// busy fails the test unless orders are under way: a fault that meets none shows nothing.
func busy(ctx context.Context, t *testing.T, c *cluster.Cluster, fault string) {
	t.Helper()
	n, err := c.InFlight(ctx)
	switch {
	case err != nil:
		t.Fatalf("counting orders under way: %v", err)
	case n == 0:
		t.Errorf("inconclusive: no order was under way at this fault: %s", fault)
	}
}

// brief are flags by which what a fault leaves behind is tried again soon.
func brief() map[string][]string {
	return map[string][]string{cluster.Worker: {"--call-timeout", "500ms", "--step-timeout", "2s"}}
}

// TestProcesses_SurviveKills kills each process in turn, and then any, as kill -9 does, and starts it again.
func TestProcesses_SurviveKills(t *testing.T) {
	t.Parallel()
	underLoad(t, cluster.Shape{Flags: brief()}, func(ctx context.Context, c *cluster.Cluster) {
		victims := c.Names("")
		for range len(victims) {
			victims = append(victims, victims[rand.IntN(len(victims))])
		}
		for _, name := range victims {
			c.WaitAccepted(ctx, clients)
			busy(ctx, t, c, "kill -9 of "+name)
			c.Process(name).Kill()
			c.Process(name).Start()
		}
	})
}

// TestProcesses_TakeOver kills an outbox process and a worker for good: the others take their lanes over.
func TestProcesses_TakeOver(t *testing.T) {
	t.Parallel()
	underLoad(t, cluster.Shape{Flags: brief()}, func(ctx context.Context, c *cluster.Cluster) {
		for _, name := range []string{"outbox-1", "worker-2"} {
			busy(ctx, t, c, "kill -9 of "+name)
			c.Process(name).Kill()
			accepted := c.Journal.Accepted()
			last := accepted[len(accepted)-1]
			soon, cancel := context.WithTimeout(ctx, 20*time.Second)
			if _, err := c.Clients()[0].Await(soon, last, 20*time.Second); err != nil {
				t.Errorf("order %s has not ended after %s was killed: %v", last, name, err)
			}
			cancel()
		}
	})
}

// TestProcesses_RollingRestart stops and starts each process in order while clients post: each of them ends with exit
// code 0, and every post is answered in the end.
func TestProcesses_RollingRestart(t *testing.T) {
	t.Parallel()
	underLoad(t, cluster.Shape{Ingest: 2, Flags: brief()}, func(ctx context.Context, c *cluster.Cluster) {
		for _, name := range c.Names("") {
			c.WaitAccepted(ctx, clients)
			busy(ctx, t, c, "restart of "+name)
			c.Process(name).Stop()
			c.Process(name).Start()
		}
	})
}
