package verify

// sequences: the log is dense, and nobody is ahead of it.
func sequences() check {
	return check{
		name:    "sequences",
		summary: "%d {log|logs} with %d {message|messages}, numbered without gap or repetition",
		count:   `/* verify.sequences */ select count(*), coalesce(sum(last_sequence), 0)::bigint from log_head`,
		rules: []string{
			`/* verify.gap */
select e.topic || '/' || e.lane || '/' || e.sequence, 'comes after ' || e.before
from (select topic, lane, sequence, lag(sequence) over (partition by topic, lane order by sequence) as before from {log} x) e
where e.sequence <> e.before + 1`,
			"/* verify.numbered_twice */ {numbered twice}",
			"/* verify.gone */ {gone}",
			`/* verify.beginning */
with first as (select topic, lane, min(sequence) as sequence from {log} x group by topic, lane)
select h.topic || '/' || h.lane, 'the log begins at ' || coalesce(b.sequence, h.last_sequence + 1) || ', and is to be kept from ' || coalesce(f.first_sequence, 1)
from log_head h left join first b on b.topic = h.topic and b.lane = h.lane left join log_floor f on f.topic = h.topic and f.lane = h.lane
where coalesce(b.sequence, h.last_sequence + 1) > coalesce(f.first_sequence, 1)`,
			`/* verify.head */
with last as (select topic, lane, max(sequence) as sequence from {log} x group by topic, lane)
select l.topic || '/' || l.lane, 'the log ends at ' || l.sequence || ', its head says ' || coalesce(h.last_sequence::text, 'nothing')
from last l left join log_head h on h.topic = l.topic and h.lane = l.lane
where h.last_sequence is null or h.last_sequence <> l.sequence`,
			`/* verify.head_twice */
select topic || '/' || lane, 'the log has ' || count(*) || ' heads' from log_head group by topic, lane having count(*) > 1`,
			`/* verify.relay_twice */
select topic || '/' || lane, 'the relay has ' || count(*) || ' records of the log' from relay_progress group by topic, lane having count(*) > 1`,
			`/* verify.message_twice */
select id::text, 'this message is ' || count(*) || ' times in the outbox' from outbox group by id having count(*) > 1`,
			`/* verify.key_in_two_lanes */
select key, 'messages with this key are in lanes ' || min(lane) || ' and ' || max(lane)
from outbox group by key having min(lane) <> max(lane)`,
			`/* verify.unknown_lane */
select o.id::text, 'is in lane ' || o.lane || ' of ' || t.lanes from outbox o cross join meta t where o.lane < 0 or o.lane >= t.lanes`,
			`/* verify.relay_ahead */
select p.topic || '/' || p.lane, 'the relay has published up to ' || p.sequence || ' of ' || coalesce(h.last_sequence, 0)
from relay_progress p left join log_head h on h.topic = p.topic and h.lane = p.lane
where p.sequence > coalesce(h.last_sequence, 0)`,
			`/* verify.relay_elsewhere */
select p.topic || '/' || p.lane, 'the relay has published ' || p.message_id || ' as the last, which the log does not have; it has ' || m.id || ' as ' || p.sequence
from relay_progress p join {messages} m on m.topic = p.topic and m.lane = p.lane and m.sequence = p.sequence
where p.message_id <> '' and p.message_id <> m.id
  and not exists (select 1 from outbox o where o.id::text = p.message_id and o.topic = p.topic and o.lane = p.lane)`,
		},
	}
}

// reached is up to where place p has handled what its log is now. Of a log whose database was restored it may have handled
// more, in another one: it goes on where the later incarnation begins.
const reached = `coalesce((select min(i.first_sequence) - 1 from incarnation i where i.topic = p.topic and i.lane = p.lane
    and i.id > p.incarnation and i.first_sequence <= p.sequence), p.sequence)`

