package process_test

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/mainstay-io/mainstay/internal/testkit/cluster"
)

const lanes = 4

// holders counts the lanes of each name by the process that works on them; sequencer is a name with one lane.
func holders(ctx context.Context, t *testing.T, c *cluster.Cluster) map[string]map[string]int {
	t.Helper()
	rows, err := c.DB.QueryContext(ctx, `select name, split_part(holder, '/', 2), count(*) from lease
		where holder is not null and expires_at > clock_timestamp() and name not like '%/members' group by 1, 2`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close() // rows.Err tells
	found := map[string]map[string]int{}
	for rows.Next() {
		var name, pid string
		var n int
		if err := rows.Scan(&name, &pid, &n); err != nil {
			t.Fatal(err)
		}
		if found[name] == nil {
			found[name] = map[string]int{}
		}
		found[name][pid] = n
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return found
}

func pid(p *cluster.Process) string { return fmt.Sprint(p.Running.PID()) }

// wantShares waits until the lanes of every consumer and of the relays are shared evenly by exactly these processes.
func wantShares(ctx context.Context, t *testing.T, c *cluster.Cluster, within time.Duration, names ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	var last map[string]map[string]int
	defer func() {
		if t.Failed() {
			t.Logf("lanes are held as %v", last)
		}
	}()
	c.Until(ctx, fmt.Sprintf("%v share the lanes", names), func(ctx context.Context) (bool, error) {
		last = holders(ctx, t, c)
		for _, name := range []string{"orders", "inventory", "payment", "logistics", "relay"} {
			kind := cluster.Worker
			if name == "relay" {
				kind = cluster.Outbox
			}
			want := map[string]int{}
			for _, n := range names {
				if strings.HasPrefix(n, kind) {
					want[pid(c.Process(n))] = 0
				}
			}
			for p := range want {
				want[p] = lanes / len(want)
			}
			if !maps.Equal(last[name], want) {
				return false, nil
			}
		}
		return true, nil
	})
}

// wantTakeOver wants a process to have said of each name that it took lanes over from another one, which died.
func wantTakeOver(t *testing.T, p, dead *cluster.Process, names ...string) {
	t.Helper()
	for _, name := range names {
		said := regexp.MustCompile(`"level":"INFO","msg":"taken over from a process that is gone or silent","lease":"` + name + `","lanes":\d,"from":"[^"]+/` + pid(dead) + `/`)
		if !said.MatchString(p.Running.Stderr()) {
			t.Errorf("%s does not say that it took lanes of %s over from %s:\n%s", p.Name, name, dead.Name, p.Running.Stderr())
		}
	}
}

// TestLanes_AreSharedFairly lets processes join, stop and die under load: each has its part of the lanes seconds later.
func TestLanes_AreSharedFairly(t *testing.T) {
	t.Parallel()
	c := cluster.Start(t, cluster.Shape{Outbox: 1, Worker: 1, Lanes: lanes, Flags: map[string][]string{
		cluster.Worker: {"--call-timeout", "300ms"},
	}})
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	loading, stop := context.WithCancel(ctx)
	defer stop()
	wait := c.Load(loading, 4)

	const soon = 10 * time.Second // a machine that builds and tests beside is slow; see the log for what it was
	step := func(what string, act func(), names ...string) {
		t.Helper()
		act()
		began := time.Now()
		wantShares(ctx, t, c, soon, names...)
		t.Logf("%s: shared after %v", what, time.Since(began).Round(10*time.Millisecond))
		c.WaitAccepted(ctx, 20)
	}
	step("alone", func() {}, "outbox-1", "worker-1")
	step("another worker joins", func() { c.Add(cluster.Worker) }, "outbox-1", "worker-1", "worker-2")
	step("another outbox joins", func() { c.Add(cluster.Outbox) }, "outbox-1", "outbox-2", "worker-1", "worker-2")
	step("a worker is killed", func() { c.Process("worker-1").Kill() }, "outbox-1", "outbox-2", "worker-2")
	wantTakeOver(t, c.Process("worker-2"), c.Process("worker-1"), "orders", "inventory", "payment", "logistics")
	step("an outbox is killed", func() { c.Process("outbox-1").Kill() }, "outbox-2", "worker-2")
	wantTakeOver(t, c.Process("outbox-2"), c.Process("outbox-1"), "relay")
	step("both are back", func() { c.Process("worker-1").Start(); c.Process("outbox-1").Start() }, "outbox-1", "outbox-2", "worker-1", "worker-2")
	step("a worker stops", func() { c.Process("worker-2").Stop() }, "outbox-1", "outbox-2", "worker-1")
	step("an outbox stops", func() { c.Process("outbox-2").Stop() }, "outbox-1", "worker-1")
	stop()
	wait()
	c.WaitEnded(ctx)
	t.Log(c.Verify())
}

// sequencing is the process that has the sequencer's lease.
func sequencing(ctx context.Context, t *testing.T, c *cluster.Cluster) *cluster.Process {
	t.Helper()
	for p := range holders(ctx, t, c)["sequencer"] {
		for _, name := range c.Names(cluster.Outbox) {
			if pid(c.Process(name)) == p {
				return c.Process(name)
			}
		}
	}
	return nil
}

// TestSequencer_IsTakenOver kills, stops and pauses the process that numbers: another goes on within seconds.
func TestSequencer_IsTakenOver(t *testing.T) {
	t.Parallel()
	c := cluster.Start(t, cluster.Shape{Outbox: 2, Worker: 1, Lanes: lanes})
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	loading, stop := context.WithCancel(ctx)
	defer stop()
	wait := c.Load(loading, 4)
	another := func(what string, within time.Duration, act func(*cluster.Process)) *cluster.Process {
		t.Helper()
		c.WaitAccepted(ctx, 20)
		was := sequencing(ctx, t, c)
		if was == nil {
			t.Fatal("nobody numbers")
		}
		before := pid(was)
		act(was)
		began := time.Now()
		soon, cancel := context.WithTimeout(ctx, within)
		defer cancel()
		c.Until(soon, "another process numbers", func(ctx context.Context) (bool, error) {
			now := sequencing(ctx, t, c)
			return now != nil && pid(now) != before, nil
		})
		t.Logf("%s: another numbers after %v", what, time.Since(began).Round(10*time.Millisecond))
		return was
	}
	another("killed", 10*time.Second, func(p *cluster.Process) { p.Kill() }).Start()
	another("stopped", 10*time.Second, func(p *cluster.Process) { p.Stop() }).Start()
	paused := another("paused", 25*time.Second, func(p *cluster.Process) { p.Pause() })
	c.WaitAccepted(ctx, 20)
	paused.Resume()
	c.WaitAccepted(ctx, 20)
	stop()
	wait()
	c.WaitEnded(ctx)
	t.Log(c.Verify())
}
