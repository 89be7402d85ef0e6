package cluster_test

import (
	"context"
	"testing"
	"time"

	"github.com/mainstay-io/mainstay/internal/client"
	"github.com/mainstay-io/mainstay/internal/testkit/cluster"
	"github.com/mainstay-io/mainstay/internal/testkit/load"
)

// TestCluster_EndsOrders runs the three processes on PostgreSQL and a NATS server, and reads the log without one.
func TestCluster_EndsOrders(t *testing.T) {
	t.Parallel()
	for name, broker := range map[string]string{"nats": "", "database": "database"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := cluster.Start(t, cluster.Shape{Broker: broker, Flags: map[string][]string{
				cluster.Worker: {"--call-timeout", "300ms"},
			}})
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			var ids []string
			for n := range 24 {
				key := client.NewKey()
				placed, err := c.Clients()[0].PlaceOrder(ctx, key, load.Order(n))
				if err != nil {
					t.Fatal(err)
				}
				c.Journal.Add(t, key, placed.ID)
				ids = append(ids, placed.ID)
			}
			ends := map[string]int{}
			for _, id := range ids {
				o, err := c.Clients()[0].Await(ctx, id, time.Minute)
				if err != nil {
					t.Fatal(err)
				}
				ends[o.Status]++
			}
			if ends[client.StatusConfirmed] < 8 || ends[client.StatusCancelled] < 8 || len(ends) != 2 {
				t.Errorf("orders ended %v", ends)
			}
			t.Log(c.Verify())
			for _, p := range c.Names("") {
				c.Process(p).Stop()
			}
		})
	}
}
