package order

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	"github.com/mainstay-io/mainstay"
)

type sqlite struct{}

const (
	sqliteInsert = `/* order.insert */
insert into orders (id, principal, customer_id, status, reason_code, reason_detail, currency, total, country, lines, created_at, updated_at)
values ($1, $2, $3, 'pending', '', '', $4, $5, $6, $7, $8, $8)`
	sqliteInsertPrivate = `/* order.insert_private */
insert into order_private (order_id, token, name, line1, city, postal_code) values ($1, $2, $3, $4, $5, $6)`
)

func (sqlite) insert(_ context.Context, tx mainstay.Tx, orders []*Order) error {
	for _, o := range orders {
		lines, err := json.Marshal(o.Lines)
		if err != nil {
			return fmt.Errorf("encoding order %s: %w", o.ID, err)
		}
		tx.Queue(sqliteInsert, o.ID, o.Principal, o.CustomerID, o.Currency, o.Total, o.Shipping.Country, string(lines), o.CreatedAt.UnixMicro())
	}
	for _, o := range orders { // apart, so that inserts of a kind can be merged
		to := o.Shipping
		tx.Queue(sqliteInsertPrivate, o.ID, o.Payment.Token, to.Name, to.Line1, to.City, to.PostalCode)
	}
	return nil
}

const sqlitePrivate = `/* order.private */
select order_id, token, name, line1, city, postal_code from order_private where order_id in (select value from json_each($1))`

func (sqlite) private(ctx context.Context, tx mainstay.Tx, ids []string) (map[string]private, error) {
	rows, err := tx.QueryContext(ctx, sqlitePrivate, array(ids))
	return scanPrivate(rows, err)
}

const sqliteChange = `/* order.change */
update orders set status = $2, reason_code = $3, reason_detail = $4, updated_at = $5,
    ended_at = case when $2 in ('confirmed', 'cancelled') then coalesce(ended_at, $5) end where id = $1`

func (sqlite) change(_ context.Context, tx mainstay.Tx, changes []change) error {
	for _, c := range changes {
		tx.Queue(sqliteChange, c.id, string(c.status), c.code, c.detail, c.at.UnixMicro())
	}
	return nil
}

const sqliteGet = `/* order.get */
select id, customer_id, status, reason_code, reason_detail, currency, total, lines, created_at, updated_at from orders where id = $1`

func (sqlite) get(ctx context.Context, q Queryer, id string) (View, error) {
	var found *View
	rows, err := q.QueryContext(ctx, sqliteGet, id)
	err = collect(rows, err, "reading order "+id, func(rows *sql.Rows) error {
		o := &View{}
		var reason Reason
		var lines []byte
		var created, updated int64
		err := rows.Scan(&o.ID, &o.CustomerID, &o.Status, &reason.Code, &reason.Detail, &o.Currency, &o.Total, &lines, &created, &updated)
		if err != nil {
			return err
		}
		o.CreatedAt, o.UpdatedAt = time.UnixMicro(created).UTC(), time.UnixMicro(updated).UTC()
		if reason.Code != "" {
			o.Reason = &reason
		}
		found = o
		return json.Unmarshal(lines, &o.Lines)
	})
	switch {
	case err != nil:
		return View{}, err
	case found == nil:
		return View{}, ErrNotFound
	}
	return *found, nil
}

const sqliteEnded = `/* order.ended */
select id from orders where id in (select value from json_each($1)) and status <> 'pending'`

func (sqlite) ended(ctx context.Context, q Queryer, ids []string) ([]string, error) {
	rows, err := q.QueryContext(ctx, sqliteEnded, array(ids))
	return scanStrings(rows, err, "reading which orders have ended")
}

const (
	sqliteWalk = `/* order.walk_private */
select p.order_id, coalesce(o.created_at >= $2, 0), coalesce(o.ended_at < $2, 0)
from (select order_id from order_private where order_id > $1 order by order_id limit $3) p
left join orders o on o.id = p.order_id order by p.order_id`
	sqliteErase = `/* order.erase */ delete from order_private where order_id in (select value from json_each($1))`
)

func (sqlite) erase(ctx context.Context, tx mainstay.Tx, before time.Time, after string, limit int) (erased int64, last string, err error) {
	rows, err := tx.QueryContext(ctx, sqliteWalk, after, before.UnixMicro(), limit)
	ids, last, err := walk(rows, err, limit)
	if err == nil && len(ids) > 0 {
		tx.Queue(sqliteErase, array(ids))
	}
	return int64(len(ids)), last, err
}
