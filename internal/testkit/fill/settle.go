package fill

import (
	"context"
	"fmt"
	"time"
)

// position is the last one of the outbox before a chunk.
func (f *filler) position(ctx context.Context) (last int64, err error) {
	err = f.conn.QueryRowContext(ctx, "select coalesce(max(position), 0) from outbox").Scan(&last)
	return last, err
}

// alongside is how many messages of a log a round numbers in a busy system, of its many logs.
const alongside = 2

const (
	numberPostgres = `/* fill.number */
with fresh as materialized (
    select topic, lane, position, created_at, row_number() over (partition by topic, lane order by position) - 1 as n
    from outbox where position > $1
), logged as (
    insert into log (topic, lane, first_sequence, last_sequence, incarnation, oldest, newest, positions)
    select f.topic, f.lane, coalesce(h.last_sequence, 0) + min(n) + 1, coalesce(h.last_sequence, 0) + max(n) + 1,
        (select incarnation from sequencer_state), min(created_at), max(created_at), array_agg(position order by position)
    from fresh f left join log_head h on h.topic = f.topic and h.lane = f.lane
    group by f.topic, f.lane, h.last_sequence, n / $2::int
    order by 1, 2, 3
), ends as materialized (
    select topic, lane, count(*) as n from fresh group by topic, lane
), grown as (
    update log_head h set last_sequence = h.last_sequence + e.n from ends e where h.topic = e.topic and h.lane = e.lane
)
insert into log_head (topic, lane, last_sequence)
select topic, lane, n from ends e where not exists (select from log_head h where h.topic = e.topic and h.lane = e.lane)`
	numberSQLite = `/* fill.number */
insert into log_head (topic, lane, last_sequence) select topic, lane, max(sequence) from outbox where position > $1 group by topic, lane
on conflict (topic, lane) do update set last_sequence = excluded.last_sequence`
)

// number gives the messages behind a position their sequences, or notes those that they have.
func (f *filler) number(ctx context.Context, after int64) error {
	if f.sqlite() {
		return f.exec(ctx, numberSQLite, after)
	}
	return f.exec(ctx, numberPostgres, after, alongside)
}

// ends are the last messages of all logs.
const (
	endsPostgres = `
select h.topic, h.lane, h.last_sequence as sequence, l.incarnation, o.id::text as id
from log_head h join log l on l.topic = h.topic and l.lane = h.lane and l.last_sequence = h.last_sequence
join outbox o on o.position = l.positions[cardinality(l.positions)]`
	endsSQLite = `
select h.topic, h.lane, h.last_sequence as sequence, 1 as incarnation, o.id
from log_head h join outbox o on o.topic = h.topic and o.lane = h.lane and o.sequence = h.last_sequence`
	handled = `/* fill.handled */
update place as p set sequence = e.sequence, incarnation = e.incarnation, message_id = e.id
from (%s) as e where p.topic = e.topic and p.lane = e.lane`
	published = `/* fill.published */
update relay_progress as p set sequence = e.sequence, incarnation = e.incarnation, message_id = e.id
from (%s) as e where p.topic = e.topic and p.lane = e.lane`
	publishedNew = `/* fill.published_new */
insert into relay_progress (topic, lane, incarnation, sequence, message_id, broker_position, epoch)
select topic, lane, incarnation, sequence, id, 1, 1 from (%s) as e where exists (select 1 from relay_progress)
and not exists (select 1 from relay_progress p where p.topic = e.topic and p.lane = e.lane)`
	seen = `/* fill.seen */
update sequencer_state set snapshot = pg_current_snapshot(), upper = null, after_position = null, version = version + 1`
	forgotten = `/* fill.forgotten */
insert into cleaned as c (name, before, removed) values ($1, $2, $3)
on conflict (name) do update set before = excluded.before, removed = c.removed + excluded.removed`
)

// settle makes everything that there is one of what the copies have made of it.
func (f *filler) settle(ctx context.Context) error {
	if err := f.settleStock(ctx); err != nil {
		return err
	}
	if err := f.settleCarriers(ctx); err != nil {
		return err
	}
	if f.Cleaned {
		return f.forget(ctx)
	}
	ends := f.say(endsPostgres, endsSQLite)
	for _, query := range []string{handled, published, publishedNew} {
		if err := f.exec(ctx, fmt.Sprintf(query, ends)); err != nil {
			return err
		}
	}
	if f.sqlite() {
		return nil
	}
	return f.exec(ctx, seen) // the rows were committed before this transaction
}

// forget notes what the cleaner would have removed.
func (f *filler) forget(ctx context.Context) error {
	const day = 24 * time.Hour
	end := f.From.Add(time.Duration(f.Orders) * f.Every).Add(time.Minute).UTC() // a minute after the last one was placed
	for name, before := range map[string]time.Time{"outbox": end.Truncate(day).Add(day), "saga": end, "idempotency": end} {
		var at any = before
		if f.sqlite() {
			at = before.UnixMicro()
		}
		if err := f.exec(ctx, forgotten, name, at, f.Orders); err != nil {
			return err
		}
	}
	return nil
}

// copiesOf is how many copies there are of a template.
func (f *filler) copiesOf(template int) int64 {
	n := len(f.Templates)
	return int64((f.Orders + n - 1 - template) / n)
}

// sums reads what each template has moved, and gives it for all copies.
func (f *filler) sums(ctx context.Context, query string) (map[string]int64, error) {
	rows, err := f.conn.QueryContext(ctx, query)
	if err != nil {
		return nil, err
	}
	defer rows.Close() // rows.Err tells
	sums := map[string]int64{}
	for rows.Next() {
		var template int
		var name string
		var each int64
		if err := rows.Scan(&template, &name, &each); err != nil {
			return nil, err
		}
		sums[name] += each * f.copiesOf(template)
	}
	return sums, rows.Err()
}

// settleStock receives what the copies have shipped.
func (f *filler) settleStock(ctx context.Context) error {
	shipped, err := f.sums(ctx, `select template, sku, sum(cast(quantity as bigint)) from fill_stock_movement where kind = 'ship' group by template, sku`)
	if err != nil {
		return err
	}
	for sku, n := range shipped {
		const receive = `insert into stock_movement (order_id, sku, kind, quantity, created_at)
select null, $1, 'receive', $2, created_at from stock_movement where order_id is not null order by id limit 1`
		if err := f.exec(ctx, receive, sku, n); err != nil {
			return err
		}
		if err := f.exec(ctx, "update stock set shipped = shipped + $2 where sku = $1", sku, n); err != nil {
			return err
		}
	}
	return nil
}

func (f *filler) settleCarriers(ctx context.Context) error {
	dispatched, err := f.sums(ctx, `select template, country, count(*) from fill_booking where status = 'dispatched' group by template, country`)
	if err != nil {
		return err
	}
	for country, n := range dispatched {
		if err := f.exec(ctx, "update carrier set dispatched = dispatched + $2 where country = $1", country, n); err != nil {
			return err
		}
	}
	return nil
}