// places: every consumer has one in every lane of its topics, where the log has been.
func places() check {
	return check{
		name:    "places",
		summary: "%d {place|places} of %d {consumer|consumers}, none beyond its log; %d {message waits|messages wait} behind them",
		count: `/* verify.places */
select (select count(*) from place), (select count(*) from consumer),
    (select coalesce(sum(h.last_sequence - ` + reached + `), 0)::bigint from place p join log_head h on h.topic = p.topic and h.lane = p.lane
     where h.last_sequence > ` + reached + `)`,
		rules: []string{
			`/* verify.place_ahead */
select p.consumer || ' in ' || p.topic || '/' || p.lane, 'is at ' || p.sequence || ' of ' || coalesce(h.last_sequence, 0)
from place p left join log_head h on h.topic = p.topic and h.lane = p.lane
where ` + reached + ` > coalesce(h.last_sequence, 0)`,
			`/* verify.place_elsewhere */
with p as materialized (
    select p.consumer, p.topic, p.lane, p.incarnation, p.sequence, p.message_id, m.id as instead
    from place p join {messages} m on m.topic = p.topic and m.lane = p.lane and m.sequence = p.sequence
    where p.message_id <> '' and p.message_id <> m.id
)
select p.consumer || ' in ' || p.topic || '/' || p.lane, 'has handled ' || p.message_id || ' as ' || p.sequence || ', the log has ' || p.instead || ' there'
from p where p.sequence = ` + reached,
			`/* verify.place_missing */
select c.name || ' in ' || t.value, 'has ' || count(p.lane) || ' places in ' || max(l.lanes) || ' lanes'
from consumer c cross join {topics} cross join meta l
left join place p on p.consumer = c.name and p.topic = t.value and p.lane >= 0 and p.lane < l.lanes
group by c.name, t.value having count(p.lane) <> max(l.lanes)`,
			`/* verify.place_twice */
select consumer || ' in ' || topic || '/' || lane, 'has ' || count(*) || ' places' from place group by consumer, topic, lane having count(*) > 1`,
			`/* verify.parked_ahead */
select k.message_id, k.consumer || ' has parked it at ' || k.sequence || ' of ' || k.topic || '/' || k.lane || ', and is at ' || coalesce(p.sequence, 0)
from parked k left join place p on p.consumer = k.consumer and p.topic = k.topic and p.lane = k.lane
where k.sequence > coalesce(p.sequence, 0)`,
			`/* verify.parked_elsewhere */
select k.message_id, k.consumer || ' has parked it as ' || k.sequence || ' of ' || k.topic || '/' || k.lane || ', the log has ' || m.id || ' there'
from parked k join {messages} m on m.topic = k.topic and m.lane = k.lane and m.sequence = k.sequence
where k.message_id <> m.id`,
		},
	}
}

// commands are the sagas' commands that every consumer of their topic has passed.
const commands = `with command as materialized (
    select m.id, m.topic, m.lane, m.sequence, m.key, m.headers->'headers'->>'sagaop' as op,
        m.headers->'headers'->>'sagaid' || '/' || (m.headers->'headers'->>'sagastep') as step_key
    from {messages} m where m.headers->'headers'->>'replyto' is not null and m.headers->'headers'->>'sagaid' is not null
        and m.created_at >= {horizon}
), passed as materialized (
    select topic, lane, min(` + reached + `) as sequence from place p group by topic, lane
)
`

