package process_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mainstay-io/mainstay/internal/testkit/cluster"
	"github.com/mainstay-io/mainstay/internal/testkit/pgtest"
)

// TestProcesses_LoseTheDatabase stops PostgreSQL ten times as a crash does: every backend ends at once, and what was
// not committed is gone.
func TestProcesses_LoseTheDatabase(t *testing.T) {
	t.Parallel()
	server := pgtest.NewServer(t)
	underLoad(t, cluster.Shape{Database: server.NewDatabase(), Flags: brief()}, func(ctx context.Context, c *cluster.Cluster) {
		for range 10 {
			c.WaitAccepted(ctx, clients)
			busy(ctx, t, c, "immediate stop of PostgreSQL")
			server.Stop(pgtest.Immediate)
			server.Start()
		}
		for _, name := range c.Names(cluster.Worker) {
			wantSparing(t, c.Process(name))
		}
	})
}

// wantSparing wants a process to have warned, and of each thing no more than once in some seconds.
func wantSparing(t *testing.T, p *cluster.Process) {
	t.Helper()
	last := map[string]time.Time{}
	for text := range strings.Lines(p.Running.Stderr()) {
		var line struct {
			Time  time.Time `json:"time"`
			Level string    `json:"level"`
			Msg   string    `json:"msg"`
		}
		if err := json.Unmarshal([]byte(text), &line); err != nil || line.Level != "WARN" || !strings.Contains(line.Msg, "trying again") {
			continue
		}
		if before, ok := last[line.Msg]; ok && line.Time.Sub(before) < 4*time.Second {
			t.Errorf("%s says after %v once more: %s", p.Name, line.Time.Sub(before), line.Msg)
		}
		last[line.Msg] = line.Time
	}
	if len(last) == 0 {
		t.Errorf("%s says nothing of the database", p.Name)
	}
}

// TestProcesses_RunOutOfConnections takes every connection that the server has left, and ends the sessions of the
// processes, so that they find no other.
func TestProcesses_RunOutOfConnections(t *testing.T) {
	t.Parallel()
	server := pgtest.NewServer(t, "max_connections = 150")
	underLoad(t, cluster.Shape{Database: server.NewDatabase(), Flags: brief()}, func(ctx context.Context, c *cluster.Cluster) {
		for range 3 {
			c.WaitAccepted(ctx, clients)
			busy(ctx, t, c, "no connection left")
			held := takeConnections(ctx, t, server.URL())
			if _, err := held[0].Exec(ctx, `select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'mainstay%'`); err != nil {
				t.Fatal(err)
			}
			held = append(held, takeConnections(ctx, t, server.URL())...)
			c.Until(ctx, "a process has no database", func(ctx context.Context) (bool, error) { return anyUnready(ctx, c) })
			for _, conn := range held {
				_ = conn.Close(ctx) // it was only held
			}
		}
	})
}

// anyUnready says that a process answers that it is not ready.
func anyUnready(ctx context.Context, c *cluster.Cluster) (bool, error) {
	for _, name := range c.Names("") {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.Process(name).OpsURL+"/readyz", nil)
		if err != nil {
			return false, err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return false, err
		}
		_ = resp.Body.Close() // only the status counts
		if resp.StatusCode != http.StatusOK {
			return true, nil
		}
	}
	return false, nil
}

// takeConnections opens connections until the server refuses one.
func takeConnections(ctx context.Context, t *testing.T, url string) []*pgx.Conn {
	t.Helper()
	var held []*pgx.Conn
	for {
		conn, err := pgx.Connect(ctx, url)
		if err != nil {
			if len(held) == 0 && ctx.Err() != nil {
				t.Fatalf("taking connections: %v", err)
			}
			return held
		}
		held = append(held, conn)
	}
}

// TestProcesses_PassAnOpenTransaction holds a transaction open under the whole load that has written, so that its
// snapshot and its xid hold back whatever waits for them.
func TestProcesses_PassAnOpenTransaction(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	db, err := sql.Open("pgx", database)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var open *sql.Tx
	underLoad(t, cluster.Shape{Database: database, Flags: brief()}, func(ctx context.Context, c *cluster.Cluster) {
		if open, err = db.BeginTx(t.Context(), &sql.TxOptions{Isolation: sql.LevelRepeatableRead}); err != nil {
			t.Fatal(err)
		}
		if _, err := open.ExecContext(ctx, `create table held (at timestamptz); insert into held values (now())`); err != nil {
			t.Fatal(err)
		}
		c.WaitAccepted(ctx, 20*clients)
		busy(ctx, t, c, "a transaction is held open")
	})
	if err := open.Commit(); err != nil {
		t.Errorf("the transaction was not held open until the end: %v", err)
	}
}

