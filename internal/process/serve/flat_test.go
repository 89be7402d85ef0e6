package serve

import (
	"database/sql"
	"testing"
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/clock"
	"github.com/mainstay-io/mainstay/internal/migrate"
	"github.com/mainstay-io/mainstay/internal/order"
	"github.com/mainstay-io/mainstay/internal/testkit/fill"
	"github.com/mainstay-io/mainstay/internal/testkit/pgtest"
)

// An order looks at as many pages of the database behind 4,000 others as behind none, statement by statement: but for
// a level or two of its indexes. What scans anything that grows looks at hundreds or thousands more. Pages are counted,
// not time.
func TestOrder_LooksAtNoMorePagesBehindThousands(t *testing.T) {
	t.Parallel()
	const orders = 60
	server := pgtest.NewServer(t, "shared_preload_libraries = 'pg_stat_statements'", "fsync = off", "autovacuum = off")
	url := server.NewDatabase()
	set := func(c *app.Config) { c.Database, c.Broker, c.AllowUnsafe = url, "database", true }
	cfg := app.Config{}
	set(&cfg)
	if _, err := MigrateUp(t.Context(), cfg, migrate.Runner{}); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("pgx", url)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	execute(t, db, "create extension pg_stat_statements")
	counts := map[string]map[string]float64{}
	var templates []string
	for _, size := range []string{"none", "thousands"} {
		t.Run(size, func(t *testing.T) { // it ends with the server, and with verify
			r := run(t, set, hooks{})
			templates = r.confirm(t, 20)
			execute(t, db, "select pg_stat_statements_reset()")
			r.confirm(t, orders)
			counts[size] = pagesOf(t, db, orders)
		})
		if size == "none" {
			c := fill.Config{
				DB: db, Dialect: mainstay.Postgres, Templates: templates, Orders: 4_000, Every: time.Millisecond,
				From: clock.System().UTC().Truncate(24 * time.Hour).Add(-time.Hour),
			}
			if err := fill.Orders(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			execute(t, db, "vacuum analyze")
		}
	}
	var all [2]float64
	for tag, after := range counts["thousands"] {
		before := counts["none"][tag]
		all[0], all[1] = all[0]+before, all[1]+after
		if after > 3*before+15 {
			t.Errorf("%s looks at %.1f pages for an order, and at %.1f behind 4,000", tag, before, after)
		}
	}
	t.Logf("%.0f pages for an order, %.0f behind 4,000", all[0], all[1])
	if all[0] < 100 || all[1] > 1.5*all[0] {
		t.Errorf("an order looks at %.0f pages, and at %.0f behind 4,000", all[0], all[1])
	}
}

func execute(t testing.TB, db *sql.DB, statement string) {
	t.Helper()
	if _, err := db.ExecContext(t.Context(), statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

// confirm takes orders to their end.
func (r *running) confirm(t testing.TB, n int) (ids []string) {
	t.Helper()
	var all []*order.Order
	for range n {
		o := placed(t, "tok_ok", "mug-red")
		all, ids = append(all, o), append(ids, o.ID)
	}
	r.accept(t, all...)
	for _, id := range ids {
		r.wantEnd(t, id, "confirmed")
	}
	r.catchUp(t)
	return ids
}

// pagesOf answers with how many pages each statement has looked at for each of so many orders.
func pagesOf(t testing.TB, db *sql.DB, orders int) map[string]float64 {
	t.Helper()
	const query = `select substring(query from '^/\* ([a-z_.]+) \*/'), sum(shared_blks_hit + shared_blks_read)::float8 from pg_stat_statements
where query ~ '^/\* [a-z_.]+ \*/' and query !~ '^/\* (verify|test|backlog)' group by 1`
	rows, err := db.QueryContext(t.Context(), query)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	pages := map[string]float64{}
	for rows.Next() {
		var tag string
		var n float64
		if err := rows.Scan(&tag, &n); err != nil {
			t.Fatal(err)
		}
		pages[tag] = n / float64(orders)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return pages
}
