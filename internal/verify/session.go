package verify

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/mainstay-io/mainstay"
)

// session is one connection on which all checks are made.
type session struct {
	o    Options
	conn *sql.Conn
	now  time.Time
	// noGateway says why the gateway's store cannot be read, empty when it can.
	noGateway string
	attached  bool
	// others are the further databases, own the schema's name with a dot; shadowed says that the gateway's store is read
	// from all of them, late that they are read after the first one's snapshot.
	others   []*other
	own      string
	shadowed bool
	late     bool
	// horizon, sagas and records are up to when messages, ended sagas and idempotency records may have been removed,
	// as of the snapshot.
	horizon, sagas, records time.Time
}

func open(ctx context.Context, o Options) (*session, error) {
	conn, err := o.DB.Conn(ctx)
	if err != nil {
		return nil, fmt.Errorf("connecting: %w", err)
	}
	s := &session{o: o, conn: conn, now: o.Clock()}
	if err := s.prepare(ctx); err != nil {
		return nil, errors.Join(err, s.close(ctx))
	}
	return s, nil
}

func (s *session) prepare(ctx context.Context) error {
	if err := s.checkSchema(ctx); err != nil {
		return err
	}
	if err := s.findGateway(ctx); err != nil {
		return err
	}
	if err := s.joinOthers(ctx); err != nil || s.o.Journal == nil {
		return err
	}
	return s.loadJournal(ctx)
}

// close gives the connection back as it was.
func (s *session) close(ctx context.Context) error {
	var statements []string
	if s.sqlite() {
		statements = append(statements, "drop table if exists temp.verify_journal")
		if s.attached {
			statements = append(statements, "detach sandbox")
		}
	} else if s.o.Journal != nil {
		statements = append(statements, "drop table if exists pg_temp.verify_journal")
	}
	var errs []error
	for _, statement := range statements {
		_, err := s.conn.ExecContext(context.WithoutCancel(ctx), statement)
		errs = append(errs, err)
	}
	return errors.Join(append(errs, s.leaveOthers(ctx), s.conn.Close())...)
}

func (s *session) sqlite() bool { return s.o.Dialect == mainstay.SQLite }

const (
	existsSQLite   = `/* verify.exists */ select count(*) from pragma_table_list where schema || '.' || name = $1`
	existsPostgres = `/* verify.exists */ select count(*) from (select to_regclass($1) as oid) t where oid is not null`
)

func (s *session) exists(ctx context.Context, table string) (bool, error) {
	query := existsPostgres
	if s.sqlite() {
		query = existsSQLite
	}
	var n int
	if err := s.conn.QueryRowContext(ctx, query, table).Scan(&n); err != nil {
		return false, fmt.Errorf("looking for table %s: %w", table, err)
	}
	return n > 0, nil
}

