package verify

// acceptance: what was answered 2xx is there, whole, and once.
func acceptance() check {
	return check{
		name:    "acceptance",
		summary: "%d {order|orders}, each with its saga for as long as that is kept; %d idempotency {record|records}, each with its order",
		count: `/* verify.acceptance */
select (select count(*) from orders), (select count(*) from idempotency where route = 'POST /v1/orders' and status between 200 and 299)`,
		rules: []string{
			`/* verify.order_without_saga */
select o.id::text, 'the order has no saga' from orders o left join saga s on s.id = o.id::text and s.definition = 'order'
where s.id is null and not (o.status in ('confirmed', 'cancelled') and o.updated_at < {sagas})`,
			`/* verify.saga_without_order */
select s.id, 'the saga has no order' from saga s left join orders o on o.id::text = s.id
where s.definition = 'order' and o.id is null`,
			`/* verify.saga_of_another */
select s.id, 'the saga tells the story of ' || s.correlation_id from saga s
where s.definition = 'order' and (s.correlation_id <> s.id or s.key <> s.id)`,
			`/* verify.saga_elsewhere */
with k as materialized (select key, min(lane) as lane from outbox where topic = 'order-events' group by key having min(lane) = max(lane))
select s.id, 'the saga is in lane ' || s.lane || ', where nobody fires its timers; its key is in lane ' || k.lane
from k join saga s on s.id = k.key where s.definition = 'order' and s.lane <> k.lane`,
			"/* verify.order_without_record */\n" + records + `select o.id::text, 'the order has no idempotency record' from orders o left join record r on r.order_id = o.id::text
where r.order_id is null and o.created_at > {kept}`,
			"/* verify.record_without_order */\n" + records + `select r.key, 'the record of this key answers with ' || coalesce(r.location, 'no order') || ', which does not exist'
from record r left join orders o on o.id::text = r.order_id
where o.id is null`,
			"/* verify.order_with_two_keys */\n" + records + `select r.order_id, count(*) || ' idempotency keys answer with this order' from record r group by r.order_id having count(*) > 1`,
			"/* verify.record_of_two_orders */\n" + records + `select r.key, 'the record of this key has ' || r.location || ' in its header and ' || coalesce(r.id, 'no id') || ' in its body'
from record r where coalesce(r.location, '') <> '/v1/orders/' || coalesce(r.id, '')`,
		},
	}
}

// records are the stored answers to orders.
const records = `with record as materialized (
    select i.key, i.header->>'Location' as location, cast(substr(i.header->>'Location', 12) as text) as order_id, {body}->>'id' as id
    from idempotency i where i.route = 'POST /v1/orders' and i.status between 200 and 299
)
`

// outbox: what was written and what was said about it went into one transaction.
func outbox() check {
	return check{
		name:    "outbox",
		summary: "%d {message|messages}; each order was announced, each ended order has its event, and every command that a saga sent is here",
		count:   `/* verify.outbox */ select count(*) from outbox`,
		rules: []string{
			"/* verify.order_not_announced */\n" + events + `select o.id::text, coalesce(e.placed, 0) || ' events order.placed instead of one'
from orders o left join event e on e.id = o.id::text where coalesce(e.placed, 0) <> 1 and o.created_at >= {horizon}`,
			"/* verify.order_ended_silently */\n" + events + `select o.id::text, 'the order is ' || o.status || ' and has ' || coalesce(e.confirmed, 0) || ' events order.confirmed and '
    || coalesce(e.cancelled, 0) || ' order.cancelled'
from orders o left join event e on e.id = o.id::text
where o.updated_at >= {horizon} and (
    coalesce(e.confirmed, 0) <> case o.status when 'confirmed' then 1 else 0 end
    or coalesce(e.cancelled, 0) <> case o.status when 'cancelled' then 1 else 0 end)`,
			"/* verify.order_needs_operator_silently */\n" + events + `select o.id::text, 'the order needs an operator, and no event says so'
from orders o left join event e on e.id = o.id::text
where o.status = 'needs_operator' and o.updated_at >= {horizon} and coalesce(e.needs_operator, 0) = 0`,
			"/* verify.event_without_order */\n" + events + `select e.id, 'there are events of this order, and no order' from event e left join orders o on o.id::text = e.id where o.id is null`,
			`/* verify.sent_not_in_outbox */
select h.saga_id, 'version ' || h.version || ' of the saga sent message ' || m.value || ', which is not in the outbox'
from saga_history h cross join {sent} left join outbox o on o.id::text = m.value
where m.value is not null and o.id is null and h.at >= {horizon}`,
			`/* verify.command_not_in_history */
with sent as materialized (select m.value as id from saga_history h cross join {sent})
select o.aggregateid, 'command ' || o.id::text || ' is in the outbox, and no saga has sent it'
from outbox o left join sent on sent.id = o.id::text
where sent.id is null and o.aggregatetype = 'saga' and o.headers->'headers'->>'replyto' is not null and o.created_at >= {horizon}`,
			`/* verify.reply_not_in_outbox */
select h.saga_id, 'version ' || h.version || ' of the saga was caused by message ' || h.message_id || ', which is not in the outbox'
from saga_history h left join outbox o on o.id::text = h.message_id
where h.message_id <> '' and o.id is null and h.at >= {horizon}`,
			"/* verify.unnumbered */ {unnumbered}",
		},
	}
}

// events counts the events of each order.
const events = `with event as (
    select aggregateid as id,
        sum(case type when 'order.placed' then 1 else 0 end) as placed,
        sum(case type when 'order.confirmed' then 1 else 0 end) as confirmed,
        sum(case type when 'order.cancelled' then 1 else 0 end) as cancelled,
        sum(case type when 'order.needs_operator' then 1 else 0 end) as needs_operator
    from outbox where topic = 'order-events' and aggregatetype = 'order' group by aggregateid
)
`
