// Package cluster runs the backbone in tests as it runs in production: a PostgreSQL database, a NATS server, and any
// number of ingest, outbox and worker processes, which are real binaries. Each process can be stopped, killed, paused
// and started again by its name, under load from clients that repeat blindly, and at the end `mainstay verify` says
// whether the promise was kept:
//
//	c := cluster.Start(t, cluster.Shape{})
//	wait := c.Load(ctx, 12)
//	c.Process("worker-1").Kill()
//	...
//	wait()
//	c.WaitEnded(ctx)
//	c.Verify()
package cluster

import (
	"context"
	"database/sql"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/client"
	"github.com/mainstay-io/mainstay/internal/testkit/load"
	"github.com/mainstay-io/mainstay/internal/testkit/natstest"
	"github.com/mainstay-io/mainstay/internal/testkit/pgtest"
	"github.com/mainstay-io/mainstay/internal/testkit/proc"
	"github.com/mainstay-io/mainstay/internal/verify"
)

// Kinds of processes.
const (
	Ingest = "ingest"
	Outbox = "outbox"
	Worker = "worker"
	// Tool is the operators' tool, which runs for one command.
	Tool = "mainstay"
)

// Shape says what runs. The zero value is one ingest, two outbox and two worker processes with a NATS server of their
// own, on a fresh database.
type Shape struct {
	// Ingest, Outbox and Worker are how many there are of each; negative is none.
	Ingest, Outbox, Worker int
	// Database is the URL of a database, which is migrated; "" makes a fresh one. Through names the way of the
	// processes to it, a proxy perhaps; "" is the same.
	Database, Through string
	// Participants have databases of their own, which are made fresh; what they host the other workers do not.
	Participants []Participant
	// Broker is what the setting says; "" starts a server, which Cluster.NATS is then.
	Broker string
	// NATS are further lines of the configuration of the server that is started.
	NATS []string
	// Lanes of a database that is new; 0 is the default of servers.
	Lanes int
	// Flags are further flags by kind of process, or by name: {"worker": {"--call-timeout", "300ms"}}.
	Flags map[string][]string
	// Binaries are other ones than this checkout's, by kind; Tool is that of the operators' tool.
	Binaries map[string]string
	// Plain builds the binaries without the race detector, also where the test runs with it.
	Plain bool
}

// Participant is a database of its own for some of the consumers, with as many lanes as the first. Its processes are
// named by kind, Name and number: "worker-stock-1". Of each kind there is one where nothing else is said.
type Participant struct {
	Name           string
	Consumers      []string
	Outbox, Worker int
	// Database is the URL of the database; "" makes a fresh one.
	Database string
}

// consumers are all that there are.
func consumers() []string { return []string{"orders", "inventory", "payment", "logistics"} }

func (s *Shape) defaults() {
	for i := range s.Participants {
		p := &s.Participants[i]
		p.Outbox, p.Worker = max(p.Outbox, 1), max(p.Worker, 1)
	}
	for n, d := range map[*int]int{&s.Ingest: 1, &s.Outbox: 2, &s.Worker: 2} {
		if *n == 0 {
			*n = d
		}
	}
}

// Cluster is a running system. Its methods fail the test when a process does not do what it is told.
type Cluster struct {
	// Database is the URL of the database itself, whatever the processes' way to it is.
	Database string
	// NATS is the server that was started for the cluster; nil where Shape names a broker.
	NATS *natstest.Server
	// Journal is what the clients of Load were told.
	Journal *load.Journal
	// Tool is the operators' tool that migrates and verifies.
	Tool string
	// DB is for the test's own look at the database.
	DB *sql.DB
	// Databases are the URLs of all databases by the names of participants, the first one's under "".
	Databases map[string]string

	t         testing.TB
	shape     Shape
	broker    string
	processes map[string]*Process
}

// Start starts everything and returns when every process is ready. It ends with the test.
func Start(t testing.TB, shape Shape) *Cluster {
	t.Helper()
	c := prepare(t, shape)
	var all sync.WaitGroup
	for _, p := range c.processes {
		p.launch()
	}
	for _, p := range c.processes {
		all.Go(p.settle)
	}
	all.Wait()
	if t.Failed() {
		t.FailNow()
	}
	c.Stock(map[string]int64{"mug-red": 1_000_000, "mug-blue": 1_000_000, "shirt-m": 1_000_000, "poster": 3})
	return c
}

