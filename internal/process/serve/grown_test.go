package serve

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/bench"
	"github.com/mainstay-io/mainstay/internal/clock"
	"github.com/mainstay-io/mainstay/internal/migrate"
	"github.com/mainstay-io/mainstay/internal/store/sqlite"
	"github.com/mainstay-io/mainstay/internal/testkit/fill"
	"github.com/mainstay-io/mainstay/internal/testkit/pgtest"
)

// Settings of BenchmarkGrown. Without them it makes 100,000 orders on a server of its own.
const (
	// grownDatabase is a PostgreSQL database with pg_stat_statements, made and filled as far as it is not yet, or
	// sqlite:DIRECTORY. It is kept.
	grownDatabase = "MAINSTAY_GROWN_DATABASE"
	// grownSizes are how many orders there are, one measurement each: "0 1000000 10000000".
	grownSizes = "MAINSTAY_GROWN_SIZES"
	// grownRecent is how many of them, at most, still have their messages, sagas, outcomes and idempotency records: one
	// in 14 of all by default, so that the outbox has as many rows as there are orders.
	grownRecent = "MAINSTAY_GROWN_RECENT"
)

// grown is a database that is filled, and measured in between.
type grown struct {
	cfg app.Config
	db  *sql.DB // beside the server
}

// BenchmarkGrown measures orders, in all their parts, in a database with more and more orders that have ended.
func BenchmarkGrown(b *testing.B) {
	g := newGrown(b)
	for size := range strings.FieldsSeq(cmp.Or(os.Getenv(grownSizes), "0 100000")) {
		n, err := strconv.Atoi(size)
		if err != nil {
			b.Fatal(err)
		}
		recent, err := strconv.Atoi(cmp.Or(os.Getenv(grownRecent), strconv.Itoa(n/14)))
		if err != nil {
			b.Fatal(err)
		}
		g.fill(b, n, recent)
		b.Run(size, func(b *testing.B) {
			base := startServe(b, g.cfg)
			clients(b, base, 16, 300)
			b.Run("closed", func(b *testing.B) { g.measure(b, base) })
			b.Run("held", func(b *testing.B) {
				defer g.hold(b)()
				g.measure(b, base)
			})
			b.Run("paced", func(b *testing.B) { paced(b, base, 50) })
		})
	}
}

func newGrown(b *testing.B) *grown {
	b.Helper()
	cfg, err := app.LoadConfig(app.Env{Getenv: func(string) string { return "" }}, nil)
	if err != nil {
		b.Fatal(err)
	}
	cfg.Data, cfg.NATSSync, cfg.HTTP, cfg.Ops = b.TempDir(), "lazy", "127.0.0.1:0", "127.0.0.1:0"
	cfg.Database = os.Getenv(grownDatabase)
	g := &grown{cfg: cfg}
	if dir, found := strings.CutPrefix(cfg.Database, "sqlite:"); found {
		g.cfg.Data, g.cfg.Database = dir, ""
		if _, err := MigrateUp(b.Context(), g.cfg, migrate.Runner{}); err != nil {
			b.Fatal(err)
		}
		g.open(b, "sqlite", sqlite.DSN(filepath.Join(dir, "mainstay.db"), "FULL", false))
		return g
	}
	if cfg.Database == "" {
		g.cfg.Database = pgtest.NewServer(b, "shared_preload_libraries = 'pg_stat_statements'", "shared_buffers = '1GB'", "max_wal_size = '8GB'").NewDatabase()
	}
	if _, err := MigrateUp(b.Context(), g.cfg, migrate.Runner{}); err != nil {
		b.Fatal(err)
	}
	g.open(b, "pgx", g.cfg.Database)
	g.exec(b, "create extension if not exists pg_stat_statements")
	return g
}

func (g *grown) open(b *testing.B, driver, dsn string) {
	db, err := sql.Open(driver, dsn)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = db.Close() })
	g.db = db
}

func (g *grown) exec(b *testing.B, query string) {
	b.Helper()
	if _, err := g.db.ExecContext(b.Context(), query); err != nil {
		b.Fatalf("%s: %v", query, err)
	}
}