// leaseTimes is three times the longest life of a lease.
const leaseTimes = 30 * time.Second

// TestProcesses_SurvivePauses stops a relay with the sequencer's lease, and a worker inside a transaction, for three
// lease times, and lets them go on: what they still believe to hold is others' now.
func TestProcesses_SurvivePauses(t *testing.T) {
	t.Parallel()
	for name, victim := range map[string]func(context.Context, *testing.T, *cluster.Cluster) *cluster.Process{
		"sequencer": func(ctx context.Context, t *testing.T, c *cluster.Cluster) *cluster.Process {
			return pauseHolder(ctx, t, c, cluster.Outbox, "sequencer")
		},
		"relay": func(ctx context.Context, t *testing.T, c *cluster.Cluster) *cluster.Process {
			return pauseHolder(ctx, t, c, cluster.Outbox, "relay")
		},
		"worker": func(ctx context.Context, t *testing.T, c *cluster.Cluster) *cluster.Process {
			return pauseHolder(ctx, t, c, cluster.Worker, "orders")
		},
		"worker inside a transaction": pauseInTransaction,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			underLoad(t, cluster.Shape{Flags: brief()}, func(ctx context.Context, c *cluster.Cluster) {
				p := victim(ctx, t, c)
				busy(ctx, t, c, p.Name+" paused")
				over := time.NewTimer(leaseTimes)
				defer over.Stop()
				c.WaitAccepted(ctx, clients)
				accepted := c.Journal.Accepted()
				if _, err := c.Clients()[0].Await(ctx, accepted[len(accepted)-1], leaseTimes); err != nil {
					t.Errorf("nobody has taken over from %s: %v", p.Name, err)
				}
				select {
				case <-over.C:
				case <-ctx.Done():
				}
				p.Resume()
				c.WaitAccepted(ctx, 5*clients)
				if err := p.WaitReady(ctx); err != nil {
					t.Errorf("%s does not go on: %v", p.Name, err)
				}
			})
		})
	}
}

// pauseHolder pauses the process of a kind that holds leases of the name.
func pauseHolder(ctx context.Context, t *testing.T, c *cluster.Cluster, kind, lease string) *cluster.Process {
	t.Helper()
	var pid int
	err := c.DB.QueryRowContext(ctx, `select split_part(holder, '/', 2)::int from lease where name = $1 and holder is not null limit 1`, lease).Scan(&pid)
	if err != nil {
		t.Fatalf("looking for who holds leases of %s: %v", lease, err)
	}
	for _, name := range c.Names(kind) {
		if p := c.Process(name); p.Running.PID() == pid {
			p.Pause()
			return p
		}
	}
	t.Fatalf("process %d, which holds leases of %s, is not among %v", pid, lease, c.Names(kind))
	return nil
}

// pauseInTransaction pauses a worker until it is caught inside a transaction: one that stays as it is while nobody
// else's does.
func pauseInTransaction(ctx context.Context, t *testing.T, c *cluster.Cluster) *cluster.Process {
	t.Helper()
	p := c.Process("worker-1")
	for ctx.Err() == nil {
		c.WaitAccepted(ctx, 1)
		p.Pause()
		if stuck(ctx, t, c) {
			return p
		}
		p.Resume()
	}
	t.Fatal("inconclusive: the worker was never caught inside a transaction")
	return nil
}

// stuck says that a session waits for its client inside a transaction under a lease, and still does a moment later.
func stuck(ctx context.Context, t *testing.T, c *cluster.Cluster) bool {
	t.Helper()
	const idle = `select a.pid, a.xact_start from pg_stat_activity a where a.state = 'idle in transaction'
		and a.datname = current_database() and exists (select from pg_locks l where l.pid = a.pid and l.locktype = 'advisory')`
	seen := map[int]time.Time{}
	rows, err := c.DB.QueryContext(ctx, idle)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var pid int
		var start time.Time
		if err := rows.Scan(&pid, &start); err != nil {
			t.Fatal(err)
		}
		seen[pid] = start
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	for pid, start := range seen {
		var same bool
		err := c.DB.QueryRowContext(ctx, `select coalesce((select state = 'idle in transaction' and xact_start = $2
			from pg_stat_activity, pg_sleep(0.1) where pid = $1), false)`, pid, start).Scan(&same)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			t.Fatal(err)
		}
		if same {
			return true
		}
	}
	return false
}
