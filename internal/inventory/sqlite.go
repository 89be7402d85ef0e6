package inventory

import (
	"context"
	"database/sql"
	"encoding/json"
	"maps"
	"slices"

	"github.com/mainstay-io/mainstay"
)

const (
	// There is one writer: to read in its transaction is to lock.
	lockStockSQLite = `/* inventory.lock */
select sku, on_hand, reserved, shipped from stock where sku in (select value from json_each($1))`
	reservationsSQLite = `/* inventory.reservations */
select order_id, sku, quantity from stock_movement
where order_id in (select value from json_each($1)) and kind = 'reserve'
order by order_id, sku`
	recordSQLite = `/* inventory.record */
insert into stock_movement (order_id, sku, kind, quantity, created_at) values ($1, $2, $3, $4, $5)`
	moveSQLite = `/* inventory.move */
update stock set on_hand = on_hand + $1, reserved = reserved + $2, shipped = shipped + $3 where sku = $4`
	createSQLite = `/* inventory.create */
insert into stock (sku, on_hand, reserved, shipped) values ($1, 0, 0, 0) on conflict (sku) do nothing`
)

type sqlite struct{}

func (sqlite) lockStock(ctx context.Context, tx mainstay.Tx, skus []string) (map[string]Stock, error) {
	return scanStock(tx.QueryContext(ctx, lockStockSQLite, list(skus)))
}

func (sqlite) reservations(ctx context.Context, tx mainstay.Tx, orders []string) (map[string][]movement, error) {
	return scanReservations(tx.QueryContext(ctx, reservationsSQLite, list(orders)))
}

func (sqlite) create(ctx context.Context, tx mainstay.Tx, sku string) (bool, error) {
	return affected(tx.ExecContext(ctx, createSQLite, sku))
}

func (sqlite) move(tx mainstay.Tx, moves []movement) {
	for _, m := range moves {
		tx.Queue(recordSQLite, sql.NullString{String: m.order, Valid: m.order != ""}, m.sku, m.kind, m.quantity, tx.Now().UnixMicro())
	}
	sums := deltas(moves)
	for _, sku := range slices.Sorted(maps.Keys(sums)) {
		d := sums[sku]
		tx.Queue(moveSQLite, d.OnHand, d.Reserved, d.Shipped, sku)
	}
}

// list is how a list of strings is handed to json_each.
func list(values []string) string {
	b, _ := json.Marshal(values) // strings cannot fail
	return string(b)
}

func affected(r sql.Result, err error) (bool, error) {
	if err != nil {
		return false, err
	}
	n, err := r.RowsAffected()
	return n > 0, err
}