func (g *grown) count(b *testing.B, query string) (n int) {
	b.Helper()
	if err := g.db.QueryRowContext(b.Context(), query).Scan(&n); err != nil {
		b.Fatalf("%s: %v", query, err)
	}
	return n
}

// fill makes orders until there are so many, the given number of them with all their rows.
func (g *grown) fill(b *testing.B, size, recent int) {
	b.Helper()
	have, haveRecent := g.count(b, "select count(*) from orders"), g.count(b, "select count(*) from saga")
	if have >= size*99/100 {
		if have > 0 {
			g.publishEnds(b)
		}
		return
	}
	if have == 0 {
		b.Fatal("begin with 0 orders: the others are copies of those that are placed then")
	}
	c := fill.Config{DB: g.db, Dialect: mainstay.Postgres, Templates: g.templates(b), Every: time.Millisecond}
	if g.cfg.Database == "" {
		c.Dialect, c.GatewayFile = mainstay.SQLite, filepath.Join(g.cfg.Data, gatewayFile)
	}
	began := clock.Start()
	c.Progress = func(n int) {
		if n%100_000 == 0 {
			fmt.Fprintf(os.Stderr, "%d of %d, %.0f s\n", n, c.Orders, began.Elapsed().Seconds())
		}
	}
	today := clock.System().UTC().Truncate(24 * time.Hour)
	// Where the last fill ended, so that no two orders are of one millisecond.
	c.Orders, c.Cleaned, c.From = size-have-(recent-haveRecent), true, today.AddDate(0, 0, -40).Add(time.Duration(have)*c.Every)
	if err := fill.Orders(b.Context(), c); err != nil {
		b.Fatal(err)
	}
	c.Orders, c.Cleaned, c.From = recent-haveRecent, false, g.day(b, today.AddDate(0, 0, -3)).Add(time.Duration(have)*c.Every)
	if err := fill.Orders(b.Context(), c); err != nil {
		b.Fatal(err)
	}
	g.exec(b, map[bool]string{true: "analyze", false: "vacuum analyze"}[g.cfg.Database == ""])
	g.publishEnds(b)
}

// day makes sure that the outbox has room for messages of a day, which may be past, and gives it back.
func (g *grown) day(b *testing.B, day time.Time) time.Time {
	b.Helper()
	if g.cfg.Database != "" {
		g.exec(b, fmt.Sprintf("create table if not exists outbox_%s partition of outbox for values from ('%s') to ('%s')",
			day.Format("20060102"), day.Format(time.RFC3339), day.AddDate(0, 0, 1).Format(time.RFC3339)))
	}
	return day
}

// templates are orders that still have all their rows, the latest ones.
func (g *grown) templates(b *testing.B) []string {
	b.Helper()
	rows, err := g.db.QueryContext(b.Context(), `select o.id from orders o join saga s on s.id = cast(o.id as text)
where o.status = 'confirmed' order by o.id desc limit 20`)
	if err != nil {
		b.Fatal(err)
	}
	defer rows.Close()
	var ids []string
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			b.Fatal(err)
		}
		ids = append(ids, id)
	}
	if err := rows.Err(); err != nil {
		b.Fatal(err)
	}
	return ids
}

// publishEnds gives a new broker the last message of each log, as if it had let go of all that came before.
func (g *grown) publishEnds(b *testing.B) {
	b.Helper()
	g.cfg.Data = cmp.Or(map[bool]string{true: g.cfg.Data}[g.cfg.Database == ""], b.TempDir())
	if err := os.RemoveAll(filepath.Join(g.cfg.Data, brokerDir)); err != nil {
		b.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	cfg := g.cfg
	cfg.AllowUnsafe = true // while it is filled
	db, err := openDatabase(b.Context(), cfg, log)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = closeDatabase(db) }()
	c, err := openEmbedded(b.Context(), g.cfg, db, log)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = c.Close(context.WithoutCancel(b.Context())) }()
	heads, err := db.Heads(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	for log := range heads {
		heads[log]--
	}
	last, err := db.ReadLog(b.Context(), heads, 2*len(heads))
	if err != nil || len(last) != len(heads) {
		b.Fatalf("%d ends of %d logs: %v", len(last), len(heads), err)
	}
	at, err := c.Publisher.Publish(b.Context(), last, nil)
	if err != nil {
		b.Fatal(err)
	}
	for log, position := range at {
		const recorded = "update relay_progress set broker_position = $3 where topic = $1 and lane = $2"
		if _, err := g.db.ExecContext(b.Context(), recorded, log.Topic, log.Lane, position); err != nil {
			b.Fatal(err)
		}
	}
}