func prepare(t testing.TB, shape Shape) *Cluster {
	t.Helper()
	shape.defaults()
	c := &Cluster{
		Database: shape.Database, Journal: load.NewJournal(t), t: t, shape: shape, broker: shape.Broker,
		processes: map[string]*Process{}, Databases: map[string]string{},
	}
	if c.Tool = shape.Binaries[Tool]; c.Tool == "" {
		c.Tool = proc.BuildPlain(t, "./cmd/mainstay")
	}
	if c.Database == "" {
		c.Database = pgtest.New(t)
	}
	c.Databases[""] = c.Database
	for _, p := range shape.Participants {
		if c.Databases[p.Name] = p.Database; p.Database == "" {
			c.Databases[p.Name] = pgtest.New(t)
		}
	}
	for _, url := range c.Databases {
		c.mainstay("migrate", "up", "--database", url, "--lanes", strconv.Itoa(shape.Lanes))
	}
	c.DB = c.open(c.Database)
	if c.broker == "" {
		c.NATS = natstest.New(t, shape.NATS...)
		c.broker = c.NATS.URL()
	}
	for kind, n := range map[string]int{Ingest: shape.Ingest, Outbox: shape.Outbox, Worker: shape.Worker} {
		for i := range max(n, 0) {
			c.add(kind, i+1)
		}
	}
	for _, p := range shape.Participants {
		for kind, n := range map[string]int{Outbox: p.Outbox, Worker: p.Worker} {
			for i := range n {
				c.addTo(p.Name, kind, i+1)
			}
		}
	}
	return c
}

// open gives the test connections of its own to a database.
func (c *Cluster) open(url string) *sql.DB {
	c.t.Helper()
	db, err := sql.Open("pgx", url)
	if err != nil {
		c.t.Fatal(err)
	}
	db.SetMaxOpenConns(2)
	c.t.Cleanup(func() { _ = db.Close() })
	return db
}

// add makes a process that does not run yet.
func (c *Cluster) add(kind string, number int) *Process { return c.addTo("", kind, number) }

// addTo makes a process of a participant's database.
func (c *Cluster) addTo(participant, kind string, number int) *Process {
	name := fmt.Sprintf("%s-%d", kind, number)
	if participant != "" {
		name = fmt.Sprintf("%s-%s-%d", kind, participant, number)
	}
	p := &Process{Name: name, Kind: kind, t: c.t, Bin: c.shape.Binaries[kind]}
	if p.Bin == "" {
		build := proc.Build
		if c.shape.Plain {
			build = proc.BuildPlain
		}
		p.Bin = build(c.t, "./cmd/"+kind)
	}
	way := c.shape.Through
	if way == "" || participant != "" {
		way = c.Databases[participant]
	}
	ops := proc.FreeAddr(c.t)
	p.OpsURL = "http://" + ops
	p.Args = []string{"--database", way, "--ops", ops}
	switch kind {
	case Ingest:
		http := proc.FreeAddr(c.t)
		p.URL = "http://" + http
		p.Args = append(p.Args, "--http", http)
		p.Client = load.Blind(c.t, p.URL, p.OpsURL)
	default:
		p.Args = append(p.Args, "--broker", c.broker)
	}
	if kind == Worker && len(c.shape.Participants) > 0 {
		p.Args = append(p.Args, "--consume", strings.Join(c.hosted(participant), ","))
	}
	p.Args = append(append(p.Args, c.shape.Flags[kind]...), c.shape.Flags[p.Name]...)
	c.processes[p.Name] = p
	return p
}

// hosted are the consumers of a participant's database, or with "" of the first one.
func (c *Cluster) hosted(participant string) []string {
	rest := consumers()
	for _, p := range c.shape.Participants {
		if p.Name == participant {
			return p.Consumers
		}
		rest = slices.DeleteFunc(rest, func(name string) bool { return slices.Contains(p.Consumers, name) })
	}
	return rest
}

// Add starts one more process of a kind and returns when it is ready.
func (c *Cluster) Add(kind string) *Process {
	c.t.Helper()
	p := c.add(kind, len(c.Names(kind))+1)
	p.Start()
	return p
}

// Process is the one of that name: "worker-1".
func (c *Cluster) Process(name string) *Process {
	c.t.Helper()
	p := c.processes[name]
	if p == nil {
		c.t.Fatalf("there is no process %s; there are %v", name, c.Names(""))
	}
	return p
}

// Names lists the processes of a kind, or all with "".
func (c *Cluster) Names(kind string) []string {
	names := slices.Sorted(maps.Keys(c.processes))
	return slices.DeleteFunc(names, func(name string) bool { return kind != "" && c.processes[name].Kind != kind })
}

// Clients are clients that repeat blindly, one for each ingest process.
func (c *Cluster) Clients() []*client.Client {
	var cs []*client.Client
	for _, name := range c.Names(Ingest) {
		cs = append(cs, c.processes[name].Client)
	}
	return cs
}

