package process_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/mainstay-io/mainstay/internal/testkit/cluster"
)

// TestProcesses_LoseTheBroker takes the broker away while orders are under way, changes what it has kept, and starts
// it again.
func TestProcesses_LoseTheBroker(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(t *testing.T, c *cluster.Cluster, older string){
		"restarted": func(*testing.T, *cluster.Cluster, string) {},
		"emptied":   func(_ *testing.T, c *cluster.Cluster, _ string) { c.NATS.Empty() },
		"put back to an older copy": func(t *testing.T, c *cluster.Cluster, older string) {
			c.NATS.Empty()
			if err := os.CopyFS(c.NATS.StoreDir(), os.DirFS(older)); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			underLoad(t, cluster.Shape{Flags: brief()}, func(ctx context.Context, c *cluster.Cluster) {
				older := filepath.Join(t.TempDir(), "older")
				c.NATS.Stop()
				if err := os.CopyFS(older, os.DirFS(c.NATS.StoreDir())); err != nil {
					t.Fatal(err)
				}
				c.NATS.Start()
				for range 2 {
					c.WaitAccepted(ctx, 5*clients)
					busy(ctx, t, c, "the broker "+name)
					c.NATS.Kill()
					change(t, c, older)
					c.WaitAccepted(ctx, clients) // ingest needs no broker
					c.NATS.Start()
				}
			})
		})
	}
}