// hold begins a transaction that has written to the outbox, and gives what ends it.
func (g *grown) hold(b *testing.B) func() {
	b.Helper()
	if g.cfg.Database == "" {
		b.Skip("SQLite has one writer")
	}
	tx, err := g.db.BeginTx(b.Context(), nil)
	if err == nil {
		_, err = tx.ExecContext(b.Context(), "insert into outbox (id, topic, lane, key, type, payload) values (gen_random_uuid(), 'held', 0, 'k', 'test.held', '{}')")
	}
	if err != nil {
		b.Fatal(err)
	}
	return func() { _ = tx.Rollback() }
}

// measure runs orders of 64 clients that wait, and reports what one has cost.
func (g *grown) measure(b *testing.B, base string) {
	meter := &bench.Meter{Sources: []bench.Source{bench.ThisProcess("ours")}}
	if g.cfg.Database != "" {
		pid := g.count(b, "select pg_backend_pid()")
		meter.Sources = append(meter.Sources, bench.Family("postgres", "postgres", pid))
		g.exec(b, "select pg_stat_statements_reset()")
	}
	before := meter.Read(b.Context())
	closed(b, base)
	for _, u := range meter.Read(b.Context()).Since(before) {
		b.ReportMetric(u.CPUSeconds*1e6/float64(b.N), u.Name+"-us/order")
	}
	if g.cfg.Database != "" {
		g.reportStatements(b)
	}
}

// cost is what a statement, or many, took.
type cost struct {
	calls, buffers, read, micros float64
}

func (c *cost) add(o cost) {
	c.calls, c.buffers, c.read, c.micros = c.calls+o.calls, c.buffers+o.buffers, c.read+o.read, c.micros+o.micros
}

// reportStatements reports what the server did for an order, and logs it by statement.
func (g *grown) reportStatements(b *testing.B) {
	const query = `select coalesce(substring(query from '/\* ([a-z_.]+) \*/'), left(query, 30)), sum(calls), sum(shared_blks_hit + shared_blks_read),
    sum(shared_blks_read), sum(total_exec_time + total_plan_time) * 1000
from pg_stat_statements where dbid = (select oid from pg_database where datname = current_database()) group by 1`
	rows, err := g.db.QueryContext(b.Context(), query)
	if err != nil {
		b.Fatal(err)
	}
	defer rows.Close()
	costs, all := map[string]cost{}, cost{}
	for rows.Next() {
		var tag string
		var c cost
		if err := rows.Scan(&tag, &c.calls, &c.buffers, &c.read, &c.micros); err != nil {
			b.Fatal(err)
		}
		all.add(c)
		costs[tag] = c
	}
	if err := rows.Err(); err != nil {
		b.Fatal(err)
	}
	n := float64(b.N)
	b.ReportMetric(all.calls/n, "statements/order")
	b.ReportMetric(all.buffers/n, "buffers/order")
	b.ReportMetric(all.micros/n, "sql-us/order")
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "statement\tcalls/order\tbuffers/order\tread/order\tbuffers/call\tµs/order\tµs/call\t")
	byBuffers := slices.SortedFunc(maps.Keys(costs), func(x, y string) int { return cmp.Compare(costs[y].buffers, costs[x].buffers) })
	for _, tag := range byBuffers {
		c := costs[tag]
		fmt.Fprintf(w, "%s\t%.3f\t%.2f\t%.2f\t%.1f\t%.1f\t%.1f\t\n", tag, c.calls/n, c.buffers/n, c.read/n, c.buffers/c.calls, c.micros/n, c.micros/c.calls)
	}
	_ = w.Flush()
	if b.N > 1 {
		fmt.Fprintf(os.Stderr, "\n%s: %d orders\n%s", b.Name(), b.N, &text) // a benchmark's log is cut
	}
}
