package verify_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/verify"
)

// plant is a violation, and what must be said about it.
type plant struct {
	name string
	// sql plants it; sqlite and postgres are added in that dialect.
	sql, sqlite, postgres string
	// only is the one dialect in which it is possible, "" for both.
	only mainstay.Dialect
	// rules must each be reported; also may be, as they see the same fault from another side. Nothing else may.
	rules, also []string
	// id must be named, $NAME as in planted.exec; "" for whatever.
	id string
}

const stranger = "01990000-0000-7000-8000-000000000000"

var plants = []plant{
	{
		name: "order without saga", sql: `delete from saga where id = '$pending'`, id: "$pending",
		rules: []string{"order_without_saga", "history"},
	},
	{
		name: "saga without order", sql: `delete from orders where id = '$pending'`, id: "$pending",
		rules: []string{"saga_without_order", "record_without_order", "event_without_order"},
	},
	{
		name: "saga with another's story", sql: `update saga set correlation_id = '$declined' where id = '$confirmed'`, id: "$confirmed",
		rules: []string{"saga_of_another"},
	},
	{
		name: "saga in a lane of its own", sql: `update saga set lane = 1 - lane where id = '$pending'`, id: "$pending",
		rules: []string{"saga_elsewhere"},
	},
	{
		name: "order without record", sql: `delete from idempotency where key = 'confirmed'`, id: "$confirmed",
		rules: []string{"order_without_record"},
	},
	{
		name: "order under two keys", id: "$confirmed",
		sql: `insert into idempotency select principal, route, 'other', fingerprint, status, header, body, created_at, expires_at
from idempotency where key = 'confirmed'`,
		rules: []string{"order_with_two_keys"},
	},
	{
		name: "record of two orders", id: "$confirmed",
		sqlite:   `update idempotency set body = cast('{"id":"$declined"}' as blob) where key = 'confirmed'`,
		postgres: `update idempotency set body = convert_to('{"id":"$declined"}', 'UTF8') where key = 'confirmed'`,
		rules:    []string{"record_of_two_orders"},
	},
	{
		name: "order not announced", sql: `update outbox set type = 'order.other' where type = 'order.placed' and key = '$confirmed'`, id: "$confirmed",
		rules: []string{"order_not_announced"},
	},
	{
		name: "wrong end announced", sql: `update outbox set type = 'order.cancelled' where type = 'order.confirmed' and key = '$confirmed'`, id: "$confirmed",
		rules: []string{"order_ended_silently"},
	},
	{
		name: "nobody told that a person is needed", sql: `update outbox set type = 'order.other' where type = 'order.needs_operator'`, id: "$stuck",
		rules: []string{"order_needs_operator_silently"},
	},
	{
		name: "command that nobody sent", id: "$declined",
		sql:   `update saga_history set sent = '["` + stranger + `", "01990000-0000-7000-8000-000000000001"]' where saga_id = '$declined' and version = 1`,
		rules: []string{"sent_not_in_outbox", "command_not_in_history"},
	},
	{
		name: "cause that never was", id: "$declined",
		sql:   `update saga_history set message_id = '` + stranger + `' where saga_id = '$declined' and version = 2`,
		rules: []string{"reply_not_in_outbox"},
	},
	{
		name: "row that the sequencer missed", only: mainstay.Postgres, id: stranger,
		sql:   `insert into outbox (id, lane, topic, key, type, payload, xid) values ('` + stranger + `', 0, 'other', 'k', 't', '', '3')`,
		rules: []string{"unnumbered"},
	},
	{
		name: "gap in a log", id: "logistics/",
		sqlite:   `update outbox set sequence = sequence + 100 where topic = 'logistics' and type = 'logistics.dispatch'`,
		postgres: `update log set first_sequence = first_sequence + 100, last_sequence = last_sequence + 100 where topic = 'logistics' and first_sequence > 1`,
		rules:    []string{"gap", "head"}, also: []string{"place_elsewhere"},
	},
	{
		name: "head beyond its log", sql: `update log_head set last_sequence = last_sequence + 5 where topic = 'inventory'`, id: "inventory/",
		rules: []string{"head"},
	},
	{
		name: "two sequences for one message", only: mainstay.Postgres,
		sql: `update log set positions[1] = (select position from outbox where type = 'order.placed' and key = '$confirmed')
where topic = 'order-events' and positions[1] <> (select position from outbox where type = 'order.placed' and key = '$confirmed')`,
		rules: []string{"numbered_twice", "unnumbered"},
	},
	{
		name: "message gone from the middle", only: mainstay.Postgres, id: "order-events/",
		sql: `delete from outbox where position in (select positions[cardinality(positions)] from log where topic = 'order-events' and first_sequence > 1
    order by first_sequence desc limit 1)`,
		rules: []string{"gone"}, also: []string{"order_not_announced", "order_ended_silently", "order_needs_operator_silently"},
	},
	{
		name: "first message of a log gone", only: mainstay.SQLite, id: "position ",
		sql:   `delete from outbox where position = (select position from outbox where topic = 'logistics' and sequence = 1 limit 1)`,
		rules: []string{"gone", "beginning"}, also: []string{"outcome_without_message", "sent_not_in_outbox", "reply_without_command"},
	},
	{
		name: "beginning of a log gone, and nobody removed it", id: "logistics/", rules: []string{"beginning"},
		sqlite: `update outbox set sequence = sequence + 100 where topic = 'logistics'; update log_head set last_sequence = last_sequence + 100 where topic = 'logistics'`,
		postgres: `update log set first_sequence = first_sequence + 100, last_sequence = last_sequence + 100 where topic = 'logistics';
update log_head set last_sequence = last_sequence + 100 where topic = 'logistics'`,
		also: []string{"place_elsewhere"},
	},
	{
		name: "two heads of a log", only: mainstay.Postgres, id: "inventory/", rules: []string{"head_twice", "head"}, also: []string{"place_ahead", "relay_ahead"},
		sql: `insert into log_head select (jsonb_populate_record(h, jsonb_build_object('last_sequence', last_sequence - 1))).*
from log_head h where topic = 'inventory' order by lane limit 1`,
	},
	{
		name: "two records of the relay", only: mainstay.Postgres, id: "inventory/", rules: []string{"relay_twice"},
		sql: `insert into relay_progress select topic, lane, 1, n, '', 1, 1 from log_head cross join generate_series(0, 1) n
where topic = 'inventory' order by lane limit 2`,
	},
	{
		name: "two places in a lane", only: mainstay.Postgres, id: "inventory in inventory/", rules: []string{"place_twice"}, also: []string{"place_missing", "place_ahead"},
		sql: `insert into place select (jsonb_populate_record(p, jsonb_build_object('sequence', sequence + 1000, 'message_id', ''))).*
from place p where consumer = 'inventory' and topic = 'inventory' order by lane limit 1`,
	},
	{
		name: "message twice", id: "is 2 times",
		sql: `update outbox set id = (select id from outbox where type = 'order.placed' and key = '$confirmed')
where type = 'order.placed' and key = '$declined'`,
		rules: []string{"message_twice"},
	},
	{
		name: "key in two lanes", id: "$confirmed",
		sqlite:   `update outbox set lane = 1 - lane, sequence = 1000 where type = 'order.placed' and key = '$confirmed'`,
		postgres: `update outbox set lane = 1 - lane where type = 'order.placed' and key = '$confirmed'`,
		rules:    []string{"key_in_two_lanes"}, also: []string{"gap", "head", "beginning"},
	},
	{
		name: "lane that is not there", id: "is in lane 7 of 2",
		postgres: `alter table outbox drop constraint outbox_lane_known;`,
		sql:      `update outbox set lane = 7 where key = '$pending'`,
		rules:    []string{"unknown_lane"}, also: []string{"gap", "head", "beginning", "saga_elsewhere"},
	},
	{
		name: "relay ahead of the log", sql: `insert into relay_progress values ('inventory', 0, 1, 1000, '', 1, 1)`, id: "inventory/0",
		rules: []string{"relay_ahead"},
	},
	{
		name: "relay of another log", sql: `insert into relay_progress select topic, lane, 1, 1, '` + stranger + `', 1, 1 from log_head where topic = 'inventory'`,
		id: "inventory/", rules: []string{"relay_elsewhere"},
	},
	{
		name: "place beyond the log", sql: `update place set sequence = sequence + 1000 where consumer = 'orders' and lane = 0`, id: "orders in inventory-replies/0",
		rules: []string{"place_ahead"},
	},
	{
		name: "place on another message", sql: `update place set message_id = '` + stranger + `' where consumer = 'orders'`, id: "orders in inventory-replies/",
		rules: []string{"place_elsewhere"},
	},
	{
		name: "no place in a lane", sql: `delete from place where consumer = 'orders' and lane = 0`, id: "orders in order-replies",
		rules: []string{"place_missing"},
	},
	{
		name: "parked before it was reached", rules: []string{"parked_ahead"},
		sql: `update parked set sequence = sequence + 1000; update dead_letter set sequence = sequence + 1000`,
	},
	{
		name: "parked under another's place", rules: []string{"parked_elsewhere"}, id: stranger,
		sql: `update parked set message_id = '` + stranger + `'; update dead_letter set message_id = '` + stranger + `'`,
	},
	{
		name: "effect forgotten", sql: `delete from barrier where step_key = '$confirmed/dispatch'`, id: "$confirmed",
		rules: []string{"command_without_effect", "shipment_effect", "completed"},
	},
	{
		name: "outcome of no message", sql: `update barrier set message_id = '` + stranger + `' where step_key = '$confirmed/book'`, id: "$confirmed/book",
		rules: []string{"outcome_without_message"},
	},
	{
		name: "answer to nothing", rules: []string{"reply_without_command"}, id: stranger,
		sqlite:   `update outbox set headers = json_set(headers, '$.causationid', '` + stranger + `') where type = 'logistics.dispatch.done' and key = '$confirmed'`,
		postgres: `update outbox set headers = jsonb_set(headers, '{causationid}', '"` + stranger + `"') where type = 'logistics.dispatch.done' and key = '$confirmed'`,
	},
	{
		name: "two answers", rules: []string{"answered_twice"},
		sqlite: `update outbox set headers = json_set(headers, '$.causationid', (select message_id from barrier where step_key = '$confirmed/commit'))
where type = 'logistics.dispatch.done' and key = '$confirmed'`,
		postgres: `update outbox set headers = jsonb_set(headers, '{causationid}', to_jsonb((select message_id from barrier where step_key = '$confirmed/commit')))
where type = 'logistics.dispatch.done' and key = '$confirmed'`,
	},
	{
		name: "done by two participants", id: "$confirmed/book", rules: []string{"two_participants"},
		sql: `insert into barrier select 'other', step_key, op, outcome, code, detail, message_id, created_at from barrier where step_key = '$confirmed/book'`,
	},
	{
		name: "dead letter without case", sql: `delete from dead_letter`, rules: []string{"message_without_case"},
	},
	{
		name: "case that was closed behind its back", sql: `update dead_letter set state = 'resolved', ended_at = entered_at`, rules: []string{"message_without_case"},
	},
	{
		name: "case without message", sql: `delete from parked`, rules: []string{"case_without_message", "command_without_effect"},
	},
	{
		name: "dead and done", rules: []string{"dead_and_done"}, also: []string{"money_effect", "undo_of_nothing"},
		sql: `insert into barrier select consumer, step_key, op, 'void', '', '', message_id, parked_at from parked`,
	},
	{
		name: "status of its own", sql: `update orders set status = 'pending' where id = '$stuck'`, id: "$stuck", rules: []string{"status"},
	},
	{
		name: "cancelled without reason", id: "$declined", rules: []string{"reason"},
		postgres: `alter table orders drop constraint orders_reason;`,
		sql:      `update orders set reason_code = '' where id = '$declined'`,
	},
	{
		name: "hanging", id: "$stuck", rules: []string{"hanging"},
		also: []string{"status", "history", "state", "command_without_effect", "case_without_message", "order_needs_operator_silently"},
		sql: `delete from parked; delete from dead_letter;
update place set sequence = (select last_sequence from log_head h where h.topic = place.topic and h.lane = place.lane), message_id = ''
where exists (select 1 from log_head h where h.topic = place.topic and h.lane = place.lane);`,
		sqlite:   `update saga set status = 'compensating', due_at = null, updated_at = updated_at - 300000000 where id = '$stuck'`,
		postgres: `update saga set status = 'compensating', due_at = null, updated_at = updated_at - interval '5 minutes' where id = '$stuck'`,
	},
	{
		name: "history with a hole", sql: `delete from saga_history where saga_id = '$confirmed' and version = 2`, id: "$confirmed",
		rules: []string{"history"}, also: []string{"command_not_in_history"},
	},
	{
		name: "life after the end", id: "$confirmed", rules: []string{"history"},
		sql: `insert into saga_history select saga_id, version + 1, at, '', '[{"cause":"timer","from":"completed","to":"completed"}]', '[]'
from saga_history where saga_id = '$confirmed' and version = (select version from saga where id = '$confirmed');
update saga set version = version + 1 where id = '$confirmed'`,
	},
	{
		name: "compensation beyond the pivot", id: "$compensated", rules: []string{"history"},
		sql: `update saga_history set entry = replace(entry, '"undo":["book"]', '"undo":["capture"]') where saga_id = '$compensated'`,
	},
	{
		name: "compensated, but for one step", id: "$compensated", rules: []string{"state"},
		sql: `update saga set state = replace(state, 'book undone', 'book done') where id = '$compensated'`,
	},
	{
		name: "state that cannot be read", sql: `update saga set state = '{}' where id = '$confirmed'`, id: "$confirmed", rules: []string{"state"},
	},
	{
		name: "undone without a mark", sql: `delete from barrier where step_key = '$compensated/book' and op = 'do'`, id: "$compensated/book",
		rules: []string{"undo_without_do", "command_without_effect"},
	},
	{
		name: "done after it was undone", id: "$compensated/book", rules: []string{"do_after_undo"},
		sqlite:   `update barrier set created_at = created_at + 60000000 where step_key = '$compensated/book' and op = 'do'`,
		postgres: `update barrier set created_at = created_at + interval '1 minute' where step_key = '$compensated/book' and op = 'do'`,
	},
	{
		name: "compensation that found nothing", sql: `update barrier set outcome = 'void' where step_key = '$compensated/book' and op = 'undo'`, id: "$compensated",
		rules: []string{"undo_of_nothing", "shipment_effect", "compensated"},
	},
	{
		name: "effect of a void action", sql: `update barrier set outcome = 'void' where step_key = '$confirmed/reserve'`, id: "$confirmed",
		rules: []string{"stock_effect", "completed"},
	},
	{
		name: "money of a rejected authorisation", sql: `update barrier set outcome = 'done' where step_key = '$declined/authorise' and op = 'do'`, id: "$declined",
		rules: []string{"money_effect"}, also: []string{"compensated", "undo_of_nothing"},
	},
	{
		name: "stock from nowhere", sql: `update stock set on_hand = on_hand + 1 where sku = 'mug-red'`, id: "mug-red", rules: []string{"stock_sum"},
	},
	{
		name: "stock below zero", id: "mug-blue", rules: []string{"stock_negative"}, also: []string{"stock_sum"},
		postgres: `alter table stock drop constraint stock_on_hand_not_negative;`,
		sql:      `update stock set on_hand = -1 where sku = 'mug-blue'`,
	},
	{
		name: "shipped more than ordered", id: "$confirmed", rules: []string{"stock_confirmed"},
		sql: `update stock_movement set quantity = 3 where order_id = '$confirmed';
update stock set shipped = shipped + 1, on_hand = on_hand - 1 where sku = 'mug-red'`,
	},
	{
		name: "stock held for a cancelled order", id: "$compensated", rules: []string{"stock_held", "stock_effect"},
		sql: `delete from stock_movement where order_id = '$compensated' and kind = 'release';
update stock set reserved = reserved + 2, on_hand = on_hand - 2 where sku = 'mug-red'`,
	},
	{
		name: "unbalanced books", id: "$confirmed", rules: []string{"balance", "books"},
		sql: `update payment_entry set amount = amount + 1 where order_id = '$confirmed' and kind = 'capture' and account = 'merchant'`,
	},
	{
		name: "paid another amount", sql: `update orders set total = 1 where id = '$confirmed'`, id: "$confirmed", rules: []string{"paid", "gateway_confirmed"},
	},
	{
		name: "money of a cancelled order", sql: `update payment set status = 'authorised' where order_id = '$compensated'`, id: "$compensated",
		rules: []string{"unpaid", "books", "money_effect"},
	},
	{
		name: "confirmed and not sent", sql: `update booking set status = 'booked' where order_id = '$confirmed'`, id: "$confirmed",
		rules: []string{"shipment_of_confirmed", "carrier", "shipment_effect"},
	},
	{
		name: "sent although cancelled", sql: `update booking set status = 'dispatched' where order_id = '$compensated'`, id: "$compensated",
		rules: []string{"shipment_of_other", "carrier", "shipment_effect"},
	},
	{
		name: "carrier that lost count", sql: `update carrier set booked = booked + 1`, id: "FR", rules: []string{"carrier"},
	},
	{
		name: "one number for two shipments", rules: []string{"tracking"}, only: mainstay.Postgres, id: "twice",
		sql: `alter table booking drop constraint booking_tracking; update booking set tracking = 'twice' where order_id in ('$confirmed', '$flaky')`,
	},
	{
		name: "money that the gateway kept", id: "$compensated", rules: []string{"gateway_books", "gateway_cancelled"},
		sql: `update sandbox.authorisation set status = 'authorised', voided = 0 where order_ref = '$compensated'`,
	},
	{
		name: "taken twice", id: "$confirmed", rules: []string{"gateway_confirmed", "gateway_twice", "gateway_key"},
		sql: `insert into sandbox.authorisation (key, order_ref, amount, currency, status, captured, voided, token, hash, code, detail)
select '$confirmed/again', order_ref, amount, currency, status, captured, voided, token, hash, code, detail
from sandbox.authorisation where order_ref = '$confirmed'`,
	},
	{
		name: "capture that left no trace", id: "$confirmed", rules: []string{"gateway_capture"},
		sql: `delete from sandbox.capture where order_ref = '$confirmed'`,
	},
	{
		name: "capture of nothing", id: "$declined", rules: []string{"gateway_capture"},
		sql: `update sandbox.capture set order_ref = '$declined', key = '$declined/capture' where order_ref = '$confirmed'`,
	},
	{
		name: "order that only the gateway knows", id: stranger, rules: []string{"gateway_stranger"},
		sql: `update sandbox.authorisation set order_ref = '` + stranger + `', key = '` + stranger + `/authorise' where order_ref = '$declined'`,
	},
}

