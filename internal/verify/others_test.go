package verify_test

import (
	"database/sql"
	"testing"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/verify"
)

// inventorys makes of a copy of a world the database that inventory has for itself, others what is left of the first
// one. The two together are the world as it was.
const (
	inventorys = `delete from place where consumer <> 'inventory'; delete from consumer where name <> 'inventory';
delete from barrier where participant <> 'inventory'; delete from parked where consumer <> 'inventory'; delete from dead_letter where consumer <> 'inventory';
delete from log where topic <> 'inventory-replies'; delete from log_head where topic <> 'inventory-replies'; delete from outbox where topic <> 'inventory-replies';
delete from order_private; delete from orders; delete from saga_history; delete from saga; delete from idempotency;
delete from payment_entry; delete from payment; delete from booking; delete from carrier;
delete from sandbox.capture; delete from sandbox.authorisation`
	others = `delete from place where consumer = 'inventory'; delete from consumer where name = 'inventory';
delete from barrier where participant = 'inventory'; delete from parked where consumer = 'inventory'; delete from dead_letter where consumer = 'inventory';
delete from log where topic = 'inventory-replies'; delete from log_head where topic = 'inventory-replies'; delete from outbox where topic = 'inventory-replies';
delete from stock_movement; delete from stock`
)

// apart is a world whose inventory has a database of its own.
type apart struct{ orders, stock *planted }

func (w *world) apart(t *testing.T) *apart {
	t.Helper()
	a := &apart{w.copy(t), w.copy(t)}
	a.orders.exec(t, others)
	a.stock.exec(t, inventorys)
	return a
}

func (a *apart) options() verify.Options {
	o := a.orders.options()
	o.Others = []*sql.DB{a.stock.db}
	return o
}

// TestRun_SaysThatAnotherDatabaseIsMissing of a system whose other half was not given.
func TestRun_SaysThatAnotherDatabaseIsMissing(t *testing.T) {
	t.Parallel()
	a := newWorld(t, mainstay.Postgres).apart(t)
	for _, want := range []bool{false, true} {
		r, err := verify.Run(t.Context(), a.orders.options())
		if err != nil || r.Elsewhere != want {
			t.Fatalf("elsewhere is %v (%v), want %v", r.Elsewhere, err, want)
		}
		a.orders.exec(t, `update place set elsewhere = true where topic = 'inventory-replies'`)
	}
	if r, err := verify.Run(t.Context(), a.options()); err != nil || r.Elsewhere {
		t.Fatalf("elsewhere is %v (%v) of both", r.Elsewhere, err)
	}
}