// effects: what a consumer has passed has had its effect, is parked, or is somebody's case; and nothing twice.
func effects() check {
	return check{
		name:    "effects",
		summary: "%d {command|commands} and %d {outcome|outcomes}; each command that was passed has its outcome or is parked, and is answered once",
		count: `/* verify.effects */
select (select count(*) from outbox where aggregatetype = 'saga' and headers->'headers'->>'replyto' is not null),
    (select count(*) from barrier)`,
		rules: []string{
			"/* verify.command_without_effect */\n" + commands + `select c.id, 'command ' || c.op || ' of ' || c.step_key || ' was passed, and has neither an outcome nor is it parked'
from command c join passed p on p.topic = c.topic and p.lane = c.lane and c.sequence <= p.sequence
left join barrier b on b.step_key = c.step_key and b.op = c.op
left join parked k on k.step_key = c.step_key and (k.op = c.op or c.op = 'do')
left join dead_letter d on d.topic = c.topic and d.key = c.key and d.state = 'discarded'
left join dead_letter r on r.consumer = 'relay' and r.topic = c.topic and r.lane = c.lane and r.sequence = c.sequence
where b.step_key is null and k.step_key is null and d.key is null
    -- what the broker refused, a reader in another database has stepped over
    and (r.key is null or not exists (select 1 from place e where e.topic = c.topic and e.lane = c.lane and e.elsewhere))`,
			`/* verify.outcome_without_message */
select b.step_key, 'the ' || b.op || ' of this step was caused by message ' || b.message_id || ', which is not in the outbox'
from barrier b left join outbox o on o.id::text = b.message_id where o.id is null and b.created_at >= {horizon}`,
			`/* verify.reply_without_command */
select r.id::text, 'the reply answers ' || coalesce(r.headers->>'causationid', 'nothing') || ', which is no command'
from outbox r left join outbox c on c.id::text = r.headers->>'causationid' and c.headers->'headers'->>'replyto' is not null
where r.headers->'headers'->>'outcome' is not null and c.id is null and r.created_at >= {horizon}`,
			`/* verify.answered_twice */
select r.headers->>'causationid', 'the command has ' || count(*) || ' final answers'
from outbox r where r.headers->'headers'->>'outcome' <> 'failed'
group by r.headers->>'causationid' having count(*) > 1`,
			`/* verify.two_participants */
select b.step_key, count(*) || ' participants have done the ' || b.op || ' of this step'
from barrier b group by b.step_key, b.op having count(*) > 1`,
		},
	}
}

// deadLetters: what is out of its lane is a case, and every case is accounted for.
func deadLetters() check {
	return check{
		name:    "dead letters",
		summary: "%d entered: %d open, %d replaying, %d resolved, %d superseded, %d discarded; %d {message is|messages are} parked",
		count: `/* verify.dead_letters */
select count(*), coalesce(sum(case state when 'open' then 1 else 0 end), 0), coalesce(sum(case state when 'replaying' then 1 else 0 end), 0),
    coalesce(sum(case state when 'resolved' then 1 else 0 end), 0), coalesce(sum(case state when 'superseded' then 1 else 0 end), 0),
    coalesce(sum(case state when 'discarded' then 1 else 0 end), 0), (select count(*) from parked) from dead_letter`,
		rules: []string{
			`/* verify.message_without_case */
select k.message_id, 'is parked as ' || k.state || ' at ' || k.consumer || ', and the case is ' || coalesce(d.state, 'not there')
from parked k
left join dead_letter d on d.consumer = k.consumer and d.topic = k.topic and d.lane = k.lane and d.sequence = k.sequence
where (k.state = 'dead' and (d.state is null or d.state <> 'open')) or (k.state = 'replay' and (d.state is null or d.state <> 'replaying'))`,
			`/* verify.case_without_message */
select d.message_id, 'the case is ' || d.state || ' at ' || d.consumer || ', and the message is ' || coalesce(k.state, 'not parked')
from dead_letter d
left join parked k on k.consumer = d.consumer and k.topic = d.topic and k.lane = d.lane and k.sequence = d.sequence
where d.consumer <> 'relay' -- what the broker refuses was never taken out of a lane
  and ((d.state = 'open' and (k.state is null or k.state <> 'dead')) or (d.state = 'replaying' and k.state is null))`,
			`/* verify.dead_and_done */
select d.message_id, 'is an open dead letter of ' || d.consumer || ', and has had its effect'
from dead_letter d
join parked k on k.consumer = d.consumer and k.topic = d.topic and k.lane = d.lane and k.sequence = d.sequence
join barrier b on b.participant = k.consumer and b.step_key = k.step_key and b.op = k.op
where d.state = 'open'`,
		},
	}
}
