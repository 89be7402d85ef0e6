package process_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/mainstay-io/mainstay/internal/testkit/cluster"
	"github.com/mainstay-io/mainstay/internal/testkit/load"
	"github.com/mainstay-io/mainstay/internal/testkit/pgtest"
)

// TestProcesses_DatabaseGoesBack restores PostgreSQL from an older copy of its files, with the same identity, under
// running processes and with the broker ahead of it. What was accepted after the copy is lost with the database; what
// is accepted from then on ends as it must, and nobody acts on what the broker still has of the lost time.
func TestProcesses_DatabaseGoesBack(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), faultsTimeout)
	defer cancel()
	srv := pgtest.NewServer(t)
	c := cluster.Start(t, cluster.Shape{Database: srv.NewDatabase(), Flags: brief()})
	older := filepath.Join(t.TempDir(), "older")

	first, stop := context.WithCancel(ctx)
	wait := c.Load(first, clients)
	c.WaitAccepted(ctx, 5*clients)
	srv.Stop(pgtest.Immediate)
	copyFiles(ctx, t, srv.DataDir(), older)
	srv.Start()
	c.WaitAccepted(ctx, 10*clients)
	busy(ctx, t, c, "the database goes back")
	stop()
	wait()

	srv.Stop(pgtest.Immediate)
	if err := os.RemoveAll(srv.DataDir()); err != nil {
		t.Fatal(err)
	}
	copyFiles(ctx, t, older, srv.DataDir())
	srv.Start()

	c.Journal = load.NewJournal(t)
	second, stop := context.WithCancel(ctx)
	wait = c.Load(second, clients)
	c.WaitAccepted(ctx, 10*clients)
	stop()
	wait()
	c.WaitEnded(ctx)
	t.Log(c.Verify())
	var incarnations int
	if err := c.DB.QueryRowContext(ctx, "select count(distinct id) from incarnation").Scan(&incarnations); err != nil || incarnations < 1 {
		// More than one, if a relay still published what it had read before it noticed.
		t.Errorf("inconclusive: the broker was not ahead, %d incarnations were opened (%v)", incarnations, err)
	}
}

// copyFiles copies a directory, which does not exist yet, with owners and rights.
func copyFiles(ctx context.Context, t *testing.T, from, to string) {
	t.Helper()
	if out, err := exec.CommandContext(ctx, "cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("copying %s: %v: %s", from, err, out)
	}
}