// planting plants each violation into a copy of its own.
func planting(t *testing.T, w *world) {
	for _, p := range plants {
		if p.only != "" && p.only != w.dialect {
			continue
		}
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			c := w.copy(t)
			if w.dialect == mainstay.SQLite {
				c.exec(t, p.sql+";"+p.sqlite)
			} else if strings.HasPrefix(p.postgres, "alter") {
				c.exec(t, p.postgres+p.sql)
			} else {
				c.exec(t, p.sql+";"+p.postgres)
			}
			p.compare(t, w, run(t, c.options()))
		})
	}
}

// compare tells what was reported too much or too little.
func (p *plant) compare(t *testing.T, w *world, r verify.Report) {
	t.Helper()
	id := p.id
	for kind, of := range w.ids {
		id = strings.ReplaceAll(id, "$"+kind, of)
	}
	missing := map[string]bool{}
	for _, rule := range p.rules {
		missing[rule] = true
	}
	named := false
	for _, c := range r.Checks {
		for _, v := range c.Violations {
			if !slices.Contains(p.rules, v.Rule) && !slices.Contains(p.also, v.Rule) {
				t.Errorf("%s: %s: %s %s", c.Name, v.Rule, v.ID, v.Detail)
			}
			delete(missing, v.Rule)
			named = named || strings.Contains(v.ID+" "+v.Detail, id)
		}
	}
	for rule := range maps.Keys(missing) {
		t.Errorf("rule %s is broken, and nothing says so", rule)
	}
	if !named && len(p.rules) > 0 {
		t.Errorf("%q is not named in %+v", id, r.Checks)
	}
}

func TestRules_AreEachBrokenOnce(t *testing.T) {
	t.Parallel()
	broken := []string{ // the journal's are in its own test
		"journal_lost", "journal_two_orders", "journal_two_keys", "journal_other_order", "journal_refused", "journal_unknown", "gateway_missing",
	}
	for _, p := range plants {
		broken = append(broken, p.rules...)
	}
	for _, rule := range verify.Rules() {
		if !slices.Contains(broken, rule) {
			t.Errorf("no test breaks rule %s", rule)
		}
	}
}
