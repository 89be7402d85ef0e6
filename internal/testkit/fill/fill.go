// Package fill makes a database old: it multiplies what finished orders have left behind, row by row and table by table,
// with one statement for each table and some ten thousand orders. So the rows are whatever the system itself writes, in
// every table that an order leaves rows in, and `verify` accepts them. For tests only.
//
// A copy is an order of its own: it has another id, another lane, another idempotency key, and messages with ids of their
// own. It was placed at another time, at which everything that belongs to it moves along. Stock and carriers are as if
// all of it had happened, and all copied messages are numbered, handled and published.
//
// Nobody else may work on the database meanwhile.
package fill

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/outbox"
)

// Config says what is filled with what.
type Config struct {
	// DB is the database; its schema is there, and the consumers of the copied messages are registered.
	DB      *sql.DB
	Dialect mainstay.Dialect
	// GatewayFile is the payment gateway's own store on SQLite.
	GatewayFile string
	// Templates are the ids of orders that have ended; copies are made of each in turn.
	Templates []string
	// Orders is how many copies are made. They were placed from From on, Every so often: at least a millisecond, which
	// sets their ids apart. 0 is one in 5 ms.
	Orders int
	From   time.Time
	Every  time.Duration
	// Cleaned leaves out what retention removes: messages, sagas, outcomes, idempotency records. The copies are orders
	// of long ago, and all of them must be older than the day of the oldest message that is there.
	Cleaned bool
	// Progress is called now and then, if it is set.
	Progress func(orders int)
}

// chunk is how many orders one transaction copies.
const chunk = 20_000

// mark is in every id and text of a template where the copy's own comes.
const mark = "\x01"

// copied is a table with rows of an order; of is a condition for those of the order $1. History is removed by retention.
type copied struct {
	name, of string
	history  bool
}

func (f *filler) tables() []copied {
	return []copied{
		{"orders", f.isOrder("id"), false},
		{"order_private", f.isOrder("order_id"), false},
		{"stock_movement", "order_id = $1", false},
		{"payment", "order_id = $1", false},
		{"payment_entry", "order_id = $1", false},
		{"booking", "order_id = $1", false},
		{"sandbox.authorisation", "order_ref = $1", false},
		{"sandbox.capture", "order_ref = $1", false},
		{"sandbox.attempt", "key like $1 || '/%'", false},
		{"idempotency", "header->>'Location' = '/v1/orders/' || $1", true},
		{"saga", "id = $1", true},
		{"saga_history", "saga_id = $1", true},
		{"barrier", "step_key like $1 || '/%'", true},
		{"outbox", "key = $1", true},
	}
}

// isOrder is the condition that an order's own id is $1, in a form that its index serves.
func (f *filler) isOrder(column string) string {
	return column + f.say(" = $1::text::uuid", " = $1")
}

// Orders makes the copies. An error leaves those of the transactions before.
func Orders(ctx context.Context, c Config) (err error) {
	if len(c.Templates) == 0 || c.Every != 0 && c.Every < time.Millisecond {
		return errors.New("filling: there must be a template, and a millisecond between two orders")
	}
	if c.Orders <= 0 {
		return nil
	}
	if c.Every == 0 {
		c.Every = 5 * time.Millisecond
	}
	conn, err := c.DB.Conn(ctx)
	if err != nil {
		return fmt.Errorf("filling: %w", err)
	}
	f := &filler{Config: c, conn: conn}
	defer func() { err = errors.Join(err, f.close(ctx)) }()
	if err := f.prepare(ctx); err != nil {
		return fmt.Errorf("reading the templates: %w", err)
	}
	for from := 0; from < c.Orders; from += chunk {
		n := min(chunk, c.Orders-from)
		if err := f.inTx(ctx, func() error { return f.copy(ctx, from, n) }); err != nil {
			return fmt.Errorf("copying orders: %w", err)
		}
		if c.Progress != nil {
			c.Progress(from + n)
		}
	}
	return f.inTx(ctx, func() error { return f.settle(ctx) })
}

type filler struct {
	Config
	conn   *sql.Conn
	lanes  int
	copies []statement // one for each table
}

type statement struct{ table, sql string }

func (f *filler) sqlite() bool { return f.Dialect == mainstay.SQLite }

func (f *filler) exec(ctx context.Context, query string, args ...any) error {
	if _, err := f.conn.ExecContext(ctx, query, args...); err != nil {
		return fmt.Errorf("%w in %s", err, query)
	}
	return nil
}

func (f *filler) inTx(ctx context.Context, do func() error) error {
	if err := f.exec(ctx, "begin"); err != nil {
		return err
	}
	if err := do(); err != nil {
		return errors.Join(err, f.exec(context.WithoutCancel(ctx), "rollback"))
	}
	return f.exec(ctx, "commit")
}

// close leaves the connection as it was.
func (f *filler) close(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	var err error
	for _, t := range append(f.tables(), copied{name: "order"}) {
		err = errors.Join(err, f.exec(ctx, "drop table if exists "+template(t.name)))
	}
	if f.sqlite() {
		err = errors.Join(err, f.exec(ctx, "detach sandbox"))
	}
	return errors.Join(err, f.conn.Close())
}

// instance is one copy, as the row of a temporary table.
type instance struct {
	N        int    `json:"n"`
	Template int    `json:"template"`
	Prefix   string `json:"prefix"` // of all its ids: the time in them
	Lane     int    `json:"lane"`
	At       int64  `json:"at"`   // when it was placed: microseconds
	Hash     string `json:"hash"` // what is random of it
}

func (f *filler) instance(n int) instance {
	at := f.From.Add(time.Duration(n) * f.Every)
	t := n % len(f.Templates)
	hex := fmt.Sprintf("%012x", at.UnixMilli())
	prefix := hex[:8] + "-" + hex[8:]
	return instance{
		N: n, Template: t, Prefix: prefix, Lane: outbox.Lane(prefix+f.Templates[t][len(prefix):], f.lanes),
		At: at.UnixMicro(), Hash: rand.Text(),
	}
}

// copy makes n copies from the given one on.
func (f *filler) copy(ctx context.Context, from, n int) error {
	list := make([]instance, n)
	for i := range list {
		list[i] = f.instance(from + i)
	}
	text, err := json.Marshal(list)
	if err != nil {
		return err
	}
	if err := f.exec(ctx, f.say(instancesPostgres, instancesSQLite), string(text)); err != nil {
		return err
	}
	numbered, err := f.position(ctx)
	if err != nil {
		return err
	}
	for _, s := range f.copies {
		if err := f.exec(ctx, s.sql); err != nil {
			return err
		}
	}
	if !f.Cleaned {
		err = f.number(ctx, numbered)
	}
	// Rows that are only deleted on PostgreSQL would all be read again by every statement that follows.
	return errors.Join(err, f.exec(ctx, f.say("truncate fill_order", "delete from fill_order")))
}

// say gives the dialect's form.
func (f *filler) say(postgres, sqlite string) string {
	if f.sqlite() {
		return sqlite
	}
	return postgres
}

const (
	instancesPostgres = `/* fill.instances */
insert into fill_order select * from jsonb_to_recordset($1::jsonb) as i(n bigint, template int, prefix text, lane int, at bigint, hash text)`
	instancesSQLite = `/* fill.instances */
insert into fill_order select value->>'n', value->>'template', value->>'prefix', value->>'lane', value->>'at', value->>'hash' from json_each($1)`
)
