package migrate_test

import (
	"database/sql"
	"errors"
	"path/filepath"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	_ "github.com/jackc/pgx/v5/stdlib"
	_ "modernc.org/sqlite"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/migrate"
	"github.com/mainstay-io/mainstay/internal/testkit/pgtest"
	"github.com/mainstay-io/mainstay/migrations"
)

// shapes list what a schema is made of, one line for each part.
var shapes = map[mainstay.Dialect]string{
	mainstay.Postgres: `select table_name || '.' || column_name || ' ' || data_type || ' ' || coalesce(column_default, '') || is_nullable
from information_schema.columns where table_schema = current_schema()
union all select conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(oid) from pg_constraint
where connamespace = current_schema()::regnamespace
union all select indexdef from pg_indexes where schemaname = current_schema()
union all select proname || ' ' || prosrc from pg_proc where pronamespace = current_schema()::regnamespace order by 1`,
	mainstay.SQLite: `select coalesce(sql, name) from sqlite_schema where name not like 'sqlite_%' order by 1`,
}

func open(t *testing.T, dialect mainstay.Dialect) *sql.DB {
	t.Helper()
	driver, dsn := "pgx", pgtest.New
	if dialect == mainstay.SQLite {
		driver, dsn = "sqlite", func(t testing.TB) string {
			return filepath.Join(t.TempDir(), "test.db") + "?_pragma=busy_timeout(5000)&_txlock=immediate"
		}
	}
	db, err := sql.Open(driver, dsn(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

func shape(t *testing.T, db *sql.DB, dialect mainstay.Dialect) []string {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), shapes[dialect])
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close() // rows.Err tells
	var lines []string
	for rows.Next() {
		var line string
		if err := rows.Scan(&line); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, line)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return lines
}

func TestUp_DownAndUpGivesTheSameSchema(t *testing.T) {
	t.Parallel()
	for _, dialect := range []mainstay.Dialect{mainstay.Postgres, mainstay.SQLite} {
		t.Run(string(dialect), func(t *testing.T) {
			t.Parallel()
			db := open(t, dialect)
			applied, err := migrate.Up(t.Context(), db, dialect, 4)
			if err != nil || len(applied) != int(migrations.Latest(dialect)) {
				t.Fatal(applied, err)
			}
			for _, s := range applied {
				if s.AppliedAt.IsZero() {
					t.Errorf("%s was applied, and has no time", s.Name)
				}
			}
			if again, err := migrate.Up(t.Context(), db, dialect, 4); err != nil || len(again) != 0 {
				t.Fatalf("the second time: applied %v (%v)", again, err)
			}
			first := shape(t, db, dialect)
			if err := migrate.Down(t.Context(), db, dialect); err != nil {
				t.Fatal(err)
			}
			if left := shape(t, db, dialect); len(left) > len(first)/4 {
				t.Fatalf("down has left %d parts: %v", len(left), left)
			}
			if _, err := migrate.Up(t.Context(), db, dialect, 4); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(first, shape(t, db, dialect)); diff != "" {
				t.Fatal(diff)
			}
		})
	}
}

func TestUp_KeepsTheLanesOfAnExistingDatabase(t *testing.T) {
	t.Parallel()
	for _, dialect := range []mainstay.Dialect{mainstay.Postgres, mainstay.SQLite} {
		t.Run(string(dialect), func(t *testing.T) {
			t.Parallel()
			db := open(t, dialect)
			for _, lanes := range []int{4, 8} {
				if _, err := migrate.Up(t.Context(), db, dialect, lanes); err != nil {
					t.Fatal(err)
				}
			}
			var lanes int
			if err := db.QueryRowContext(t.Context(), "select lanes from meta").Scan(&lanes); err != nil || lanes != 4 {
				t.Fatalf("%d lanes (%v), want 4", lanes, err)
			}
			list, err := migrate.List(t.Context(), db, dialect)
			if err != nil {
				t.Fatal(err)
			}
			last := list[len(list)-1]
			if last.Version != migrations.Latest(dialect) || last.AppliedAt.IsZero() {
				t.Fatalf("last is %+v, want %d applied", last, migrations.Latest(dialect))
			}
		})
	}
}

func TestUp_ManyAtOnce(t *testing.T) {
	t.Parallel()
	db := open(t, mainstay.Postgres)
	var wg sync.WaitGroup
	var mu sync.Mutex
	applied := 0
	for range 3 {
		wg.Go(func() {
			got, err := migrate.Up(t.Context(), db, mainstay.Postgres, 4)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			applied += len(got)
		})
	}
	wg.Wait()
	list, err := migrate.List(t.Context(), db, mainstay.Postgres)
	if err != nil || applied != len(list) {
		t.Fatalf("%d applied in all (%v), want %d", applied, err, len(list))
	}
}

// A row that no reader would ever see is refused by the schema itself.
func TestPostgres_RefusesIllegalRows(t *testing.T) {
	t.Parallel()
	db := open(t, mainstay.Postgres)
	if _, err := migrate.Up(t.Context(), db, mainstay.Postgres, 4); err != nil {
		t.Fatal(err)
	}
	const row = `insert into outbox (id, topic, lane, key, type, payload) values (gen_random_uuid(), `
	if _, err := db.ExecContext(t.Context(), row+`'orders', 3, 'k', 't', '')`); err != nil {
		t.Fatal(err)
	}
	for name, statement := range map[string]string{
		"lane beyond the last": row + `'orders', 4, 'k', 't', '')`,
		"topic with a dot":     row + `'a.b', 0, 'k', 't', '')`,
		"no key":               row + `'orders', 0, '', 't', '')`,
		"update of the outbox": `update outbox set key = 'other'`,
		"delete of the outbox": `delete from outbox`,
		"a hole in the log":    `insert into log values ('orders', 0, 1, 3, 1, now(), now(), '{1,2}')`,
		"two metas":            `insert into meta (lanes, identity) values (4, '1/1/1')`,
		"half a chunk":         `update sequencer_state set upper = '5:5:'`,
		"a lease without end":  `insert into lease (name, lane, holder, epoch) values ('c', 0, 'me', 1)`,
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := db.ExecContext(t.Context(), statement); err == nil {
				t.Fatal("it was accepted")
			}
		})
	}
}

