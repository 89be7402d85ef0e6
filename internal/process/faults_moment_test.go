package process_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/mainstay-io/mainstay/internal/client"
	"github.com/mainstay-io/mainstay/internal/testkit/cluster"
	"github.com/mainstay-io/mainstay/internal/testkit/load"
	"github.com/mainstay-io/mainstay/internal/testkit/proc"
)

// moments is a directory that tells processes at which moments something is to happen; see testdata/stops.
type moments struct {
	t   *testing.T
	dir string
}

func newMoments(t *testing.T) moments {
	t.Helper()
	return moments{t, t.TempDir()}
}

// run makes the named processes of a cluster ones to which things happen.
func (m moments) run(c *cluster.Cluster, names ...string) {
	m.t.Helper()
	for _, name := range names {
		p := c.Process(name)
		p.Stop()
		p.Bin = proc.Build(m.t, "./internal/process/testdata/stops")
		p.Args = append([]string{m.dir, p.Kind}, p.Args...)
		p.Start()
	}
}

func (m moments) path(moment string) string { return filepath.Join(m.dir, moment) }

func (m moments) set(moment, text string) {
	m.t.Helper()
	if err := os.WriteFile(m.path(moment), []byte(text), 0o600); err != nil {
		m.t.Fatal(err)
	}
}

// waitUsed blocks until the moment has come.
func (m moments) waitUsed(ctx context.Context, c *cluster.Cluster, moment string) {
	m.t.Helper()
	c.Until(ctx, "the moment of "+moment+" has come", func(context.Context) (bool, error) {
		_, err := os.Stat(m.path(moment))
		return os.IsNotExist(err), nil
	})
}

// TestProcesses_DieBetweenPublishAndRecord kills a relay that has published and not recorded it, while new rows wait:
// the other one goes on behind what the broker has.
func TestProcesses_DieBetweenPublishAndRecord(t *testing.T) {
	t.Parallel()
	m := newMoments(t)
	underLoad(t, cluster.Shape{Flags: brief()}, func(ctx context.Context, c *cluster.Cluster) {
		relays := c.Names(cluster.Outbox)
		m.run(c, relays...)
		for range 6 {
			c.WaitAccepted(ctx, clients)
			busy(ctx, t, c, "kill between publish and record")
			m.set("publish", "")
			m.waitUsed(ctx, c, "publish")
			for _, name := range relays {
				p := c.Process(name)
				select {
				case <-p.Running.Done():
					p.Start()
				default:
				}
			}
		}
	})
}

// TestProcesses_PublishOtherLanes lets the publishes of one lane fail: the others go on, and workers take from the
// database what the broker lacks.
func TestProcesses_PublishOtherLanes(t *testing.T) {
	t.Parallel()
	m := newMoments(t)
	underLoad(t, cluster.Shape{Lanes: 4, Flags: brief()}, func(ctx context.Context, c *cluster.Cluster) {
		m.run(c, c.Names(cluster.Outbox)...)
		m.set("lane", "2")
		const unpublished = `select coalesce(sum(h.last_sequence - coalesce(p.sequence, 0)), 0)
			from log_head h left join relay_progress p using (topic, lane) where (h.lane = 2) = $1`
		c.WaitAccepted(ctx, 10*clients)
		busy(ctx, t, c, "one lane is not published")
		c.Until(ctx, "only one lane is behind", func(ctx context.Context) (bool, error) {
			var broken, others int
			if err := c.DB.QueryRowContext(ctx, unpublished, true).Scan(&broken); err != nil {
				return false, err
			}
			err := c.DB.QueryRowContext(ctx, unpublished, false).Scan(&others)
			return broken > 5*clients && others < broken/4, err
		})
		if err := os.Remove(m.path("lane")); err != nil {
			t.Fatal(err)
		}
		c.Until(ctx, "the lane has caught up", func(ctx context.Context) (bool, error) {
			var broken int
			err := c.DB.QueryRowContext(ctx, unpublished, true).Scan(&broken)
			return broken < 5*clients, err
		})
	})
}

// TestProcesses_PauseBeforeTheCall stops a worker that has claimed an authorisation and not sent it. Its order is
// cancelled meanwhile, and voided; then the worker goes on, and what it sends must hold no money.
func TestProcesses_PauseBeforeTheCall(t *testing.T) {
	t.Parallel()
	m := newMoments(t)
	underLoad(t, cluster.Shape{Flags: brief()}, func(ctx context.Context, c *cluster.Cluster) {
		m.run(c, c.Names(cluster.Worker)...)
		for range 2 {
			m.set("authorise", "")
			// Nothing of this article is on hand: the order is cancelled, whatever becomes of its payment.
			key := client.NewKey()
			placed, err := c.Clients()[0].PlaceOrder(ctx, key, load.OrderOf("tok_ok", "no-such-sku"))
			if err != nil {
				t.Fatal(err)
			}
			c.Journal.Add(t, key, placed.ID)
			m.waitUsed(ctx, c, "authorise")
			busy(ctx, t, c, "pause before the call")
			c.Until(ctx, "the sagas that were under way have ended", func(ctx context.Context) (bool, error) {
				var open int
				err := c.DB.QueryRowContext(ctx, `select count(*) from saga where ended_at is null and id <= $1`, placed.ID).Scan(&open)
				return open == 0, err
			})
			for _, name := range c.Names(cluster.Worker) {
				c.Process(name).Resume()
			}
			c.WaitAccepted(ctx, clients)
		}
	})
}