// TestRun_AcrossDatabases plants what only two databases can do to each other: each is found, by its name; and what is
// as it should be is accepted.
func TestRun_AcrossDatabases(t *testing.T) {
	t.Parallel()
	w := newWorld(t, mainstay.Postgres)
	const twice = `insert into stock_movement (order_id, sku, kind, quantity, created_at)
select order_id, sku, kind, quantity, created_at from stock_movement where order_id = '$confirmed'`
	for _, p := range []struct {
		plant        // its sql is planted into the orders' database
		stock string // and this into inventory's
	}{
		{plant: plant{name: "nothing"}},
		{
			stock: `drop index stock_movement_once; ` + twice + ` and kind = 'ship'`,
			plant: plant{name: "an effect twice", id: "$confirmed", rules: []string{"stock_confirmed"}, also: []string{"stock_sum", "stock_held"}},
		},
		{
			plant: plant{
				name: "done in both databases", id: "$confirmed/reserve", rules: []string{"two_participants"},
				sql: `insert into barrier select 'inventory', '$confirmed/reserve', op, outcome, code, detail, message_id, created_at from barrier where step_key = '$confirmed/book'`,
			},
		},
		{
			stock: `delete from barrier where step_key = '$confirmed/reserve'; delete from stock_movement where order_id = '$confirmed' and kind = 'reserve'`,
			plant: plant{
				name: "a command lost between the two", id: "$confirmed/reserve",
				rules: []string{"command_without_effect", "completed"}, also: []string{"stock_sum", "stock_confirmed", "stock_held", "stock_effect"},
			},
		},
		{
			stock: `delete from barrier where step_key = '$declined/reserve' and op = 'do'`,
			plant: plant{
				name: "a compensation that another database's action may follow", id: "$declined/reserve", rules: []string{"undo_without_do", "command_without_effect"},
				also: []string{"stock_effect"},
			},
		},
		{
			stock: `delete from barrier where step_key = '$declined/reserve' and op = 'do'; update place set elsewhere = true`,
			plant: plant{
				name: "a command that the broker refused", id: "$declined/reserve", rules: []string{"undo_without_do"}, also: []string{"stock_effect"},
				sql: `insert into dead_letter (consumer, topic, lane, sequence, key, message_id, type, message, kind, error, fingerprint, attempts, entered_at, state)
select 'relay', l.topic, l.lane, l.first_sequence + p.n - 1, o.key, o.id, o.type, '{}', 'terminal', 'too large', 'f', 1, o.created_at, 'open'
from log l cross join lateral unnest(l.positions) with ordinality as p(position, n) join outbox o on o.position = p.position
where o.type = 'inventory.reserve' and o.key = '$declined'`,
			},
		},
		{
			stock: `update barrier set message_id = '` + stranger + `' where step_key = '$confirmed/reserve'`,
			plant: plant{name: "an outcome without message", id: "$confirmed/reserve", rules: []string{"outcome_without_message"}},
		},
		{
			stock: `update outbox set headers = jsonb_set(headers, '{causationid}', '"` + stranger + `"') where type = 'inventory.reserve.done' and key = '$confirmed'`,
			plant: plant{name: "an answer to nothing", id: stranger, rules: []string{"reply_without_command"}},
		},
		{
			stock: `update outbox set id = gen_random_uuid() where key = '$confirmed'`,
			plant: plant{name: "an answer that was never sent", id: "$confirmed", rules: []string{"reply_not_in_outbox"}, also: []string{"place_elsewhere"}},
		},
		{
			stock: `update place set sequence = sequence + 1000`,
			plant: plant{name: "a place beyond the other's log", id: "inventory in inventory/", rules: []string{"place_ahead"}},
		},
		{
			stock: `update place set sequence = sequence + 1000, message_id = '` + stranger + `' where sequence > 0`,
			plant: plant{
				name: "a place beyond the other's log, which was restored since",
				sql:  `insert into incarnation (id, topic, lane, first_sequence, reason) select 2, topic, lane, last_sequence + 1, 'test' from log_head where topic = 'inventory'`,
			},
		},
		{
			stock: `update place set sequence = sequence + 1000 where sequence > 0`,
			plant: plant{
				name: "a place beyond an incarnation of the other's log", id: "inventory in inventory/", rules: []string{"place_ahead"},
				sql: `insert into incarnation (id, topic, lane, first_sequence, reason) select 2, topic, lane, last_sequence + 1500, 'test' from log_head where topic = 'inventory'`,
			},
		},
		{
			stock: `update place set message_id = '` + stranger + `' where sequence > 0`,
			plant: plant{name: "a place in another log", id: "inventory in inventory/", rules: []string{"place_elsewhere"}},
		},
		{
			plant: plant{
				name: "a place beyond inventory's log", id: "orders in inventory-replies/", rules: []string{"place_ahead"},
				sql: `update place set sequence = sequence + 1000 where topic = 'inventory-replies'`,
			},
		},
		{
			stock: `insert into outbox (id, lane, topic, key, type, payload, xid) values ('` + stranger + `', 0, 'other', 'k', 't', '', '3')`,
			plant: plant{name: "a row that inventory's sequencer missed", id: stranger, rules: []string{"unnumbered"}},
		},
		{
			stock: `update log set first_sequence = first_sequence + 100, last_sequence = last_sequence + 100 where first_sequence > 1`,
			plant: plant{name: "a gap in inventory's log", id: "inventory-replies/", rules: []string{"gap", "head"}, also: []string{"place_elsewhere"}},
		},
		{
			plant: plant{
				name: "both write one topic", id: "inventory-replies/", rules: []string{"gap"}, also: []string{"numbered_twice", "head", "head_twice", "beginning", "place_ahead", "place_elsewhere"},
				sql: `insert into log_head values ('inventory-replies', 0, 1), ('inventory-replies', 1, 1);
insert into log (topic, lane, first_sequence, last_sequence, incarnation, positions, oldest, newest)
select 'inventory-replies', l.lane, 1, 1, 1, array[o.position], o.created_at, o.created_at
from generate_series(0, 1) as l(lane) cross join lateral (select position, created_at from outbox order by position limit 1) o`,
			},
		},
	} {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			a := w.apart(t)
			a.orders.exec(t, p.sql)
			a.stock.exec(t, p.stock)
			p.compare(t, w, run(t, a.options()))
		})
	}
}
