package pgproxy_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/goleak"

	"github.com/mainstay-io/mainstay/internal/testkit/pgproxy"
	"github.com/mainstay-io/mainstay/internal/testkit/pgtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// ways are those in which a client can send a transaction of one insert.
func ways() map[string]func(context.Context, *pgx.Conn) error {
	exec := func(mode pgx.QueryExecMode, statements ...string) func(context.Context, *pgx.Conn) error {
		return func(ctx context.Context, c *pgx.Conn) error {
			for _, s := range statements {
				if _, err := c.Exec(ctx, s, mode); err != nil {
					return err
				}
			}
			return nil
		}
	}
	const insert = "insert into t values (1)"
	return map[string]func(context.Context, *pgx.Conn) error{
		"simple":         exec(pgx.QueryExecModeSimpleProtocol, "begin", insert, "commit"),
		"one query":      exec(pgx.QueryExecModeSimpleProtocol, "begin; "+insert+"; COMMIT WORK;"),
		"prepared":       exec(pgx.QueryExecModeCacheStatement, "begin", insert, "/* why */ commit"),
		"unnamed":        exec(pgx.QueryExecModeExec, "begin", insert, "end transaction"),
		"pipelined":      batch("begin", insert, "commit"),
		"pipelined more": batch("begin", insert, "commit", "select 1"),
	}
}

func batch(statements ...string) func(context.Context, *pgx.Conn) error {
	return func(ctx context.Context, c *pgx.Conn) error {
		b := &pgx.Batch{}
		for _, s := range statements {
			b.Queue(s)
		}
		return c.SendBatch(ctx, b).Close()
	}
}

// connect makes a connection that does not cancel what it has sent when it is dropped, as it does otherwise, over a
// second connection: a COMMIT that was forwarded is to come about.
func connect(t testing.TB, url string) *pgx.Conn {
	t.Helper()
	config, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	var dialed atomic.Bool
	dial := config.DialFunc
	config.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if dialed.Swap(true) {
			return nil, errors.New("nothing is cancelled")
		}
		return dial(ctx, network, addr)
	}
	c, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	return c
}

// waitRows waits until the table has n rows: the server may still be at the commit when the client is dropped.
func waitRows(t testing.TB, c *pgx.Conn, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for got := -1; ; <-again.C {
		if err := c.QueryRow(ctx, "select count(*) from t").Scan(&got); err != nil {
			t.Fatalf("waiting for %d rows, there are %d: %v", n, got, err)
		}
		if got == n {
			return
		}
	}
}

func TestProxy_CutsEveryKindOfCommit(t *testing.T) {
	t.Parallel()
	for name, way := range ways() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := pgtest.New(t)
			direct, p := connect(t, url), pgproxy.Start(t, url)
			if _, err := direct.Exec(t.Context(), "create table t (n int)"); err != nil {
				t.Fatal(err)
			}
			p.Cut(pgproxy.Every(2, pgproxy.Before, pgproxy.Amid, pgproxy.After)) // the 2nd: Amid, 4th: After, 6th: Before
			for i, committed := range []int{1, 2, 3, 4, 5, 5} {
				err := way(t.Context(), connect(t, p.URL()))
				var pg *pgconn.PgError
				if cut := i%2 == 1; cut != (err != nil) || errors.As(err, &pg) {
					t.Fatalf("transaction %d: error %v, want one of the connection: %v", i+1, err, cut)
				}
				waitRows(t, direct, committed)
			}
			for _, f := range []pgproxy.Fault{pgproxy.Before, pgproxy.Amid, pgproxy.After} {
				if got := p.Cuts(f); got != 1 {
					t.Errorf("%d cuts of kind %d, want 1", got, f)
				}
			}
			if got := p.Commits(); got != 6 {
				t.Errorf("%d commits, want 6", got)
			}
		})
	}
}