// Stock sets what is on hand, by article. Where inventory has a database of its own, an ingest process of that one is
// started for as long as it takes.
func (c *Cluster) Stock(onHand map[string]int64) {
	c.t.Helper()
	desk := c.Clients()[0]
	for _, p := range c.shape.Participants {
		if slices.Contains(p.Consumers, "inventory") {
			clerk := c.addTo(p.Name, Ingest, 1)
			delete(c.processes, clerk.Name)
			clerk.Start()
			defer clerk.Stop()
			desk = clerk.Client
		}
	}
	for sku, n := range onHand {
		if _, err := desk.PutStock(context.WithoutCancel(c.t.Context()), sku, n); err != nil {
			c.t.Fatalf("setting the stock of %s: %v", sku, err)
		}
	}
}

// Load posts orders of every kind from so many clients until ctx ends; the answer waits until they have all been
// answered.
func (c *Cluster) Load(ctx context.Context, clients int) (wait func()) {
	c.t.Helper()
	return load.Run(ctx, c.t, c.Journal, clients, c.Clients()...)
}

// WaitAccepted blocks until n more orders have been accepted than when it was called.
func (c *Cluster) WaitAccepted(ctx context.Context, n int) {
	c.t.Helper()
	want := len(c.Journal.Accepted()) + n
	c.Until(ctx, fmt.Sprintf("%d more orders are accepted", n), func(context.Context) (bool, error) {
		return len(c.Journal.Accepted()) >= want, nil
	})
}

// InFlight counts the sagas that have not ended.
func (c *Cluster) InFlight(ctx context.Context) (int, error) {
	var n int
	err := c.DB.QueryRowContext(ctx, `select count(*) from saga where ended_at is null`).Scan(&n)
	return n, err
}

// WaitEnded blocks until every saga has ended; if one does not, it says where that hangs.
func (c *Cluster) WaitEnded(ctx context.Context) {
	c.t.Helper()
	ended := false
	defer func() {
		if !ended {
			c.diagnose()
		}
	}()
	c.Until(ctx, "all orders have ended", func(ctx context.Context) (bool, error) {
		n, err := c.InFlight(ctx)
		return n == 0, err
	})
	ended = true
}

// untilTick is how often Until asks.
const untilTick = 50 * time.Millisecond

// Until asks again and again until the answer is true; an error counts as not yet. It fails the test when ctx ends
// first.
func (c *Cluster) Until(ctx context.Context, what string, holds func(context.Context) (bool, error)) {
	c.t.Helper()
	tick := time.NewTicker(untilTick)
	defer tick.Stop()
	for {
		ok, err := holds(ctx)
		if ok && err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			c.t.Fatalf("waiting until %s: %v (last error: %v)", what, context.Cause(ctx), err)
		}
	}
}

// Verify checks every invariant, the clients' journal included, and gives the report.
func (c *Cluster) Verify(args ...string) string {
	c.t.Helper()
	return c.mainstay(c.verify(args...)...)
}

func (c *Cluster) verify(args ...string) []string {
	all := []string{"verify", "--database", c.Database, "--journal", c.Journal.Path()}
	for _, p := range c.shape.Participants {
		all = append(all, "--database", c.Databases[p.Name])
	}
	return append(all, args...)
}

// WantViolation fails the test unless verify finds the rule violated.
func (c *Cluster) WantViolation(rule string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.t.Context()), mainstayTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, proc.BuildPlain(c.t, "./cmd/mainstay"), c.verify()...).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "("+rule+")") {
		c.t.Errorf("verify does not find %s: %v\n%s", rule, err, out)
	}
}

// VerifyBut checks every invariant, as Verify does, where some are known to be broken: it answers with what breaks them,
// by rule, and fails the test when another one is, or none.
func (c *Cluster) VerifyBut(known ...string) map[string][]verify.Violation {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.t.Context()), mainstayTimeout)
	defer cancel()
	o := verify.Options{DB: c.open(c.Database), Dialect: mainstay.Postgres, Limit: 10_000}
	for _, p := range c.shape.Participants {
		o.Others = append(o.Others, c.open(c.Databases[p.Name]))
	}
	journal, err := os.Open(c.Journal.Path())
	if err != nil {
		c.t.Fatal(err)
	}
	defer journal.Close() // it is only read
	o.Journal = journal
	report, err := verify.Run(ctx, o)
	if err != nil {
		c.t.Fatal(err)
	}
	found := map[string][]verify.Violation{}
	for _, check := range report.Checks {
		for _, v := range check.Violations {
			if found[v.Rule] = append(found[v.Rule], v); !slices.Contains(known, v.Rule) {
				c.t.Errorf("verify: %s (%s): %s: %s", check.Name, v.Rule, v.ID, v.Detail)
			}
		}
	}
	if len(found) == 0 {
		c.t.Errorf("inconclusive: verify finds none of %v", known)
	}
	return found
}

// mainstayTimeout bounds a command.
const mainstayTimeout = 3 * time.Minute

// mainstay runs a command of the operators' tool and wants exit code 0.
func (c *Cluster) mainstay(args ...string) string {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.t.Context()), mainstayTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, c.Tool, args...).CombinedOutput()
	if err != nil {
		c.t.Errorf("mainstay %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}
