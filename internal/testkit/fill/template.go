package fill

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"
)

// column is one of a copied table.
type column struct {
	name, kind string // the type as the catalog has it
	generated  bool   // by the database, at the insert
}

// when tells whether a column is an instant.
func (c column) when() bool { return c.name == "at" || strings.HasSuffix(c.name, "_at") }

const (
	columnsPostgres = `/* fill.columns */
select column_name, udt_name, is_identity = 'YES' or column_name = 'position' or udt_name = 'xid8' from information_schema.columns
where table_name = $1 and table_schema = coalesce(nullif($2, ''), current_schema()) order by ordinal_position`
	columnsSQLite = `/* fill.columns */
select name, lower(type), pk = 1 and lower(type) = 'integer' from pragma_table_info($1, coalesce(nullif($2, ''), 'main')) order by cid`
)

func (f *filler) columns(ctx context.Context, table string) ([]column, error) {
	schema, name, found := strings.Cut(table, ".")
	if !found {
		schema, name = "", table
	}
	rows, err := f.conn.QueryContext(ctx, f.say(columnsPostgres, columnsSQLite), name, schema)
	if err != nil {
		return nil, err
	}
	defer rows.Close() // rows.Err tells
	var cs []column
	for rows.Next() {
		var c column
		if err := rows.Scan(&c.name, &c.kind, &c.generated); err != nil {
			return nil, err
		}
		cs = append(cs, c)
	}
	if len(cs) == 0 && rows.Err() == nil {
		return nil, fmt.Errorf("there is no table %s", table)
	}
	return cs, rows.Err()
}

// template names the temporary table with the rows that a table's are copied from.
func template(table string) string { return "fill_" + strings.ReplaceAll(table, ".", "_") }

// prepare reads the templates' rows into temporary tables, with a mark for what differs between two copies.
func (f *filler) prepare(ctx context.Context) error {
	if err := f.conn.QueryRowContext(ctx, "select lanes from meta").Scan(&f.lanes); err != nil {
		return err
	}
	if f.sqlite() {
		if err := f.exec(ctx, "attach $1 as sandbox", f.GatewayFile); err != nil {
			return err
		}
	}
	const instances = `create temporary table fill_order (n bigint, template int, prefix text, lane int, at bigint, hash text)`
	if err := f.exec(ctx, instances); err != nil {
		return err
	}
	for _, t := range f.tables() {
		if f.Cleaned && t.history {
			continue
		}
		cs, err := f.columns(ctx, t.name)
		if err != nil {
			return err
		}
		if err := f.prepareTable(ctx, t, cs); err != nil {
			return fmt.Errorf("%s: %w", t.name, err)
		}
		f.copies = append(f.copies, statement{t.name, f.insert(t.name, cs)})
	}
	return nil
}

func (f *filler) prepareTable(ctx context.Context, t copied, cs []column) error {
	names := make([]string, len(cs))
	for i, c := range cs {
		names[i] = c.name
	}
	create := "create temporary table %s (template int, i int, %s text)"
	if f.sqlite() {
		create = "create temporary table %s (template, i, %s)"
	}
	if err := f.exec(ctx, fmt.Sprintf(create, template(t.name), strings.Join(names, f.say(" text, ", ", ")))); err != nil {
		return err
	}
	for i, id := range f.Templates {
		if err := f.readTemplate(ctx, t, cs, i, id); err != nil {
			return err
		}
	}
	return nil
}

