package logistics

import (
	"context"
	"encoding/json"
	"maps"
	"slices"

	"github.com/mainstay-io/mainstay"
)

const (
	createCarrierSQLite = `/* logistics.create */
insert into carrier (country, capacity, booked, dispatched) values ($1, null, 0, 0) on conflict (country) do nothing`
	// There is one writer: to read in its transaction is to lock.
	lockCarriersSQLite = `/* logistics.lock */
select country, capacity, booked, dispatched from carrier where country in (select value from json_each($1))`
	bookingsSQLite = `/* logistics.bookings */
select order_id, country, status, tracking from booking where order_id in (select value from json_each($1))`
	bookSQLite = `/* logistics.book */
insert into booking (order_id, country, status, tracking, updated_at) values ($1, $2, $3, $4, $5)`
	endSQLite = `/* logistics.end */
update booking set status = $1, updated_at = $2 where order_id = $3`
	countSQLite = `/* logistics.count */
update carrier set booked = booked + $1, dispatched = dispatched + $2 where country = $3`
	setCapacitySQLite = `/* logistics.set_capacity */ update carrier set capacity = $1 where country = $2`
)

type sqlite struct{}

func (sqlite) lockCarriers(ctx context.Context, tx mainstay.Tx, countries []string) (map[string]Carrier, error) {
	carriers, err := scanCarriers(tx.QueryContext(ctx, lockCarriersSQLite, list(countries)))
	if err != nil {
		return nil, err
	}
	for _, country := range countries {
		if _, there := carriers[country]; there {
			continue
		}
		if _, err := tx.ExecContext(ctx, createCarrierSQLite, country); err != nil {
			return nil, err
		}
		carriers[country] = Carrier{}
	}
	return carriers, nil
}

func (sqlite) bookings(ctx context.Context, tx mainstay.Tx, orders []string) (map[string]booking, error) {
	return scanBookings(tx.QueryContext(ctx, bookingsSQLite, list(orders)))
}

func (sqlite) setCapacity(ctx context.Context, tx mainstay.Tx, country string, capacity *int64) error {
	_, err := tx.ExecContext(ctx, setCapacitySQLite, capacity, country)
	return err
}

func (sqlite) save(tx mainstay.Tx, bookings []booking, loads map[string]load) {
	at := tx.Now().UnixMicro()
	for _, b := range bookings {
		if b.status == statusBooked {
			tx.Queue(bookSQLite, b.order, b.country, b.status, b.tracking, at)
		} else {
			tx.Queue(endSQLite, b.status, at, b.order)
		}
	}
	for _, country := range slices.Sorted(maps.Keys(loads)) {
		tx.Queue(countSQLite, loads[country].booked, loads[country].dispatched, country)
	}
}

// list is how a list of strings is handed to json_each.
func list(values []string) string {
	b, _ := json.Marshal(values) // strings cannot fail
	return string(b)
}
