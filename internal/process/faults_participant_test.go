package process_test

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/mainstay-io/mainstay/internal/client"
	"github.com/mainstay-io/mainstay/internal/testkit/cluster"
	"github.com/mainstay-io/mainstay/internal/testkit/load"
	"github.com/mainstay-io/mainstay/internal/testkit/pgtest"
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

// TestProcesses_ParticipantAwayLongerThanTheBroker stops the worker of inventory's own database until the broker has
// forgotten what it has not read, and gives that database new consumers of the orders' events, of which the broker has
// the end only. All of it they ask for from the orders' relay, which sees nothing wrong with its logs.
func TestProcesses_ParticipantAwayLongerThanTheBroker(t *testing.T) {
	t.Parallel()
	shape := cluster.Shape{Plain: true, Outbox: 1, Worker: 1, Flags: brief(), Participants: []cluster.Participant{
		{Name: "stock", Consumers: []string{"inventory"}, Worker: 3},
	}}
	underLoad(t, shape, func(ctx context.Context, c *cluster.Cluster) {
		workers := []string{"worker-stock-1", "worker-stock-2", "worker-stock-3"}
		for _, name := range workers {
			c.Process(name).Stop()
		}
		c.WaitAccepted(ctx, 3*clients)
		busy(ctx, t, c, "the broker forgets")
		before := heads(ctx, t, c)
		keepEnds(ctx, t, c)
		for _, name := range workers {
			c.Process(name).Start()
		}
		c.Until(ctx, "the orders' relay was asked for what is missing", func(context.Context) (bool, error) {
			return strings.Contains(c.Process("outbox-1").Running.Stderr(), "a consumer in another database lacks"), nil
		})
		stock := open(t, c.Databases["stock"])
		listen(ctx, t, c, stock, workers[1:]...)
		after := heads(ctx, t, c)
		c.WaitAccepted(ctx, 5*clients)
		wantHeard(ctx, t, c, stock, before, after)
	})
}

// keepEnds lets the broker forget everything but the last record of each log, as its retention does: the relays see
// nothing wrong with that.
func keepEnds(ctx context.Context, t *testing.T, c *cluster.Cluster) {
	t.Helper()
	st, err := jetStream(t, c.NATS.URL()).Stream(ctx, stream)
	if err != nil {
		t.Fatal(err)
	}
	info, err := st.Info(ctx, jetstream.WithSubjectFilter(">"))
	if err != nil {
		t.Fatal(err)
	}
	for subject := range info.State.Subjects {
		if err := st.Purge(ctx, jetstream.WithPurgeSubject(subject), jetstream.WithPurgeKeep(1)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestProcesses_OneOfTwoDatabasesGoesBack restores the orders' database, or inventory's own, to a dump of a while ago,
// while everything else is ahead of it and goes on. Orders end again; and verify names what the two databases know of
// each other's lost time, and nothing else. A command that was published when the dump was taken, and not yet recorded as
// such, is published again in the new incarnation, and inventory, which was not restored, answers it once more.
func TestProcesses_OneOfTwoDatabasesGoesBack(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		participant string
		// known are the rules that what was lost breaks.
		known []string
	}{
		"orders":    {"", []string{"outcome_without_message", "reply_without_command", "stock_held", "answered_twice"}},
		"inventory": {"stock", []string{"reply_not_in_outbox"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			goBack(t, c.participant, c.known)
		})
	}
}

func goBack(t *testing.T, participant string, known []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), faultsTimeout)
	defer cancel()
	server := pgtest.NewServer(t)
	shape := cluster.Shape{Plain: true, Outbox: 1, Worker: 1, Database: server.NewDatabase(), Flags: brief(), Participants: []cluster.Participant{
		{Name: "stock", Consumers: []string{"inventory"}, Database: server.NewDatabase()},
	}}
	c := cluster.Start(t, shape)
	stock := open(t, c.Databases["stock"])
	loaded, stop := context.WithCancel(ctx)
	defer stop()
	wait := c.Load(loaded, clients)
	c.WaitAccepted(ctx, 5*clients)
	c.Until(ctx, "the posters are sold", func(ctx context.Context) (bool, error) { // who gets the last one is not decided anew then
		var left int
		err := stock.QueryRowContext(ctx, `select on_hand from stock where sku = 'poster'`).Scan(&left)
		return left < 2, err
	})
	busy(ctx, t, c, "a dump of "+name(participant))
	journal := c.Journal
	if participant == "" {
		journal = c.Journal.Copy(t)
	}
	restore := server.Dump(c.Databases[participant])
	c.WaitAccepted(ctx, 10*clients)
	busy(ctx, t, c, "a restore of "+name(participant))
	var away []string
	for _, p := range c.Names("") {
		if strings.Contains(p, "-stock-") == (participant != "") {
			c.Process(p).Kill()
			away = append(away, p)
		}
	}
	stop() // who waits for an answer goes on, and gets it from what the database is then
	restore()
	unrecorded := unrecorded(ctx, t, open(t, c.Databases[participant]))
	c.Journal = journal
	for _, p := range away {
		c.Process(p).Start()
	}
	wait()
	loaded, stop = context.WithCancel(ctx)
	defer stop()
	wait = c.Load(loaded, clients)
	c.WaitAccepted(ctx, 10*clients)
	stop()
	wait()
	c.WaitEnded(ctx)
	found := c.VerifyBut(known...)
	for _, rule := range known {
		t.Logf("%s: %d, the first: %+v", rule, len(found[rule]), found[rule][:min(1, len(found[rule]))])
	}
	for _, v := range found["answered_twice"] {
		if !unrecorded[v.ID] {
			t.Errorf("command %s was answered twice, and the dump has it as published: %s", v.ID, v.Detail)
		}
	}
	key := client.NewKey() // and everything goes on
	placed, err := c.Clients()[0].PlaceOrder(ctx, key, load.OrderOf("tok_ok", "mug-red"))
	if err != nil {
		t.Fatal(err)
	}
	if o, err := c.Clients()[0].Await(ctx, placed.ID, faultsTimeout); err != nil || o.Status != client.StatusConfirmed {
		t.Errorf("the order after that ended as %s, %v", o.Status, err)
	}
}

// unrecorded are the messages of a database that no relay has recorded as published.
func unrecorded(ctx context.Context, t *testing.T, db *sql.DB) map[string]bool {
	t.Helper()
	rows, err := db.QueryContext(ctx, `select o.id::text from outbox o left join log l on o.position = any(l.positions)
left join relay_progress p on p.topic = l.topic and p.lane = l.lane
where coalesce(l.first_sequence + array_position(l.positions, o.position) - 1 > coalesce(p.sequence, 0), true)`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close() // rows.Err tells
	ids := map[string]bool{}
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			t.Fatal(err)
		}
		ids[id] = true
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return ids
}

func name(participant string) string { return fmt.Sprintf("database %q", participant) }
