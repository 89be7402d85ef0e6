package verify

// stepwise is what the barrier knows of each order: the outcome of each step in both directions.
const stepwise = `with ` + givenUp + `, known as materialized (
    select s.id as order_id, s.status, substr(b.step_key, 38) as step, b.op, b.outcome, b.created_at
    from barrier b join saga s on s.id = substr(b.step_key, 1, 36) and s.definition = 'order'
), o as materialized (
    select order_id, max(status) as status,
        max(case when step = 'reserve' and op = 'do' then outcome end) as reserve, max(case when step = 'reserve' and op = 'undo' then outcome end) as release,
        max(case when step = 'authorise' and op = 'do' then outcome end) as authorise, max(case when step = 'authorise' and op = 'undo' then outcome end) as void,
        max(case when step = 'book' and op = 'do' then outcome end) as book, max(case when step = 'book' and op = 'undo' then outcome end) as cancel,
        max(case when step = 'capture' and op = 'do' then outcome end) as capture,
        max(case when step = 'commit' and op = 'do' then outcome end) as committed,
        max(case when step = 'dispatch' and op = 'do' then outcome end) as dispatch
    from known group by order_id
)
`

// barrier: every outcome that was booked has its effect in the ledgers, and there is no other effect; nothing is done
// after it was undone. Outcomes are removed together with their saga; then the order's end tells what its effects must
// be (see ends and money).
func barrier() check {
	return check{
		name:    "barrier",
		summary: "%d {outcome|outcomes} of steps, each with exactly its effect; nothing was done after it was undone",
		count:   `/* verify.barrier */ select count(*) from barrier`,
		rules: []string{
			`/* verify.undo_without_do */
select u.step_key, 'was undone, and nothing keeps its action from coming after all'
from barrier u left join barrier d on d.participant = u.participant and d.step_key = u.step_key and d.op = 'do'
where u.op = 'undo' and d.step_key is null`,
			`/* verify.do_after_undo */
select d.step_key, 'was done after it was undone'
from barrier d join barrier u on u.participant = d.participant and u.step_key = d.step_key and u.op = 'undo'
where d.op = 'do' and d.outcome = 'done' and d.created_at > u.created_at`,
			`/* verify.undo_of_nothing */
select d.step_key, 'was done, and its compensation found nothing to undo'
from barrier d join barrier u on u.participant = d.participant and u.step_key = d.step_key and u.op = 'undo'
where d.op = 'do' and d.outcome = 'done' and u.outcome = 'void'`,
			"/* verify.stock_effect */\n" + stepwise + `, moved as materialized (
    select order_id, max(case kind when 'reserve' then 1 else 0 end) as reserved, max(case kind when 'release' then 1 else 0 end) as released,
        max(case kind when 'ship' then 1 else 0 end) as shipped
    from stock_movement where order_id is not null group by order_id
), ids as materialized (select order_id from o union select order_id from moved)
select ids.order_id, 'reserve is ' || coalesce(o.reserve, 'open') || ', release ' || coalesce(o.release, 'open') || ', commit ' || coalesce(o.committed, 'open')
    || '; the movements of the order do not say so'
from ids join saga s on s.id = ids.order_id left join o on o.order_id = ids.order_id left join moved e on e.order_id = ids.order_id
where case when o.reserve = 'done' then 1 else 0 end <> coalesce(e.reserved, 0)
    or case when o.release = 'done' then 1 else 0 end <> coalesce(e.released, 0)
    or case when o.committed = 'done' then 1 else 0 end <> coalesce(e.shipped, 0)`,
			"/* verify.money_effect */\n" + stepwise + `, e as materialized (select order_id, status from payment), ids as materialized (select order_id from o union select order_id from e)
select ids.order_id, 'authorise is ' || coalesce(o.authorise, 'open') || ', void ' || coalesce(o.void, 'open') || ', capture ' || coalesce(o.capture, 'open')
    || '; the payment is ' || coalesce(e.status, 'not there')
from ids join saga s on s.id = ids.order_id left join o on o.order_id = ids.order_id left join e on e.order_id = ids.order_id
where case
    when o.capture = 'done' then case when e.status = 'captured' then 0 else 1 end
    when o.void = 'done' then case when e.status in ('authorised', 'captured') then 1 else 0 end
    when o.authorise = 'done' then case when e.status = 'authorised' then 0 else 1 end
    when o.authorise = 'rejected' then case when e.status = 'declined' then 0 else 1 end
    else case when e.status is null then 0 else 1 end end = 1`,
			"/* verify.shipment_effect */\n" + stepwise + `, e as materialized (select order_id, status from booking), ids as materialized (select order_id from o union select order_id from e)
select ids.order_id, 'book is ' || coalesce(o.book, 'open') || ', cancel ' || coalesce(o.cancel, 'open') || ', dispatch ' || coalesce(o.dispatch, 'open')
    || '; the booking is ' || coalesce(e.status, 'not there')
from ids join saga s on s.id = ids.order_id left join o on o.order_id = ids.order_id left join e on e.order_id = ids.order_id
where coalesce(e.status, '') <> case when o.dispatch = 'done' then 'dispatched' when o.cancel = 'done' then 'cancelled'
    when o.book = 'done' then 'booked' else '' end`,
			"/* verify.compensated */\n" + stepwise + `select k.order_id, 'the saga is compensated, and step ' || k.step || ' was done and not undone'
from known k left join known u on u.order_id = k.order_id and u.step = k.step and u.op = 'undo' and u.outcome = 'done'
where k.status = 'compensated' and k.op = 'do' and k.outcome = 'done' and u.step is null and k.order_id not in (select id from given_up)`,
			"/* verify.completed */\n" + stepwise + `select s.id, 'the saga is completed, and not all of its steps were done'
from saga s left join o on o.order_id = s.id
where s.definition = 'order' and s.status = 'completed' and s.id not in (select id from given_up)
    and (o.order_id is null or coalesce(o.reserve, '') <> 'done' or coalesce(o.authorise, '') <> 'done' or coalesce(o.book, '') <> 'done'
        or coalesce(o.capture, '') <> 'done' or coalesce(o.committed, '') <> 'done' or coalesce(o.dispatch, '') <> 'done')`,
		},
	}
}
