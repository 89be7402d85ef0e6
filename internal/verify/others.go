package verify

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"
)

// borrowed are the tables that participants with a database of their own fill there; what they have is read together
// with the tables of the same name in the first database. Its orders, sagas and idempotency records are nowhere else.
func borrowed() []string {
	return []string{
		"consumer", "place", "parked", "dead_letter", "barrier", "outbox", "log", "log_head", "log_floor", "incarnation", "relay_progress",
		"stock", "stock_movement", "payment", "payment_entry", "booking", "carrier",
	}
}

// gatewayTables are the payment gateway's, wherever payment is.
func gatewayTables() []string { return []string{"authorisation", "capture"} }

// apart says how far the positions of two databases are apart, when they are read as one.
const apart = int64(1) << 48

// other is a further database. The columns of the gateway's tables are known if they are there.
type other struct {
	conn    *sql.Conn
	gateway map[string]string
}

const columnsQuery = `/* verify.columns */
select coalesce(string_agg(quote_ident(attname) || ' ' || format_type(atttypid, atttypmod), ', ' order by attnum), '')
from pg_attribute where attrelid = to_regclass($1) and attnum > 0 and not attisdropped`

// findGateway looks for the gateway's tables.
func (o *other) findGateway(ctx context.Context) error {
	for _, table := range gatewayTables() {
		var columns string
		if err := o.conn.QueryRowContext(ctx, columnsQuery, "sandbox."+table).Scan(&columns); err != nil {
			return fmt.Errorf("looking for table %s: %w", table, err)
		}
		if columns == "" {
			return nil
		}
		if o.gateway == nil {
			o.gateway = map[string]string{}
		}
		o.gateway[table] = columns
	}
	return nil
}

// joinOthers makes views that shadow the first database's tables: each with the rows of all databases.
func (s *session) joinOthers(ctx context.Context) error {
	if len(s.o.Others) == 0 {
		return nil
	}
	if err := s.conn.QueryRowContext(ctx, "/* verify.schema */ select quote_ident(current_schema()) || '.'").Scan(&s.own); err != nil {
		return fmt.Errorf("finding the schema: %w", err)
	}
	var columns map[string]string
	for _, db := range s.o.Others {
		conn, err := db.Conn(ctx)
		if err != nil {
			return fmt.Errorf("connecting: %w", err)
		}
		o := &other{conn: conn}
		s.others = append(s.others, o)
		peer := &session{o: s.o, conn: conn}
		if err := peer.checkSchema(ctx); err != nil {
			return err
		}
		if err := o.findGateway(ctx); err != nil {
			return err
		}
		if o.gateway != nil {
			columns = o.gateway
		}
	}
	for _, table := range borrowed() {
		if err := s.shadow(ctx, table, "like "+s.own+table, "select * from "+s.own+table+" union all "); err != nil {
			return err
		}
	}
	if columns == nil {
		return nil
	}
	first := s.noGateway == ""
	s.noGateway, s.shadowed = "", true
	for _, table := range gatewayTables() {
		own := ""
		if first {
			own = "select * from sandbox." + table + " union all "
		}
		if err := s.shadow(ctx, "sandbox_"+table, columns[table], own); err != nil {
			return err
		}
	}
	return nil
}

// shadow makes a table with the given columns for what is borrowed from others, and a view of it behind the first
// database's own.
func (s *session) shadow(ctx context.Context, name, columns, own string) error {
	for _, statement := range []string{
		"create temp table other_" + name + " (" + columns + ")",
		"create temp view " + name + " as " + own + "select * from pg_temp.other_" + name,
	} {
		if _, err := s.conn.ExecContext(ctx, statement); err != nil {
			return fmt.Errorf("joining %s of all databases: %w", name, err)
		}
	}
	return nil
}

// leaveOthers removes what joinOthers and borrow have made, and gives the connections back.
func (s *session) leaveOthers(ctx context.Context) error {
	var errs []error
	if len(s.others) > 0 {
		_, err := s.conn.ExecContext(context.WithoutCancel(ctx), "discard temp")
		errs = append(errs, err)
	}
	for _, o := range s.others {
		errs = append(errs, o.conn.Close())
	}
	return errors.Join(errs...)
}

