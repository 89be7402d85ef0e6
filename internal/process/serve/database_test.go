package serve

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pressly/goose/v3"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/store/sqlite"
	"github.com/mainstay-io/mainstay/migrations"
)

// TestMigrateSQLite_BringsAnOlderFileUpToDate: whoever starts a newer program on a directory need not know that the
// schema has changed.
func TestMigrateSQLite_BringsAnOlderFileUpToDate(t *testing.T) {
	t.Parallel()
	path, latest := filepath.Join(t.TempDir(), "mainstay.db"), migrations.Latest(mainstay.SQLite)
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

// TestOpenDatabase_SaysThatItIsUnsafe looks at the setting where it has its effect, in the writer's session.
func TestOpenDatabase_SaysThatItIsUnsafe(t *testing.T) {
	t.Parallel()
	for query, want := range map[string]string{"": "", "?synchronous=normal": "synchronous=normal: a crash may take back"} {
		cfg := app.Config{Database: "sqlite:" + filepath.Join(t.TempDir(), "x.db") + query, AllowUnsafe: true}
		db, err := openDatabase(t.Context(), cfg, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(db.Place, want) || (want == "") != !strings.Contains(db.Place, "synchronous") {
			t.Errorf("%q: it says %q", query, db.Place)
		}
		var level int // 1 is NORMAL, 2 is FULL
		err = db.Run(t.Context(), func(ctx context.Context, tx mainstay.Tx) error {
			rows, err := tx.QueryContext(ctx, `pragma synchronous`)
			if err != nil {
				return err
			}
			defer rows.Close() // there is one row
			rows.Next()
			return errors.Join(rows.Scan(&level), rows.Err())
		})
		if err := errors.Join(err, db.Close(), db.Gateway.Close()); err != nil || (level == 1) != (want != "") {
			t.Errorf("%q: synchronous is %d, error %v", query, level, err)
		}
	}
}