func isThere(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

// findGateway makes the gateway's store readable as the schema sandbox, which it is on PostgreSQL.
func (s *session) findGateway(ctx context.Context) error {
	if s.sqlite() {
		if !isThere(s.o.GatewayFile) {
			s.noGateway = fmt.Sprintf("the payment gateway's store %q is not there", s.o.GatewayFile)
			return nil
		}
		if _, err := s.conn.ExecContext(ctx, "/* verify.attach */ attach $1 as sandbox", s.o.GatewayFile); err != nil {
			return fmt.Errorf("opening the payment gateway's store: %w", err)
		}
		s.attached = true
	}
	ok, err := s.exists(ctx, "sandbox.authorisation")
	if !ok {
		s.noGateway = "the payment gateway's store has no authorisations"
	}
	return err
}

// snapshot runs fn in a transaction that reads one snapshot and is rolled back. On SQLite the gateway's store has a
// snapshot of its own, which is taken after the database's, or before it.
func (s *session) snapshot(ctx context.Context, gatewayFirst bool, fn func() error) (err error) {
	begin := "begin transaction isolation level repeatable read read only; set local statement_timeout = 0"
	if s.sqlite() {
		begin = "begin"
	}
	if _, err := s.conn.ExecContext(ctx, begin); err != nil {
		return fmt.Errorf("beginning: %w", err)
	}
	defer func() {
		if _, failed := s.conn.ExecContext(context.WithoutCancel(ctx), "rollback"); failed != nil && err == nil {
			err = fmt.Errorf("ending: %w", failed)
		}
	}()
	touches := []func(context.Context) error{s.readHorizon, s.touchGateway}
	if gatewayFirst {
		touches[0], touches[1] = touches[1], touches[0]
	}
	for _, touch := range touches {
		if err := touch(ctx); err != nil {
			return err
		}
	}
	if s.late {
		if err := s.borrow(ctx); err != nil {
			return err
		}
	}
	return fn()
}

const touchGateway = `/* verify.gateway */ select count(*) from (select 1 from sandbox.authorisation limit 1) t`

func (s *session) touchGateway(ctx context.Context) error {
	if s.noGateway != "" {
		return nil
	}
	_, err := s.numbers(ctx, touchGateway)
	return err
}

// cleaned is how far the cleaner has come: it writes that down in the transaction that removes.
const cleaned = `/* verify.cleaned */
select coalesce((select {micros before} from cleaned where name = 'outbox'), 0), coalesce((select {micros before} from cleaned where name = 'saga'), 0),
    coalesce((select {micros before} from cleaned where name = 'idempotency'), 0)`

// clocks is how far the clocks of processes and of the database may differ.
const clocks = 5 * time.Second

func (s *session) readHorizon(ctx context.Context) error {
	n, err := s.numbers(ctx, cleaned)
	if err != nil {
		return err
	}
	for i, at := range []*time.Time{&s.horizon, &s.sagas, &s.records} {
		if *at = time.UnixMicro(n[i]); n[i] > 0 {
			*at = at.Add(clocks)
		}
	}
	return nil
}

// sql gives a query in the session's dialect. Queries are written for PostgreSQL; a name in braces stands for what
// the dialects say differently, and the casts that SQLite does not need are left out.
func (s *session) sql(query string) string {
	at, words := instant, postgresWords()
	if s.sqlite() {
		at, words = number, sqliteWords()
	}
	missing := nothing
	if s.noGateway != "" {
		missing = "select order_id, 'the payment is ' || status || ', and the gateway has no store' from payment where status <> 'declined'"
	}
	kept := s.now.Add(-s.o.Retention)
	if s.records.After(kept) {
		kept = s.records
	}
	if s.shadowed {
		query = strings.ReplaceAll(query, "sandbox.", "sandbox_")
	}
	times := strings.NewReplacer(
		"{own}", s.own,
		"{gateway missing}", missing,
		"{now micros}", number(s.now), "{recent}", at(s.now.Add(-s.o.Grace)),
		"{horizon}", at(s.horizon), "{sagas}", at(s.sagas), "{kept}", at(kept))
	return times.Replace(strings.NewReplacer(words...).Replace(query))
}

func number(t time.Time) string { return strconv.FormatInt(t.UnixMicro(), 10) }

// instant multiplies: PostgreSQL 14 refuses so many microseconds in the text of an interval.
func instant(t time.Time) string {
	return "(timestamptz 'epoch' + " + number(t) + " * interval '1 microsecond')"
}

// holes are messages that are missing between others: on SQLite positions are dense, as what is rolled back gives its
// numbers back, and old messages are removed from the beginning.
const holes = `select 'position ' || (e.before + 1), (e.position - e.before - 1) || ' messages have left the outbox, and older ones have not'
from (select position, lag(position) over (order by position) as before from outbox) e where e.position <> e.before + 1`

// nothing is a rule that cannot be broken in a dialect: on SQLite the number stands in the message's own row.
const nothing = "select null, null where false"

func sqliteWords() []string {
	return []string{
		"::text", "", "::jsonb", "", "::bigint", "",
		"{log}", "outbox",
		"{messages}", "(select id, topic, lane, sequence, key, type, headers, created_at from outbox)",
		"{sent}", "json_each(h.sent) as m", "{lines}", "json_each(o.lines) as l", "{topics}", "json_each(c.topics) as t",
		"{body}", "cast(i.body as text)", "{micros before}", "before", "{micros d.entered_at}", "d.entered_at",
		"{unnumbered}", nothing, "{numbered twice}", nothing, "{gone}", holes,
	}
}

func postgresWords() []string {
	const log = `(select g.topic, g.lane, g.first_sequence + p.n - 1 as sequence, p.position
	from log g cross join lateral unnest(g.positions) with ordinality as p(position, n))`
	return []string{
		"{log}", log,
		"{messages}", `(select o.id::text as id, o.topic, o.lane, e.sequence, o.key, o.type, o.headers, o.created_at
	from ` + log + ` e join outbox o on o.position = e.position)`,
		"{sent}", "jsonb_array_elements_text(h.sent) as m(value)", "{lines}", "jsonb_array_elements(o.lines) as l(value)",
		"{topics}", "jsonb_array_elements_text(c.topics) as t(value)",
		"{body}", "convert_from(i.body, 'UTF8')::jsonb",
		"{micros before}", "(extract(epoch from before) * 1000000)::bigint",
		"{micros d.entered_at}", "(extract(epoch from d.entered_at) * 1000000)::bigint",
		"{unnumbered}", `select o.id::text, 'the sequencer has passed it by: it has no sequence'
from {own}outbox o cross join {own}sequencer_state q left join ` + log + ` e on e.position = o.position
where e.position is null and pg_visible_in_snapshot(o.xid, q.snapshot)`,
		"{numbered twice}", `select 'position ' || e.position, 'has ' || count(*) || ' sequences'
from ` + log + ` e group by e.position having count(*) > 1`,
		"{gone}", `select g.topic || '/' || g.lane || '/' || (g.first_sequence + p.n - 1), 'the message has left the outbox, and older ones have not'
from log g cross join lateral unnest(g.positions) with ordinality as p(position, n) left join outbox o on o.position = p.position
left join log_floor f on f.topic = g.topic and f.lane = g.lane
where o.position is null and g.first_sequence + p.n - 1 >= coalesce(f.first_sequence, 1)`,
	}
}

// numbers runs a query that gives one row of numbers.
func (s *session) numbers(ctx context.Context, query string) ([]int64, error) {
	rows, err := s.conn.QueryContext(ctx, s.sql(query))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", tag(query), err)
	}
	defer func() { _ = rows.Close() }()
	columns, err := rows.Columns()
	if err != nil {
		return nil, err
	}
	out, dest := make([]int64, len(columns)), make([]any, len(columns))
	for i := range out {
		dest[i] = &out[i]
	}
	if !rows.Next() {
		return nil, errors.Join(fmt.Errorf("%s: no row", tag(query)), rows.Err())
	}
	return out, errors.Join(rows.Scan(dest...), rows.Err())
}

// violations runs a query that gives an id and a detail for each violation.
func (s *session) violations(ctx context.Context, query string, found finder) error {
	rows, err := s.conn.QueryContext(ctx, s.sql(query))
	if err != nil {
		return fmt.Errorf("%s: %w", tag(query), err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var id, detail sql.NullString
		if err := rows.Scan(&id, &detail); err != nil {
			return fmt.Errorf("%s: %w", tag(query), err)
		}
		found(tag(query), id.String, detail.String)
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("%s: %w", tag(query), err)
	}
	return nil
}

// tag is the name in the comment that a query begins with.
func tag(query string) string {
	name, _, _ := strings.Cut(strings.TrimPrefix(query, "/* verify."), " */")
	return name
}
