package migrate_test

import (
	"database/sql"
	"fmt"
	"io/fs"
	"slices"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"github.com/pressly/goose/v3"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/migrate"
	"github.com/mainstay-io/mainstay/migrations"
)

// names are the files of migrations.
func names(all []migrate.Status) []string {
	var names []string
	for _, s := range all {
		names = append(names, s.Name)
	}
	return names
}

func columns(t *testing.T, db *sql.DB) (found []string) {
	t.Helper()
	for _, name := range []string{"old", "fresh"} {
		var n int
		err := db.QueryRowContext(t.Context(), `select count(*) from information_schema.columns
			where table_schema = current_schema() and table_name = 'thing' and column_name = $1`, name).Scan(&n)
		if err != nil {
			t.Fatal(err)
		}
		if n > 0 {
			found = append(found, name)
		}
	}
	return found
}

// TestUp_ExpandsPastAPendingContraction: the next version's programs need an expansion that comes behind a contraction,
// which waits for the last of this version's. Were it to wait, too, no program could be replaced.
func TestUp_ExpandsPastAPendingContraction(t *testing.T) {
	t.Parallel()
	db := open(t, mainstay.Postgres)
	if _, err := migrate.Up(t.Context(), db, mainstay.Postgres, 4); err != nil {
		t.Fatal(err)
	}
	folder, at := fstest.MapFS{}, migrations.Latest(mainstay.Postgres)
	for _, m := range migrations.All(mainstay.Postgres) {
		text, err := fs.ReadFile(migrations.FS(mainstay.Postgres), m.Name)
		if err != nil {
			t.Fatal(err)
		}
		folder[m.Name] = &fstest.MapFile{Data: text}
	}
	add := func(name, kind, up string) string {
		at++
		file := fmt.Sprintf("%04d_%s.sql", at, name)
		folder[file] = &fstest.MapFile{Data: []byte("-- mainstay: " + kind + "\n-- +goose Up\n" + up + ";\n-- +goose Down\nselect 1;\n")}
		return file
	}
	r := migrate.Runner{DB: db, Dialect: mainstay.Postgres}.With(folder)
	expand := add("thing", "expand", "create table thing (old int)")
	knows := at
	contract := add("less", fmt.Sprintf("contract needs %d", knows), fmt.Sprintf("alter table thing drop column old; update compatibility set oldest = %d", knows))
	later := add("more", "expand", "alter table thing add column fresh int")

	applied, err := r.Up(t.Context(), 4)
	if diff := cmp.Diff([]string{expand, later}, names(applied)); err != nil || diff != "" {
		t.Fatalf("up: %v (-want +got):\n%s", err, diff)
	}
	if diff := cmp.Diff([]string{"old", "fresh"}, columns(t, db)); diff != "" {
		t.Fatal(diff)
	}
	if again, err := r.Up(t.Context(), 4); err != nil || len(again) != 0 {
		t.Fatalf("the second time: applied %v (%v)", again, err)
	}
	applied, err = r.Contract(t.Context())
	if diff := cmp.Diff([]string{contract}, names(applied)); err != nil || diff != "" {
		t.Fatalf("contract: %v (-want +got):\n%s", err, diff)
	}
	if diff := cmp.Diff([]string{"fresh"}, columns(t, db)); diff != "" {
		t.Fatal(diff)
	}
	if again, err := r.Contract(t.Context()); err != nil || len(again) != 0 {
		t.Fatalf("the second time: contracted %v (%v)", again, err)
	}
}

// TestContract_ComesLast: whatever was applied before a contraction of this program's own, the schema is the same.
func TestContract_ComesLast(t *testing.T) {
	t.Parallel()
	inOrder := open(t, mainstay.Postgres)
	if _, err := migrate.Up(t.Context(), inOrder, mainstay.Postgres, 4); err != nil {
		t.Fatal(err)
	}
	all := migrations.All(mainstay.Postgres)
	first := slices.IndexFunc(all, func(m migrations.Migration) bool { return m.Kind == migrations.Contract })
	late := olderSchema(t, all[first].Version-1)
	r := migrate.Runner{DB: late, Dialect: mainstay.Postgres}
	if _, err := r.Up(t.Context(), 4); err != nil {
		t.Fatal(err)
	}
	if list, err := migrate.List(t.Context(), late, mainstay.Postgres); err != nil || !list[first].AppliedAt.IsZero() {
		t.Fatalf("up has contracted: %v (%v)", list[first], err)
	}
	if _, err := r.Contract(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(shape(t, inOrder, mainstay.Postgres), shape(t, late, mainstay.Postgres)); diff != "" {
		t.Fatalf("-in order +contracted last:\n%s", diff)
	}
}

// TestUp_RebuildsOrdersOfSQLite: its old rows are all there, and those that ended have ended when they were last
// changed.
func TestUp_RebuildsOrdersOfSQLite(t *testing.T) {
	t.Parallel()
	db := open(t, mainstay.SQLite)
	old, err := goose.NewProvider(goose.DialectSQLite3, db, migrations.FS(mainstay.SQLite), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := old.UpTo(t.Context(), 9); err != nil {
		t.Fatal(err)
	}
	const rows = `with recursive n(i) as (select 1 union all select i + 1 from n where i < 1000)
insert into orders (id, principal, customer_id, status, reason_code, reason_detail, currency, total, country, lines, created_at, updated_at)
select 'o' || i, 'p' || (i % 3), 'c' || i, case i % 4 when 0 then 'pending' when 1 then 'confirmed' when 2 then 'cancelled' else 'needs_operator' end,
	case i % 4 when 2 then 'out_of_stock' else '' end, 'why ' || i, 'EUR', i, 'FR', '[{"n":' || i || '}]', i, 2 * i from n`
	if _, err := db.ExecContext(t.Context(), rows); err != nil {
		t.Fatal(err)
	}
	const content = `select group_concat(id || '|' || principal || '|' || customer_id || '|' || status || '|' || reason_code || '|' || reason_detail || '|' ||
	currency || '|' || total || '|' || country || '|' || lines || '|' || created_at || '|' || updated_at, char(10)) from (select * from orders order by id)`
	read := func(query string) (text string) {
		t.Helper()
		if err := db.QueryRowContext(t.Context(), query).Scan(&text); err != nil {
			t.Fatal(err)
		}
		return text
	}
	before := read(content)
	if _, err := migrate.Up(t.Context(), db, mainstay.SQLite, 4); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, read(content)); diff != "" {
		t.Errorf("the rows have changed (-before +after):\n%s", diff)
	}
	ended := read(`select count(*) || ' ended, ' || sum(ended_at = updated_at) || ' when they were changed, ' ||
		sum(status in ('pending', 'needs_operator')) || ' of which go on' from orders where ended_at is not null`)
	if want := "500 ended, 500 when they were changed, 0 of which go on"; ended != want {
		t.Errorf("%s; want %s", ended, want)
	}
	if _, err := db.ExecContext(t.Context(), `update orders set status = 'pending' where id = 'o1'`); err == nil {
		t.Error("an order that goes on may have ended")
	}
}
