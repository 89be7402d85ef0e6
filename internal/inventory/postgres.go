package inventory

import (
	"context"
	"maps"
	"slices"

	"github.com/mainstay-io/mainstay"
)

const (
	lockStockPostgres = `/* inventory.lock */
select sku, on_hand, reserved, shipped from stock where sku = any($1::text[]) order by sku for update`
	reservationsPostgres = `/* inventory.reservations */
select order_id, sku, quantity from stock_movement
where order_id = any($1::text[]) and kind = 'reserve'
order by order_id, sku`
	recordPostgres = `/* inventory.record */
insert into stock_movement (order_id, sku, kind, quantity, created_at)
select nullif(order_id, ''), sku, kind, quantity, $5
from unnest($1::text[], $2::text[], $3::text[], $4::bigint[]) as m (order_id, sku, kind, quantity)`
	// movePostgres locks in the order of the SKUs before it updates: the plan of the update alone decides its order.
	movePostgres = `/* inventory.move */
with delta as (
    select * from unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[]) as d (sku, on_hand, reserved, shipped)
), locked as materialized (
    select sku from stock where sku = any($1::text[]) order by sku for update
)
update stock s
set on_hand = s.on_hand + d.on_hand, reserved = s.reserved + d.reserved, shipped = s.shipped + d.shipped
from locked l join delta d on d.sku = l.sku
where s.sku = l.sku`
	createPostgres = `/* inventory.create */
insert into stock (sku, on_hand, reserved, shipped) values ($1, 0, 0, 0) on conflict (sku) do nothing`
)

type postgres struct{}

func (postgres) lockStock(ctx context.Context, tx mainstay.Tx, skus []string) (map[string]Stock, error) {
	return scanStock(tx.QueryContext(ctx, lockStockPostgres, skus))
}

func (postgres) reservations(ctx context.Context, tx mainstay.Tx, orders []string) (map[string][]movement, error) {
	return scanReservations(tx.QueryContext(ctx, reservationsPostgres, orders))
}

func (postgres) create(ctx context.Context, tx mainstay.Tx, sku string) (bool, error) {
	return affected(tx.ExecContext(ctx, createPostgres, sku))
}

func (postgres) move(tx mainstay.Tx, moves []movement) {
	n := len(moves)
	if n == 0 {
		return
	}
	orders, skus, kinds, quantities := make([]string, n), make([]string, n), make([]string, n), make([]int64, n)
	for i, m := range moves {
		orders[i], skus[i], kinds[i], quantities[i] = m.order, m.sku, m.kind, m.quantity
	}
	tx.Queue(recordPostgres, orders, skus, kinds, quantities, tx.Now())

	sums := deltas(moves)
	skus = slices.Sorted(maps.Keys(sums))
	onHand, reserved, shipped := make([]int64, len(skus)), make([]int64, len(skus)), make([]int64, len(skus))
	for i, sku := range skus {
		onHand[i], reserved[i], shipped[i] = sums[sku].OnHand, sums[sku].Reserved, sums[sku].Shipped
	}
	tx.Queue(movePostgres, skus, onHand, reserved, shipped)
}
