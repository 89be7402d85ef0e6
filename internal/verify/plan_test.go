package verify

import (
	"database/sql"
	"path/filepath"
	"strings"
	"testing"

	_ "modernc.org/sqlite" // the driver

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/clock"
	"github.com/mainstay-io/mainstay/internal/migrate"
	"github.com/mainstay-io/mainstay/internal/payment/sandbox"
)

// A join that scans its right side for every row of the left takes days on ten million orders.
func TestRules_AreNotQuadraticOnSQLite(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name string) *sql.DB {
		db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = db.Close() })
		return db
	}
	db := file("mainstay.db")
	if _, err := migrate.Up(t.Context(), db, mainstay.SQLite, 2); err != nil {
		t.Fatal(err)
	}
	gateway, err := sandbox.Open(t.Context(), file("gateway.db"), mainstay.SQLite, sandbox.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = gateway.Close() })
	s, err := open(t.Context(), Options{DB: db, Dialect: mainstay.SQLite, GatewayFile: filepath.Join(dir, "gateway.db"), Journal: strings.NewReader(""), Clock: clock.System})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range append(checks(), journal(true)) {
		for _, rule := range c.rules {
			plan := s.plan(t, rule)
			if len(plan) == 0 {
				t.Errorf("rule %s has no plan", tag(rule))
			}
			for _, step := range plan {
				if strings.HasPrefix(step, "SCAN") && strings.HasSuffix(step, "JOIN") {
					t.Errorf("rule %s: %s", tag(rule), step)
				}
			}
		}
	}
	if err := s.close(t.Context()); err != nil {
		t.Error(err)
	}
}

func (s *session) plan(t *testing.T, query string) []string {
	t.Helper()
	rows, err := s.conn.QueryContext(t.Context(), "explain query plan "+s.sql(query))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	var steps []string
	for rows.Next() {
		var id, parent, unused int
		var step string
		if err := rows.Scan(&id, &parent, &unused, &step); err != nil {
			t.Fatal(err)
		}
		steps = append(steps, step)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return steps
}
