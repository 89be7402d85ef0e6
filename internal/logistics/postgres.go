package logistics

import (
	"context"
	"maps"
	"slices"

	"github.com/mainstay-io/mainstay"
)

const (
	lockCarriersPostgres = `/* logistics.lock */
select country, capacity, booked, dispatched from carrier where country = any($1::text[]) order by country for update`
	createCarriersPostgres = `/* logistics.create */
insert into carrier (country, capacity, booked, dispatched)
select country, null, 0, 0 from unnest($1::text[]) with ordinality as c (country, n) order by n
on conflict (country) do nothing`
	bookingsPostgres = `/* logistics.bookings */
select order_id, country, status, tracking from booking where order_id = any($1::text[])`
	bookPostgres = `/* logistics.book */
insert into booking (order_id, country, status, tracking, updated_at)
select order_id, country, status, tracking, $5
from unnest($1::text[], $2::text[], $3::text[], $4::text[]) as b (order_id, country, status, tracking)`
	endPostgres = `/* logistics.end */
update booking b set status = e.status, updated_at = $3
from unnest($1::text[], $2::text[]) as e (order_id, status)
where b.order_id = e.order_id`
	// countPostgres locks in the order of the countries before it updates: the plan of the update alone decides its
	// order.
	countPostgres = `/* logistics.count */
with added as (
    select * from unnest($1::text[], $2::bigint[], $3::bigint[]) as a (country, booked, dispatched)
), locked as materialized (
    select country from carrier where country = any($1::text[]) order by country for update
)
update carrier c set booked = c.booked + a.booked, dispatched = c.dispatched + a.dispatched
from locked l join added a on a.country = l.country
where c.country = l.country`
	setCapacityPostgres = `/* logistics.set_capacity */ update carrier set capacity = $2 where country = $1`
)

type postgres struct{}

// lockCarriers makes carriers only when some are missing: for a country's first booking.
func (postgres) lockCarriers(ctx context.Context, tx mainstay.Tx, countries []string) (map[string]Carrier, error) {
	carriers, err := scanCarriers(tx.QueryContext(ctx, lockCarriersPostgres, countries))
	if err != nil || len(carriers) == len(countries) {
		return carriers, err
	}
	if _, err := tx.ExecContext(ctx, createCarriersPostgres, countries); err != nil {
		return nil, err
	}
	return scanCarriers(tx.QueryContext(ctx, lockCarriersPostgres, countries))
}

func (postgres) bookings(ctx context.Context, tx mainstay.Tx, orders []string) (map[string]booking, error) {
	return scanBookings(tx.QueryContext(ctx, bookingsPostgres, orders))
}

func (postgres) setCapacity(ctx context.Context, tx mainstay.Tx, country string, capacity *int64) error {
	_, err := tx.ExecContext(ctx, setCapacityPostgres, country, capacity)
	return err
}

func (postgres) save(tx mainstay.Tx, bookings []booking, loads map[string]load) {
	n := len(bookings)
	if n == 0 {
		return
	}
	orders, countries, statuses, trackings := make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	for i, b := range bookings {
		orders[i], countries[i], statuses[i], trackings[i] = b.order, b.country, b.status, b.tracking
	}
	if bookings[0].status == statusBooked {
		tx.Queue(bookPostgres, orders, countries, statuses, trackings, tx.Now())
	} else {
		tx.Queue(endPostgres, orders, statuses, tx.Now())
	}
	countries = slices.Sorted(maps.Keys(loads))
	booked, dispatched := make([]int64, len(countries)), make([]int64, len(countries))
	for i, c := range countries {
		booked[i], dispatched[i] = loads[c].booked, loads[c].dispatched
	}
	tx.Queue(countPostgres, countries, booked, dispatched)
}
