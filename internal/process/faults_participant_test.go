package process_test

import (
	"context"
	"database/sql"
	"testing"

	"github.com/mainstay-io/mainstay/internal/testkit/cluster"
)

// apart is the shape in which inventory and payment each have a database of their own.
func apart() cluster.Shape {
	return cluster.Shape{Plain: true, Outbox: 1, Worker: 1, Flags: brief(), Participants: []cluster.Participant{
		{Name: "stock", Consumers: []string{"inventory"}}, {Name: "money", Consumers: []string{"payment"}},
	}}
}

// TestProcesses_ParticipantsApart lets orders of every kind end with inventory and payment in databases of their own,
// whose worker and relay are killed in turn.
func TestProcesses_ParticipantsApart(t *testing.T) {
	t.Parallel()
	c := underLoad(t, apart(), func(ctx context.Context, c *cluster.Cluster) {
		for _, name := range []string{"worker-stock-1", "outbox-stock-1", "outbox-1", "outbox-money-1", "worker-money-1", "worker-1"} {
			c.WaitAccepted(ctx, clients)
			busy(ctx, t, c, "kill -9 of "+name)
			c.Process(name).Kill()
			c.Process(name).Start()
		}
	})
	for rule, plant := range map[string]string{
		"stock_effect":           `delete from stock_movement where order_id = (select order_id from stock_movement where kind = 'ship' limit 1)`,
		"command_without_effect": `delete from barrier where op = 'do' and outcome = 'rejected'`,
	} {
		if _, err := open(t, c.Databases["stock"]).ExecContext(t.Context(), plant); err != nil {
			t.Fatalf("planting %s: %v", rule, err)
		}
		c.WantViolation(rule)
	}
}

func open(t *testing.T, url string) *sql.DB {
	t.Helper()
	db, err := sql.Open("pgx", url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// TestProcesses_ParticipantsLoseTheBroker deletes the broker's store while two databases go on: each relay fills its
// own logs again for the consumers of the others.
func TestProcesses_ParticipantsLoseTheBroker(t *testing.T) {
	t.Parallel()
	underLoad(t, apart(), func(ctx context.Context, c *cluster.Cluster) {
		for range 2 {
			c.WaitAccepted(ctx, 2*clients)
			busy(ctx, t, c, "the broker's store is deleted")
			c.NATS.Kill()
			c.NATS.Empty()
			c.WaitAccepted(ctx, clients)
			c.NATS.Start()
		}
	})
}