func TestProxy_CutsStatementsAlone(t *testing.T) {
	t.Parallel()
	for name, mode := range map[string]pgx.QueryExecMode{
		"simple": pgx.QueryExecModeSimpleProtocol, "prepared": pgx.QueryExecModeCacheStatement, "unnamed": pgx.QueryExecModeExec,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := pgtest.New(t)
			direct, p := connect(t, url), pgproxy.Start(t, url)
			if _, err := direct.Exec(t.Context(), "create table t (n int)"); err != nil {
				t.Fatal(err)
			}
			for _, cut := range []struct {
				fault     pgproxy.Fault
				committed int
			}{{pgproxy.None, 1}, {pgproxy.Before, 1}, {pgproxy.Amid, 2}, {pgproxy.After, 3}} {
				p.CutAlone(func(statement string) pgproxy.Fault {
					if strings.HasPrefix(statement, "insert") {
						return cut.fault
					}
					return pgproxy.None
				})
				c := connect(t, p.URL())
				if _, err := c.Exec(t.Context(), "select 1", mode); err != nil {
					t.Fatal(err)
				}
				_, err := c.Exec(t.Context(), "insert into t values (1)", mode)
				var pg *pgconn.PgError
				if (cut.fault != pgproxy.None) != (err != nil) || errors.As(err, &pg) {
					t.Fatalf("way %d: error %v", cut.fault, err)
				}
				if cut.fault == pgproxy.After { // it was answered, so it is there
					wantRows(t, direct, cut.committed)
				}
				waitRows(t, direct, cut.committed)
				if got := p.Cuts(cut.fault); cut.fault != pgproxy.None && got != 1 {
					t.Errorf("%d cuts in way %d, want 1", got, cut.fault)
				}
			}
			// In a transaction no statement is alone.
			if err := ways()["pipelined"](t.Context(), connect(t, p.URL())); err != nil {
				t.Errorf("in a transaction: %v", err)
			}
		})
	}
}

// wantRows wants the table to have n rows at once.
func wantRows(t testing.TB, c *pgx.Conn, n int) {
	t.Helper()
	var got int
	if err := c.QueryRow(t.Context(), "select count(*) from t").Scan(&got); err != nil || got != n {
		t.Errorf("%d rows, error %v; want %d", got, err, n)
	}
}

// TestProxy_HidesAFailure cuts commits that the server refuses: the client does not learn that either, and does not
// wait for it.
func TestProxy_HidesAFailure(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t)
	direct, p := connect(t, url), pgproxy.Start(t, url)
	if _, err := direct.Exec(t.Context(), "create table t (n int unique deferrable initially deferred); insert into t values (1)"); err != nil {
		t.Fatal(err)
	}
	for name, way := range ways() {
		for _, f := range []pgproxy.Fault{pgproxy.Before, pgproxy.Amid, pgproxy.After} {
			p.Cut(pgproxy.Every(1, f))
			ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
			err := way(ctx, connect(t, p.URL()))
			var pg *pgconn.PgError
			if err == nil || ctx.Err() != nil || errors.As(err, &pg) {
				t.Errorf("%s in way %d: %v, want an error of the connection", name, f, err)
			}
			cancel()
		}
	}
	wantRows(t, direct, 1)
}

func TestProxy_TellsWhatIsCommitted(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t)
	p := pgproxy.Start(t, url)
	var said []string
	p.Cut(func(c pgproxy.Commit) pgproxy.Fault {
		said = append(said, strings.Join(c.Statements, "; "))
		return pgproxy.None
	})
	c := connect(t, p.URL())
	for _, statements := range [][]string{
		{"begin", "select 1", "rollback"},
		{"begin", "savepoint a", "rollback to savepoint a", "select 2", "commit"},
	} {
		if err := batch(statements...)(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	if len(said) != 1 || said[0] != "begin; savepoint a; rollback to savepoint a; select 2" {
		t.Errorf("got %q", said)
	}
}

func TestProxy_Stalls(t *testing.T) {
	t.Parallel()
	p := pgproxy.Start(t, pgtest.New(t))
	c := connect(t, p.URL())
	resume := p.Stall()
	done := make(chan error, 1)
	go func() {
		_, err := c.Exec(t.Context(), "select 1")
		done <- err
	}()
	timer := time.NewTimer(50 * time.Millisecond)
	defer timer.Stop()
	select {
	case err := <-done:
		t.Errorf("answered while stalled: %v", err)
	case <-timer.C:
	}
	resume()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
