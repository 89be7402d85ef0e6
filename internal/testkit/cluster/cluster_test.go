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

// TestCluster_SplitsConsumers has two workers that host half of the consumers each: orders end all the same.
func TestCluster_SplitsConsumers(t *testing.T) {
	t.Parallel()
	c := cluster.Start(t, cluster.Shape{Outbox: 1, Flags: map[string][]string{
		"worker-1": {"--consume", "orders,inventory"}, "worker-2": {"--consume", "payment,logistics"},
	}})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	key := client.NewKey()
	placed, err := c.Clients()[0].PlaceOrder(ctx, key, load.OrderOf("tok_ok", "mug-red"))
	if err != nil {
		t.Fatal(err)
	}
	c.Journal.Add(t, key, placed.ID)
	if o, err := c.Clients()[0].Await(ctx, placed.ID, time.Minute); err != nil || o.Status != client.StatusConfirmed {
		t.Errorf("ended as %s, %v", o.Status, err)
	}
	var holders int
	err = c.DB.QueryRowContext(ctx, `select count(distinct holder) from lease where name in ('orders', 'payment')`).Scan(&holders)
	if err != nil || holders != 2 {
		t.Errorf("%d processes hold the lanes of orders and payment, %v", holders, err)
	}
	c.Verify()
}
