package process_test

import (
	"context"
	"testing"

	"github.com/mainstay-io/mainstay/internal/testkit/cluster"
	"github.com/mainstay-io/mainstay/internal/testkit/load"
	"github.com/mainstay-io/mainstay/internal/testkit/pgtest"
)

// backup makes a backup of a cluster's database, and answers with what puts it back, and with what the clients had been
// told of it.
type backup func(*testing.T, *cluster.Cluster, *pgtest.Server) (restore func(), journal *load.Journal)

// byDump takes a dump while the database is written to: what is restored has another identity.
func byDump(t *testing.T, c *cluster.Cluster, server *pgtest.Server) (func(), *load.Journal) {
	t.Helper()
	journal := c.Journal.Copy(t) // what is accepted while it is written may be in it or not
	return server.Dump(c.Database), journal
}

// byFiles copies the files of the stopped server: what is restored has the same identity.
func byFiles(t *testing.T, c *cluster.Cluster, server *pgtest.Server) (func(), *load.Journal) {
	t.Helper()
	server.Stop(pgtest.Immediate)
	journal := c.Journal.Copy(t)
	put := server.Copy()
	server.Start()
	return func() {
		server.Stop(pgtest.Immediate)
		put()
		server.Start()
	}, journal
}

// TestProcesses_GoBackWithTheDatabase restores PostgreSQL to what it was a while ago, with orders under way then and
// now. The broker is ahead of it: it has messages of orders that do not exist any more, under sequences that the
// database gives to others. What was accepted after the backup is lost with the database; everything else ends as it
// must, and nobody acts on what the broker still has of the lost time.
func TestProcesses_GoBackWithTheDatabase(t *testing.T) {
	t.Parallel()
	for name, how := range map[string]struct {
		backup  backup
		running bool // the processes, while the database is restored
	}{
		"dump":                              {byDump, false},
		"file copy":                         {byFiles, false},
		"file copy below running processes": {byFiles, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), faultsTimeout)
			defer cancel()
			server := pgtest.NewServer(t)
			c := cluster.Start(t, cluster.Shape{Plain: true, Database: server.NewDatabase(), Flags: brief()})
			loaded, stop := context.WithCancel(ctx)
			defer stop()
			wait := c.Load(loaded, clients)
			c.WaitAccepted(ctx, 10*clients)
			busy(ctx, t, c, "backup: "+name)
			restore, journal := how.backup(t, c, server)
			c.WaitAccepted(ctx, 20*clients)
			busy(ctx, t, c, "restore: "+name)
			if !how.running {
				killAll(c)
			}
			stop() // who waits for an answer goes on, and gets it from what the database is then
			restore()
			c.Journal = journal
			if !how.running {
				startAll(ctx, t, c)
			}
			wait()
			loaded, stop = context.WithCancel(ctx)
			defer stop()
			wait = c.Load(loaded, clients)
			c.WaitAccepted(ctx, 20*clients)
			stop()
			wait()
			c.WaitEnded(ctx)
			t.Log(c.Verify())
			// More than one, if a relay still published what it had read before it noticed.
			var incarnations int
			err := c.DB.QueryRowContext(ctx, "select count(distinct id) from incarnation").Scan(&incarnations)
			if err != nil || incarnations < 1 {
				t.Errorf("inconclusive: the broker was not ahead, %d incarnations were opened (%v)", incarnations, err)
			}
		})
	}
}

func killAll(c *cluster.Cluster) {
	for _, name := range c.Names("") {
		c.Process(name).Kill()
	}
}

func startAll(ctx context.Context, t *testing.T, c *cluster.Cluster) {
	t.Helper()
	for _, name := range c.Names("") {
		c.Process(name).Launch()
	}
	for _, name := range c.Names("") {
		if err := c.Process(name).WaitReady(ctx); err != nil {
			t.Errorf("%s is not ready: %v", name, err)
		}
	}
}
