package verify_test

import (
	"database/sql"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/clock"
	"github.com/mainstay-io/mainstay/internal/store/sqlite"
	"github.com/mainstay-io/mainstay/internal/testkit/fill"
	"github.com/mainstay-io/mainstay/internal/verify"
)

// What fill makes of a few orders is what the system itself would have made: the checks find nothing, no table is left
// out, and orders go on behind it.
func TestFill_MakesOrdersThatVerifyAccepts(t *testing.T) {
	t.Parallel()
	for _, dialect := range []mainstay.Dialect{mainstay.SQLite, mainstay.Postgres} {
		t.Run(string(dialect), func(t *testing.T) {
			t.Parallel()
			const recent, old = 40, 60
			var before map[string]int
			w := newWorld(t, dialect, func(t *testing.T, b *backbone) {
				before = rowsOf(t, b)
				today := clock.System().UTC().Truncate(24 * time.Hour)
				db := b.writes(t)
				defer db.Close()
				voidFirst(t, b)
				c := fill.Config{
					DB: db, Dialect: dialect, GatewayFile: filepath.Join(b.place, "gateway.db"), Orders: recent,
					From: today.Add(-time.Hour), Templates: ended(t, b),
				}
				must(t, fill.Orders(t.Context(), c))
				c.Orders, c.From, c.Cleaned = old, today.AddDate(0, -1, 0), true
				must(t, fill.Orders(t.Context(), c))
				for table, n := range rowsOf(t, b) {
					if small := strings.Fields(smallTables); n-before[table] < recent && !slices.Contains(small, table) {
						t.Errorf("%s had %d rows and has %d", table, before[table], n)
					}
				}
			})
			p := w.copy(t)
			o := p.options()
			o.Retention = 24 * time.Hour
			report, err := verify.Run(t.Context(), o)
			must(t, err)
			for _, c := range report.Checks {
				for _, v := range c.Violations {
					t.Errorf("%s: %s: %s (%s)", c.Name, v.ID, v.Detail, v.Rule)
				}
			}
			if want := int64(recent + old + len(kinds) + 1); report.Counts.Accepted != want {
				t.Errorf("%d orders, want %d", report.Counts.Accepted, want)
			}
		})
	}
}

// voidFirst gives the order whose authorisation was declined the empty hash of one whose void came first: which of the
// others did is a matter of time.
func voidFirst(t *testing.T, b *backbone) {
	t.Helper()
	result, err := b.gatewayDB.ExecContext(t.Context(), map[mainstay.Dialect]string{
		mainstay.SQLite:   "update authorisation set hash = x'' where status = 'declined'",
		mainstay.Postgres: `update sandbox.authorisation set hash = '\x' where status = 'declined'`,
	}[b.Dialect()])
	must(t, err)
	if n, err := result.RowsAffected(); n != 1 || err != nil {
		t.Fatalf("%d authorisations were declined, want 1 (%v)", n, err)
	}
}

// smallTables do not grow with the number of orders that have ended.
const smallTables = `meta goose_db_version sqlite_sequence lease consumer place parked dead_letter crash stock carrier log_head
	log_floor cleaned outbox_sealed incarnation refill relay_progress sequencer_state seam compatibility backfill attempt`

// writes is a connection past the store.
func (b *backbone) writes(t *testing.T) *sql.DB {
	t.Helper()
	if b.Dialect() == mainstay.Postgres {
		return connect(t, "pgx", b.place)
	}
	return connect(t, "sqlite", sqlite.DSN(filepath.Join(b.place, "mainstay.db"), "FULL", false))
}

// ended are the orders that have come to an end by themselves.
func ended(t *testing.T, b *backbone) []string {
	t.Helper()
	rows, err := b.reads.QueryContext(t.Context(), `select id from orders where status in ('confirmed', 'cancelled') order by id`)
	must(t, err)
	defer rows.Close()
	var ids []string
	for rows.Next() {
		var id string
		must(t, rows.Scan(&id))
		ids = append(ids, id)
	}
	must(t, rows.Err())
	return ids
}

func rowsOf(t *testing.T, b *backbone) map[string]int {
	t.Helper()
	list := `select n.nspname, c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'p') and not c.relispartition and n.nspname in (current_schema(), 'sandbox')`
	dbs := map[string]*sql.DB{"": b.reads}
	if b.Dialect() == mainstay.SQLite {
		list = `select 'main', name from sqlite_schema where type = 'table'`
		dbs["gateway"] = b.gatewayDB
	}
	counts := map[string]int{}
	for _, db := range dbs {
		rows, err := db.QueryContext(t.Context(), list)
		must(t, err)
		var names [][2]string
		for rows.Next() {
			var schema, name string
			must(t, rows.Scan(&schema, &name))
			names = append(names, [2]string{schema, name})
		}
		must(t, rows.Err(), rows.Close())
		for _, n := range names {
			var count int
			must(t, db.QueryRowContext(t.Context(), fmt.Sprintf("select count(*) from %s.%s", n[0], n[1])).Scan(&count))
			counts[n[1]] = count
		}
	}
	return counts
}