// readTemplate reads the rows of one order, in the order in which they were written as far as that can be told.
func (f *filler) readTemplate(ctx context.Context, t copied, cs []column, nth int, id string) error {
	selected, places := make([]string, len(cs)), make([]string, len(cs))
	order := "1"
	for i, c := range cs {
		selected[i], places[i] = f.read(c), fmt.Sprintf("$%d", i+3)
		if c.generated {
			order = c.name
		}
	}
	query := fmt.Sprintf("select %s from %s where %s order by %s", strings.Join(selected, ", "), t.name, t.of, order)
	rows, err := f.conn.QueryContext(ctx, query, id)
	if err != nil {
		return err
	}
	defer rows.Close() // rows.Err tells
	var all [][]any
	for rows.Next() {
		values, into := make([]any, len(cs)), make([]any, len(cs))
		for i := range values {
			into[i] = &values[i]
		}
		if err := rows.Scan(into...); err != nil {
			return err
		}
		for i := range values {
			values[i] = f.marked(values[i])
		}
		all = append(all, values)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	insert := fmt.Sprintf("insert into %s values ($1, $2, %s)", template(t.name), strings.Join(places, ", "))
	for i, values := range all {
		if err := f.exec(ctx, insert, append([]any{nth, i}, values...)...); err != nil {
			return err
		}
	}
	return nil
}

// read is the expression for a column of a template: times are microseconds since the order was placed.
func (f *filler) read(c column) string {
	placedAt := "select created_at from orders where " + f.isOrder("id")
	switch {
	case c.when() && f.sqlite():
		return fmt.Sprintf("%s - (%s)", c.name, placedAt)
	case c.when():
		return fmt.Sprintf("(extract(epoch from %s - (%s)) * 1000000)::bigint::text", c.name, placedAt)
	case c.kind == "bytea", f.sqlite():
		return c.name
	default:
		return c.name + "::text"
	}
}

// uuid7 is a message's or an order's id; it begins with the time at which it was made.
var uuid7 = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}(-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12})`) //nolint:gochecknoglobals // compiled once

// marked replaces the time in all ids. Bytes that are text become text, none among them: SQLite's driver would write
// NULL for an empty slice.
func (f *filler) marked(v any) any {
	switch v := v.(type) {
	case string:
		return uuid7.ReplaceAllString(v, mark+"$1")
	case []byte:
		if utf8.Valid(v) && !bytes.Contains(v, []byte{0}) {
			return uuid7.ReplaceAllString(string(v), mark+"$1")
		}
		if f.sqlite() {
			return v
		}
		return `\x` + hex.EncodeToString(v)
	case time.Time:
		return v.UnixMicro()
	default:
		return v
	}
}

// insert is the statement that copies a table's rows.
func (f *filler) insert(table string, cs []column) string {
	var names, values []string
	for _, c := range cs {
		if !c.generated {
			names, values = append(names, c.name), append(values, f.value(table, c))
		}
	}
	return fmt.Sprintf("/* fill.%s */\ninsert into %s (%s)\nselect %s\nfrom fill_order f join %s r on r.template = f.template order by f.n, r.i",
		table, table, strings.Join(names, ", "), strings.Join(values, ",\n    "), template(table))
}

// value is the expression for a column of a copy.
func (f *filler) value(table string, c column) string {
	own := fmt.Sprintf("replace(r.%s, '%s', f.prefix)", c.name, mark)
	switch {
	case c.name == "lane":
		return "f.lane"
	case table == "idempotency" && c.name == "key":
		return "f.hash"
	case c.name == "tracking": // the country's code, the time in the order's id, and a hash
		return "substr(r.tracking, 1, 2) || upper(replace(f.prefix, '-', '')) || substr(f.hash, 1, 12)"
	case table == "outbox" && c.name == "sequence": // on SQLite, at append
		return `coalesce((select last_sequence from log_head h where h.topic = r.topic and h.lane = f.lane), 0)
        + row_number() over (partition by r.topic, f.lane order by f.n, r.i)`
	}
	if f.sqlite() {
		return sqliteValue(c, own)
	}
	switch {
	case c.when():
		return fmt.Sprintf("timestamptz 'epoch' + (f.at + r.%s::bigint) * interval '1 microsecond'", c.name)
	case c.kind == "bytea":
		return fmt.Sprintf(`case when left(r.%s, 2) = '\x' then decode(substr(r.%s, 3), 'hex') else convert_to(%s, 'UTF8') end`, c.name, c.name, own)
	case c.kind == "text":
		return own
	case c.kind == "uuid", c.kind == "jsonb":
		return own + "::" + c.kind
	default:
		return fmt.Sprintf("r.%s::%s", c.name, c.kind)
	}
}

func sqliteValue(c column, own string) string {
	switch {
	case c.when():
		return fmt.Sprintf("f.at + r.%s", c.name)
	case c.kind == "text":
		return own
	case c.kind == "blob":
		return fmt.Sprintf("case typeof(r.%s) when 'text' then cast(%s as blob) else r.%s end", c.name, own, c.name)
	default:
		return "r." + c.name
	}
}
