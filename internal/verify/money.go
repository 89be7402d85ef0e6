package verify

// money: the books balance, and say what the orders' ends say.
func money() check {
	return check{
		name:    "money",
		summary: "%d {payment|payments} with %d {entry|entries} that sum to zero; each confirmed order is paid once, no cancelled one holds money",
		count:   `/* verify.money */ select (select count(*) from payment), (select count(*) from payment_entry)`,
		rules: []string{
			`/* verify.balance */
select order_id, 'the entries of ' || kind || ' sum to ' || sum(amount) || ' ' || min(currency) || ' in ' || count(*) || ' legs'
from payment_entry group by order_id, kind having sum(amount) <> 0 or count(*) <> 2 or min(currency) <> max(currency)`,
			`/* verify.books */
with booked as materialized (
    select order_id, sum(case when account = 'customer_hold' then amount else 0 end) as hold,
        sum(case when account = 'merchant' then amount else 0 end) as merchant,
        max(case kind when 'authorise' then 1 else 0 end) as authorised, max(case kind when 'capture' then 1 else 0 end) as captured,
        max(case kind when 'void' then 1 else 0 end) as voided, max(abs(amount)) as largest, max(currency) as currency
    from payment_entry group by order_id
), ids as materialized (select order_id from payment union select order_id from payment_entry)
select ids.order_id, 'the payment is ' || coalesce(p.status, 'not there') || ' over ' || coalesce(p.amount, 0) || ', the entries hold '
    || coalesce(b.hold, 0) || ' and have paid ' || coalesce(b.merchant, 0)
from ids left join payment p on p.order_id = ids.order_id left join booked b on b.order_id = ids.order_id
where p.order_id is null
    or coalesce(b.authorised, 0) <> case when p.status = 'declined' then 0 else 1 end
    or coalesce(b.captured, 0) <> case when p.status = 'captured' then 1 else 0 end
    or coalesce(b.voided, 0) <> case when p.status = 'voided' then 1 else 0 end
    or coalesce(b.hold, 0) <> case when p.status = 'authorised' then p.amount else 0 end
    or coalesce(b.merchant, 0) <> case when p.status = 'captured' then p.amount else 0 end
    or (b.order_id is not null and (b.currency <> p.currency or b.largest <> p.amount))`,
			"/* verify.gateway_missing */ {gateway missing}",
			"/* verify.paid */\nwith " + givenUp + `select o.id::text, 'the order is confirmed over ' || o.total || ' ' || o.currency || ', its payment is ' || coalesce(p.status, 'not there')
    || ' over ' || coalesce(p.amount, 0) || ' ' || coalesce(p.currency, '')
from orders o left join payment p on p.order_id = o.id::text
where o.status = 'confirmed' and (p.order_id is null or p.status <> 'captured' or p.amount <> o.total or p.currency <> o.currency)
    and o.id::text not in (select id from given_up)`,
			"/* verify.unpaid */\nwith " + givenUp + `select p.order_id, 'the order is ' || coalesce(o.status, 'not there') || ', its payment ' || p.status
from payment p left join orders o on o.id::text = p.order_id
where (o.id is null or (o.status = 'cancelled' and p.status in ('authorised', 'captured'))) and p.order_id not in (select id from given_up)`,
		},
	}
}

func noGateway(s *session) string { return s.noGateway }

// gateway compares the books with the gateway's own store, which is read after them: the gateway acts first, so it is
// at least as far. What is captured or voided there stays so.
func gateway() check {
	return check{
		name:    "gateway",
		summary: "%d {authorisation|authorisations} at the payment gateway; all agree with the books, and none holds money of a cancelled order",
		skip:    noGateway,
		count:   `/* verify.gateway */ select count(*) from sandbox.authorisation`,
		rules: []string{
			`/* verify.gateway_books */
select p.order_id, 'the payment is ' || p.status || ' over ' || p.amount || ' ' || p.currency || ', at the gateway it is '
    || coalesce(a.status, 'not there') || ' over ' || coalesce(a.amount, 0) || ' ' || coalesce(a.currency, '')
from payment p left join sandbox.authorisation a on a.key = p.order_id || '/authorise'
where case p.status
    when 'declined' then case when a.status in ('authorised', 'captured') then 1 else 0 end
    else case when a.amount = p.amount and a.currency = p.currency and (
            (p.status = 'captured' and a.status = 'captured' and a.captured = p.amount and a.voided = 0)
            or (p.status = 'voided' and a.status = 'voided' and a.voided = p.amount and a.captured = 0)
            or (p.status = 'authorised' and a.status in ('authorised', 'captured', 'voided')))
        then 0 else 1 end
    end = 1`,
			"/* verify.gateway_cancelled */\nwith " + givenUp + `select o.id::text, 'the order is cancelled, and the gateway has ' || a.amount || ' ' || a.currency || ' of it ' || a.status
from orders o join sandbox.authorisation a on a.order_ref = o.id::text
where o.status = 'cancelled' and a.status in ('authorised', 'captured') and o.id::text not in (select id from given_up)`,
			"/* verify.gateway_confirmed */\nwith " + givenUp + `, taken as (
    select order_ref, count(*) as times, sum(captured) as captured, min(currency) as currency
    from sandbox.authorisation where status in ('authorised', 'captured') group by order_ref
)
select o.id::text, 'the order is confirmed over ' || o.total || ' ' || o.currency || ', and the gateway has taken ' || coalesce(t.captured, 0)
    || ' ' || coalesce(t.currency, '') || ' in ' || coalesce(t.times, 0) || ' authorisations'
from orders o left join taken t on t.order_ref = o.id::text
where o.status = 'confirmed' and (t.times is null or t.times <> 1 or t.captured <> o.total or t.currency <> o.currency)
    and o.id::text not in (select id from given_up)`,
			`/* verify.gateway_twice */
select order_ref, 'the gateway holds or has taken money ' || count(*) || ' times' from sandbox.authorisation
where status in ('authorised', 'captured') group by order_ref having count(*) > 1`,
		},
	}
}

// gatewayAccounts compares the other way round: the gateway's store is read first, so that every order in it was
// accepted before.
func gatewayAccounts() check {
	return check{
		name:         "gateway accounts",
		summary:      "%d {authorisation|authorisations}, each of an order that exists",
		gatewayFirst: true,
		skip:         noGateway,
		count:        `/* verify.gateway_accounts */ select count(*) from sandbox.authorisation`,
		rules: []string{
			`/* verify.gateway_stranger */
select a.order_ref, 'the gateway has ' || a.amount || ' ' || a.currency || ' ' || a.status || ', and there is no such order'
from sandbox.authorisation a left join orders o on o.id::text = a.order_ref where o.id is null`,
			`/* verify.gateway_key */
select a.order_ref, 'the gateway knows the order under key ' || a.key from sandbox.authorisation a where a.key <> a.order_ref || '/authorise'`,
			`/* verify.gateway_capture */
select a.order_ref, 'the amount was captured, and no capture says so'
from sandbox.authorisation a left join sandbox.capture c on c.key = a.order_ref || '/capture' and c.code = ''
where a.status = 'captured' and c.key is null
union all
select c.order_ref, 'a capture was answered as done, and the authorisation is ' || coalesce(a.status, 'not there')
from sandbox.capture c left join sandbox.authorisation a on a.key = c.order_ref || '/authorise'
where c.code = '' and (a.status is null or a.status <> 'captured')`,
		},
	}
}