// borrow reads the other databases, each in one snapshot of now.
func (s *session) borrow(ctx context.Context) error {
	for i, o := range s.others {
		if err := s.borrowFrom(ctx, o, i); err != nil {
			return fmt.Errorf("reading database %d: %w", i+2, err)
		}
	}
	return nil
}

func (s *session) borrowFrom(ctx context.Context, o *other, n int) error {
	tx, err := o.conn.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true})
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // it only read
	tables := map[string]string{}
	for _, table := range borrowed() {
		tables[table] = table
	}
	if o.gateway != nil {
		for _, table := range gatewayTables() {
			tables["sandbox_"+table] = "sandbox." + table
		}
	}
	for name, table := range tables {
		if n == 0 {
			if _, err := s.conn.ExecContext(ctx, "delete from pg_temp.other_"+name); err != nil {
				return err
			}
		}
		if err := s.copy(ctx, tx, name, table, n); err != nil {
			return fmt.Errorf("%s: %w", table, err)
		}
	}
	var before [3]int64
	err = tx.QueryRowContext(ctx, strings.NewReplacer(postgresWords()...).Replace(cleaned)).Scan(&before[0], &before[1], &before[2])
	if horizon := time.UnixMicro(before[0]).Add(clocks); err == nil && before[0] > 0 && horizon.After(s.horizon) {
		s.horizon = horizon
	}
	return err
}

// rowsAtOnce is how many rows travel together.
const rowsAtOnce = 1000

// copy takes the rows of a table over. Positions are moved out of the way of the first database's.
func (s *session) copy(ctx context.Context, tx *sql.Tx, name, table string, n int) error {
	row := "to_jsonb(t)"
	switch offset := apart * int64(n+1); name {
	case "outbox":
		row += fmt.Sprintf(" || jsonb_build_object('position', position + %d)", offset)
	case "log":
		row += fmt.Sprintf(" || jsonb_build_object('positions', (select jsonb_agg(p + %d order by i) from unnest(positions) with ordinality u(p, i)))", offset)
	}
	rows, err := tx.QueryContext(ctx, "select ("+row+")::text from "+table+" t")
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	var batch []string
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		_, err := s.conn.ExecContext(ctx, "insert into pg_temp.other_"+name+
			" select * from jsonb_populate_recordset(null::pg_temp.other_"+name+", $1::jsonb)", "["+strings.Join(batch, ",")+"]")
		batch = batch[:0]
		return err
	}
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			return err
		}
		if batch = append(batch, text); len(batch) == rowsAtOnce {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return errors.Join(rows.Err(), flush())
}

// again keeps of what was found what is found in a second reading, the other way round: the first one read the other
// databases before the first one's snapshots, and the second reads them after. What was under way between the two
// readings of one order is not wrong.
func (s *session) again(ctx context.Context, first Report) (Report, error) {
	s.late = true
	second, err := s.once(ctx)
	if err != nil {
		return second, err
	}
	for i := range second.Checks {
		was := map[[2]string]bool{}
		for _, v := range first.Checks[i].all {
			was[[2]string{v.Rule, v.ID}] = true
		}
		c := &second.Checks[i]
		c.Found, c.Violations = 0, []Violation{}
		for _, v := range c.all {
			if !was[[2]string{v.Rule, v.ID}] {
				continue
			}
			if c.Found++; len(c.Violations) < s.o.Limit {
				c.Violations = append(c.Violations, v)
			}
		}
	}
	return second, nil
}

// unnumberedOthers looks in each of the other databases for what its own sequencer has passed by.
func (s *session) unnumberedOthers(ctx context.Context, rule string, found finder) error {
	for _, o := range s.others {
		peer := &session{o: s.o, conn: o.conn}
		if err := peer.violations(ctx, rule, found); err != nil {
			return err
		}
	}
	return nil
}
