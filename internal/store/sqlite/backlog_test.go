package sqlite

import (
	"database/sql"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/clock"
	"github.com/mainstay-io/mainstay/internal/migrate"
	"github.com/mainstay-io/mainstay/internal/store/storetest"
)

// backlogStore opens a fresh database.
func backlogStore(t *testing.T) *Store {
	t.Helper()
	path := filepath.Join(t.TempDir(), "mainstay.db")
	db, err := sql.Open("sqlite", DSN(path, "OFF", false))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := migrate.Up(t.Context(), db, mainstay.SQLite, 4); err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), Config{Path: path, Sync: "OFF", Clock: clock.System})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestStore_TellsItsBacklog(t *testing.T) {
	t.Parallel()
	storetest.Backlog(t, func(t *testing.T) (storetest.BacklogStore, func()) { return backlogStore(t), func() {} })
}

// Scraping must stay cheap however much was handled before: nothing that grows is scanned.
func TestBacklog_ScansNothingThatGrows(t *testing.T) {
	t.Parallel()
	s := backlogStore(t)
	small := []string{"SCAN p", "SCAN c"} // place, consumer
	for name, query := range map[string]string{
		"unhandled": backlogUnhandled, "parked": backlogParked, "dead": backlogDead, "sagas": backlogSagas,
	} {
		var plan []string
		err := each(t.Context(), s.reads, func(rows *sql.Rows) error {
			var id, parent, unused int
			var detail string
			defer func() { plan = append(plan, detail) }()
			return rows.Scan(&id, &parent, &unused, &detail)
		}, "explain query plan "+query)
		if err != nil {
			t.Fatal(err)
		}
		for _, step := range plan {
			if strings.HasPrefix(step, "SCAN ") && !strings.Contains(step, " USING INDEX ") && !slices.Contains(small, step) {
				t.Errorf("%s: %s in the plan:\n%s", name, step, strings.Join(plan, "\n"))
			}
		}
		t.Log(name, strings.Join(plan, "; "))
	}
}