func TestUp_RefusesWhatANewerBinaryHasMade(t *testing.T) {
	t.Parallel()
	for _, dialect := range []mainstay.Dialect{mainstay.SQLite, mainstay.Postgres} {
		t.Run(string(dialect), func(t *testing.T) {
			t.Parallel()
			db := open(t, dialect)
			if _, err := migrate.Up(t.Context(), db, dialect, 4); err != nil {
				t.Fatal(err)
			}
			if _, err := db.ExecContext(t.Context(), "insert into goose_db_version (version_id, is_applied) values (9999, true)"); err != nil {
				t.Fatal(err)
			}
			if dialect == mainstay.Postgres {
				// What programs like this one can do with is none of their business.
				if applied, err := migrate.Up(t.Context(), db, dialect, 4); err != nil || len(applied) != 0 {
					t.Errorf("of an expanded schema: %v, error %v", applied, err)
				}
				if _, err := migrate.List(t.Context(), db, dialect); err != nil {
					t.Error(err)
				}
				if _, err := db.ExecContext(t.Context(), "update compatibility set oldest = 9999"); err != nil {
					t.Fatal(err)
				}
			}
			want := &migrate.NewerError{Have: 9999, Want: migrations.Latest(dialect)}
			_, upErr := migrate.Up(t.Context(), db, dialect, 4)
			_, listErr := migrate.List(t.Context(), db, dialect)
			for _, err := range []error{upErr, listErr} {
				var newer *migrate.NewerError
				if !errors.As(err, &newer) || *newer != *want {
					t.Errorf("got %v, want %v", err, want)
				}
			}
		})
	}
}
