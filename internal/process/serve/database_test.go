package serve

import (
	"database/sql"
	"path/filepath"
	"testing"

	"github.com/pressly/goose/v3"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/store/sqlite"
	"github.com/mainstay-io/mainstay/migrations"
)

// TestMigrateSQLite_BringsAnOlderFileUpToDate: whoever starts a newer program on a directory need not know that the
// schema has changed.
func TestMigrateSQLite_BringsAnOlderFileUpToDate(t *testing.T) {
	t.Parallel()
	path, latest := filepath.Join(t.TempDir(), databaseFile), migrations.Latest(mainstay.SQLite)
	db, err := sql.Open("sqlite", sqlite.DSN(path, "OFF", false))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close() // a test's connection
	older, err := goose.NewProvider(goose.DialectSQLite3, db, migrations.FS(mainstay.SQLite), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := older.UpTo(t.Context(), latest-1); err != nil {
		t.Fatal(err)
	}
	if err := migrateSQLite(t.Context(), path, 0); err != nil {
		t.Fatal(err)
	}
	if have, err := older.GetDBVersion(t.Context()); err != nil || have != latest {
		t.Fatalf("the schema has version %d, want %d: %v", have, latest, err)
	}
}
