package verify

// givenUp are the orders of which an operator has decided a step: what is left of it is that person's business.
const givenUp = `given_up as materialized (
    select id from saga where definition = 'order' and (state like '%"code":"skipped"%' or state like '%"code":"marked_done"%')
)
`

// ends: an order has one end, and that is its saga's.
func ends() check {
	return check{
		name:    "one end",
		summary: "%d {order|orders}: %d confirmed, %d cancelled, %d {needs|need} an operator, %d pending; none hangs",
		count: `/* verify.ends */
select count(*), coalesce(sum(case status when 'confirmed' then 1 else 0 end), 0), coalesce(sum(case status when 'cancelled' then 1 else 0 end), 0),
    coalesce(sum(case status when 'needs_operator' then 1 else 0 end), 0), coalesce(sum(case status when 'pending' then 1 else 0 end), 0)
from orders`,
		rules: []string{
			`/* verify.status */
select o.id::text, 'the order is ' || o.status || ', its saga ' || s.status
from orders o join saga s on s.id = o.id::text and s.definition = 'order'
where o.status <> case s.status when 'completed' then 'confirmed' when 'compensated' then 'cancelled'
    when 'needs_operator' then 'needs_operator' else 'pending' end`,
			`/* verify.reason */
select o.id::text, 'the order is cancelled, and nothing says why' from orders o where o.status = 'cancelled' and o.reason_code = ''`,
			`/* verify.hanging */
select s.id, 'the saga is ' || s.status || ', and nothing is due, parked or on its way'
from saga s left join parked k on k.key = s.key
where s.definition = 'order' and s.status in ('running', 'compensating') and s.due_at is null and k.key is null
    and not exists (select 1 from place p join log_head h on h.topic = p.topic and h.lane = p.lane
        where p.lane = s.lane and ` + reached + ` < h.last_sequence)
    and s.updated_at < {recent}`,
		},
	}
}

// stock: the units are where the movements say, and where the orders' ends say.
func stock() check {
	return check{
		name:    "stock",
		summary: "%d {SKU|SKUs} and %d {movement|movements}: every unit is on hand, reserved or shipped, and ended orders hold none",
		count:   `/* verify.stock */ select (select count(*) from stock), (select count(*) from stock_movement)`,
		rules: []string{
			`/* verify.stock_sum */
with moved as materialized (
    select sku, sum(case kind when 'receive' then quantity when 'adjust' then quantity when 'release' then quantity when 'reserve' then -quantity else 0 end) as on_hand,
        sum(case kind when 'reserve' then quantity when 'release' then -quantity when 'ship' then -quantity else 0 end) as reserved,
        sum(case kind when 'ship' then quantity else 0 end) as shipped
    from stock_movement group by sku
), skus as materialized (select sku from stock union select sku from stock_movement)
select skus.sku, 'the stock has ' || coalesce(t.on_hand, 0) || ' on hand, ' || coalesce(t.reserved, 0) || ' reserved, ' || coalesce(t.shipped, 0)
    || ' shipped; the movements say ' || coalesce(m.on_hand, 0) || ', ' || coalesce(m.reserved, 0) || ', ' || coalesce(m.shipped, 0)
from skus left join stock t on t.sku = skus.sku left join moved m on m.sku = skus.sku
where coalesce(t.on_hand, 0) <> coalesce(m.on_hand, 0) or coalesce(t.reserved, 0) <> coalesce(m.reserved, 0) or coalesce(t.shipped, 0) <> coalesce(m.shipped, 0)`,
			`/* verify.stock_negative */
select sku, 'has ' || on_hand || ' on hand, ' || reserved || ' reserved, ' || shipped || ' shipped'
from stock where on_hand < 0 or reserved < 0 or shipped < 0`,
			"/* verify.stock_confirmed */\n" + held + `, wanted as materialized (
    select o.id::text as order_id, cast(l.value->>'sku' as text) as sku, sum((l.value->>'quantity')::bigint) as quantity
    from orders o cross join {lines} where o.status = 'confirmed' group by 1, 2
), got as materialized (
    select h.order_id, h.sku, h.shipped from held h join orders o on o.id::text = h.order_id where o.status = 'confirmed'
), items as materialized (select order_id, sku from wanted union select order_id, sku from got)
select n.order_id, 'the order wants ' || coalesce(w.quantity, 0) || ' of ' || n.sku || ', and ' || coalesce(g.shipped, 0) || ' were shipped'
from items n left join wanted w on w.order_id = n.order_id and w.sku = n.sku left join got g on g.order_id = n.order_id and g.sku = n.sku
where coalesce(w.quantity, 0) <> coalesce(g.shipped, 0)
    and n.order_id not in (select id from given_up)`,
			"/* verify.stock_held */\n" + held + `select h.order_id, 'the order is ' || coalesce(o.status, 'not there') || ', holds ' || h.reserved || ' of ' || h.sku || ', and ' || h.shipped || ' were shipped'
from held h left join orders o on o.id::text = h.order_id
where (o.id is null or h.reserved < 0 or (o.status = 'confirmed' and h.reserved <> 0) or (o.status = 'cancelled' and (h.reserved <> 0 or h.shipped <> 0)))
    and h.order_id not in (select id from given_up)`,
		},
	}
}

// held is what each order has of a SKU.
const held = `with ` + givenUp + `, held as materialized (
    select order_id, sku, sum(case kind when 'reserve' then quantity else -quantity end) as reserved,
        sum(case kind when 'ship' then quantity else 0 end) as shipped
    from stock_movement where order_id is not null group by order_id, sku
)
`

// shipments: confirmed orders were dispatched, cancelled ones were not.
func shipments() check {
	return check{
		name:    "shipments",
		summary: "%d {booking|bookings} with %d {carrier|carriers}; each confirmed order was dispatched, no cancelled one is booked",
		count:   `/* verify.shipments */ select (select count(*) from booking), (select count(*) from carrier)`,
		rules: []string{
			"/* verify.shipment_of_confirmed */\nwith " + givenUp + `select o.id::text, 'the order is confirmed, its booking ' || coalesce(b.status, 'is not there')
from orders o left join booking b on b.order_id = o.id::text
where o.status = 'confirmed' and (b.status is null or b.status <> 'dispatched') and o.id::text not in (select id from given_up)`,
			"/* verify.shipment_of_other */\nwith " + givenUp + `select b.order_id, 'the order is ' || coalesce(o.status, 'not there') || ', its booking ' || b.status
from booking b left join orders o on o.id::text = b.order_id
where (o.id is null or (o.status = 'cancelled' and b.status <> 'cancelled')) and b.order_id not in (select id from given_up)`,
			`/* verify.carrier */
with made as materialized (
    select country, sum(case status when 'booked' then 1 else 0 end) as booked, sum(case status when 'dispatched' then 1 else 0 end) as dispatched
    from booking group by country
), countries as materialized (select country from carrier union select country from booking)
select n.country, 'the carrier has ' || coalesce(c.booked, 0) || ' booked and ' || coalesce(c.dispatched, 0)
    || ' dispatched; the bookings say ' || coalesce(m.booked, 0) || ' and ' || coalesce(m.dispatched, 0)
from countries n left join carrier c on c.country = n.country left join made m on m.country = n.country
where coalesce(c.booked, 0) <> coalesce(m.booked, 0) or coalesce(c.dispatched, 0) <> coalesce(m.dispatched, 0)`,
			`/* verify.tracking */
select tracking, count(*) || ' bookings have this number' from booking group by tracking having count(*) > 1`,
		},
	}
}
