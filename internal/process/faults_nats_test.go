package process_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/mainstay-io/mainstay/internal/client"
	"github.com/mainstay-io/mainstay/internal/testkit/cluster"
	"github.com/mainstay-io/mainstay/internal/testkit/load"
	"github.com/mainstay-io/mainstay/internal/testkit/natstest"
	"github.com/mainstay-io/mainstay/internal/testkit/proc"
)

const stream = "MAINSTAY"

// jetStream is a connection beside the processes'.
func jetStream(t *testing.T, url string) jetstream.JetStream {
	t.Helper()
	nc, err := nats.Connect(url, nats.MaxReconnects(-1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// TestProcesses_LoseAServerOfTheCluster kills one of three servers under load, and then twice the one that leads the
// stream; the stream has three replicas, and the processes know the servers by a password.
func TestProcesses_LoseAServerOfTheCluster(t *testing.T) {
	t.Parallel()
	servers := natstest.NewCluster(t, 3, `authorization { user: mainstay, password: "pass/word" }`)
	urls := strings.ReplaceAll(natstest.URLs(servers), "nats://", "nats://mainstay:pass%2Fword@")
	js := jetStream(t, urls)
	shape := cluster.Shape{Plain: true, Broker: urls, Flags: brief()}
	shape.Flags[cluster.Outbox] = []string{"--nats-replicas", "3"}
	shape.Flags[cluster.Worker] = append(shape.Flags[cluster.Worker], "--nats-replicas", "3")
	underLoad(t, shape, func(ctx context.Context, c *cluster.Cluster) {
		for i := range 3 {
			victim := leader(ctx, t, c, js)
			if i == 0 {
				victim = (victim + 1) % len(servers)
			}
			c.WaitAccepted(ctx, clients)
			busy(ctx, t, c, fmt.Sprintf("kill -9 of server %d", victim+1))
			servers[victim].Kill()
			wantEnd(ctx, t, c)
			servers[victim].Start()
			waitReplicas(ctx, c, js)
		}
	})
}

// leader is the index of the server that leads the stream.
func leader(ctx context.Context, t *testing.T, c *cluster.Cluster, js jetstream.JetStream) int {
	t.Helper()
	n := 0
	c.Until(ctx, "the stream has a leader", func(ctx context.Context) (bool, error) {
		st, err := js.Stream(ctx, stream)
		if err != nil {
			return false, err
		}
		_, err = fmt.Sscanf(st.CachedInfo().Cluster.Leader, "nats-%d", &n)
		return err == nil, err
	})
	return n - 1
}

// waitReplicas blocks until the stream has three replicas that are up to date.
func waitReplicas(ctx context.Context, c *cluster.Cluster, js jetstream.JetStream) {
	c.Until(ctx, "all replicas are up to date", func(ctx context.Context) (bool, error) {
		st, err := js.Stream(ctx, stream)
		if err != nil {
			return false, err
		}
		current := 0
		for _, r := range st.CachedInfo().Cluster.Replicas {
			if !r.Offline && r.Lag < 100 {
				current++
			}
		}
		if current < 2 {
			return false, fmt.Errorf("%d of 2 follow the leader", current)
		}
		return true, nil
	})
}

// wantEnd places one order more and wants it to end.
func wantEnd(ctx context.Context, t *testing.T, c *cluster.Cluster) {
	t.Helper()
	key := client.NewKey()
	placed, err := c.Clients()[0].PlaceOrder(ctx, key, load.OrderOf("tok_ok", "mug-red"))
	if err != nil {
		t.Fatal(err)
	}
	c.Journal.Add(t, key, placed.ID)
	if o, err := c.Clients()[0].Await(ctx, placed.ID, faultsTimeout); err != nil || o.Status != client.StatusConfirmed {
		t.Fatalf("the order ended as %s, %v", o.Status, err)
	}
}

// TestProcesses_FillTheStream lets publishes be refused for want of room: the outbox processes are not ready and say
// why, orders go on from the database, and when there is room the relay goes on by itself.
func TestProcesses_FillTheStream(t *testing.T) {
	t.Parallel()
	for name, limit := range map[string]struct {
		server []string
		fill   func(ctx context.Context, t *testing.T, c *cluster.Cluster)
		relax  func(ctx context.Context, t *testing.T, c *cluster.Cluster)
	}{
		"max_bytes of the stream": {
			fill: func(ctx context.Context, t *testing.T, c *cluster.Cluster) {
				setMaxBytes(ctx, t, c, func(s jetstream.StreamState) int64 { return int64(s.Bytes) + 2000 })
			},
			relax: func(ctx context.Context, t *testing.T, c *cluster.Cluster) {
				setMaxBytes(ctx, t, c, func(jetstream.StreamState) int64 { return -1 })
			},
		},
		"max_file of the server": {
			server: []string{"max_file: 800K"},
			fill:   func(context.Context, *testing.T, *cluster.Cluster) {},
			relax: func(_ context.Context, _ *testing.T, c *cluster.Cluster) {
				c.NATS.Stop()
				c.NATS.Configure()
				c.NATS.Start()
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			underLoad(t, cluster.Shape{Plain: true, NATS: limit.server, Flags: brief()}, func(ctx context.Context, c *cluster.Cluster) {
				limit.fill(ctx, t, c)
				waitReadiness(ctx, t, c, 503, "the log is full")
				busy(ctx, t, c, "the stream is full")
				wantEnd(ctx, t, c)
				limit.relax(ctx, t, c)
				waitReadiness(ctx, t, c, 200, "")
			})
		})
	}
}

// waitReadiness blocks until every outbox process answers so.
func waitReadiness(ctx context.Context, t *testing.T, c *cluster.Cluster, want int, says string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for _, relay := range c.Names(cluster.Outbox) {
		c.Until(ctx, fmt.Sprintf("%s answers %d and says %q", relay, want, says), func(ctx context.Context) (bool, error) {
			status, said := c.Process(relay).Readiness(ctx)
			if status == want && strings.Contains(said, says) {
				return true, nil
			}
			return false, errors.New(said)
		})
	}
}

func setMaxBytes(ctx context.Context, t *testing.T, c *cluster.Cluster, limit func(jetstream.StreamState) int64) {
	t.Helper()
	js := jetStream(t, c.NATS.URL())
	st, err := js.Stream(ctx, stream)
	if err != nil {
		t.Fatal(err)
	}
	cfg := st.CachedInfo().Config
	cfg.MaxBytes = limit(st.CachedInfo().State)
	if _, err := js.UpdateStream(ctx, cfg); err != nil {
		t.Fatal(err)
	}
}

// TestProcesses_RefuseALargeMessage lowers the server's limit below what is in the outbox: the message becomes a dead
// letter of the relay, its neighbours go on behind the marker in its place, and who reads the marker takes the message
// from the log: its order ends while the limit is what it is.
func TestProcesses_RefuseALargeMessage(t *testing.T) {
	t.Parallel()
	underLoad(t, cluster.Shape{Flags: brief()}, func(ctx context.Context, c *cluster.Cluster) {
		restart := func(settings ...string) {
			c.NATS.Stop()
			c.NATS.Configure(settings...)
			c.NATS.Start()
		}
		restart("max_payload: 8192")
		large := load.OrderOf("tok_ok", "mug-red")
		large.Lines = nil
		for i := range 100 {
			large.Lines = append(large.Lines, client.Line{SKU: fmt.Sprintf("no-such-%03d-%s", i, strings.Repeat("x", 50)), Quantity: 1, UnitPrice: 1})
		}
		key := client.NewKey()
		placed, err := c.Clients()[0].PlaceOrder(ctx, key, large)
		if err != nil {
			t.Fatal(err)
		}
		c.Journal.Add(t, key, placed.ID)
		c.Until(ctx, "the relay has a dead letter", func(ctx context.Context) (bool, error) {
			var n int
			err := c.DB.QueryRowContext(ctx, `select count(*) from dead_letter where consumer = 'relay' and key = $1`, placed.ID).Scan(&n)
			return n > 0, err
		})
		busy(ctx, t, c, "a message is refused")
		wantEnd(ctx, t, c)
		if o, err := c.Clients()[0].Await(ctx, placed.ID, time.Minute); err != nil || o.Status != client.StatusCancelled {
			t.Errorf("the large order ended as %s, %v", o.Status, err)
		}
		restart()
	})
}

// TestProcesses_AwayLongerThanTheBroker stops every worker, and the broker forgets all that they have not read: they
// read it from the database.
func TestProcesses_AwayLongerThanTheBroker(t *testing.T) {
	t.Parallel()
	underLoad(t, cluster.Shape{Flags: brief()}, func(ctx context.Context, c *cluster.Cluster) {
		for _, name := range c.Names(cluster.Worker) {
			c.Process(name).Stop()
		}
		c.WaitAccepted(ctx, 5*clients)
		busy(ctx, t, c, "the broker forgets")
		forget(ctx, t, c, 1)
		for _, name := range c.Names(cluster.Worker) {
			c.Process(name).Start()
		}
		c.WaitAccepted(ctx, 5*clients)
	})
}

// forget removes from the broker what is older than the last so many parts of it.
func forget(ctx context.Context, t *testing.T, c *cluster.Cluster, parts uint64) {
	t.Helper()
	st, err := jetStream(t, c.NATS.URL()).Stream(ctx, stream)
	if err != nil {
		t.Fatal(err)
	}
	state := st.CachedInfo().State
	first := state.LastSeq - (state.LastSeq-state.FirstSeq)/parts*(parts-1)
	if err := st.Purge(ctx, jetstream.WithPurgeSequence(first)); err != nil {
		t.Fatal(err)
	}
	if st, err = jetStream(t, c.NATS.URL()).Stream(ctx, stream); err != nil || st.CachedInfo().State.FirstSeq < first {
		t.Fatalf("the stream still begins at %d, %v", st.CachedInfo().State.FirstSeq, err)
	}
}

// TestProcesses_TakeNewConsumers adds a consumer from the earliest message and one from the latest to a running
// system whose broker no longer has its first messages: they get exactly all, and exactly those after their
// registration.
func TestProcesses_TakeNewConsumers(t *testing.T) {
	t.Parallel()
	shape := cluster.Shape{Flags: brief()}
	underLoad(t, shape, func(ctx context.Context, c *cluster.Cluster) {
		forget(ctx, t, c, 2)
		before := heads(ctx, t, c)
		listen(ctx, t, c, c.DB, c.Names(cluster.Worker)...)
		after := heads(ctx, t, c)
		c.WaitAccepted(ctx, 5*clients)
		wantHeard(ctx, t, c, c.DB, before, after)
	})
}

// listen gives two workers of a database a new consumer each: one from the earliest message and one from the latest.
func listen(ctx context.Context, t *testing.T, c *cluster.Cluster, db *sql.DB, workers ...string) {
	t.Helper()
	if _, err := db.ExecContext(ctx, `create table heard (consumer text, lane int, sequence bigint, primary key (consumer, lane, sequence))`); err != nil {
		t.Fatal(err)
	}
	bin := proc.BuildPlain(t, "./internal/process/testdata/listens")
	for i, start := range []string{"earliest", "latest"} {
		p := c.Process(workers[i])
		busy(ctx, t, c, "a new consumer comes")
		p.Stop()
		p.Bin, p.Args = bin, append([]string{"listener-" + start, start}, p.Args...)
		p.Start()
	}
}

// heads are the last sequences of the orders' events, by lane.
func heads(ctx context.Context, t *testing.T, c *cluster.Cluster) map[int]int64 {
	t.Helper()
	return bylane(ctx, t, c.DB, `select lane, max(last_sequence) from log where topic = 'order-events' group by lane`)
}

func bylane(ctx context.Context, t *testing.T, db *sql.DB, query string, args ...any) map[int]int64 {
	t.Helper()
	rows, err := db.QueryContext(ctx, query, args...)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close() // rows.Err tells
	found := map[int]int64{}
	for rows.Next() {
		var lane int
		var n int64
		if err := rows.Scan(&lane, &n); err != nil {
			t.Fatal(err)
		}
		found[lane] = n
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return found
}

// wantHeard waits until both listeners have come to an end that lies behind after, and wants no hole in what they heard;
// that of the earliest begins at 1, and that of the latest behind before. What they heard is in db.
func wantHeard(ctx context.Context, t *testing.T, c *cluster.Cluster, db *sql.DB, before, after map[int]int64) {
	t.Helper()
	until := heads(ctx, t, c)
	const heard = `select lane, max(sequence) from heard where consumer = $1 group by lane`
	for _, name := range []string{"listener-earliest", "listener-latest"} {
		c.Until(ctx, name+" has heard all", func(ctx context.Context) (bool, error) {
			last := bylane(ctx, t, db, heard, name)
			for lane, head := range until {
				if last[lane] < head && (name == "listener-earliest" || head > after[lane]) {
					return false, fmt.Errorf("lane %d: heard up to %d of %d", lane, last[lane], head)
				}
			}
			return true, nil
		})
		first := bylane(ctx, t, db, `select lane, min(sequence) from heard where consumer = $1 group by lane`, name)
		holes := bylane(ctx, t, db, `select lane, max(sequence) - min(sequence) + 1 - count(*) from heard where consumer = $1 group by lane`, name)
		for lane, n := range first {
			early := name == "listener-earliest"
			if early && n != 1 || !early && (n <= before[lane] || n > after[lane]+1) || holes[lane] != 0 {
				t.Errorf("%s heard lane %d from %d on with %d holes; it had %d to %d messages when it came", name, lane, n, holes[lane], before[lane], after[lane])
			}
		}
	}
}
