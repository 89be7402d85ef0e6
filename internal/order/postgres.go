package order

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	"github.com/mainstay-io/mainstay"
)

type postgres struct{}

const (
	postgresInsert = `/* order.insert */
insert into orders (id, principal, customer_id, status, reason_code, reason_detail, currency, total, country, lines, created_at, updated_at)
select id, principal, customer_id, 'pending', '', '', currency, total, country, lines, created_at, created_at
from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::text[]::jsonb[], $8::timestamptz[])
     as o(id, principal, customer_id, currency, total, country, lines, created_at)`
	postgresInsertPrivate = `/* order.insert_private */
insert into order_private (order_id, token, name, line1, city, postal_code)
select * from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[])`
)

func (postgres) insert(_ context.Context, tx mainstay.Tx, orders []*Order) error {
	n := len(orders)
	ids, principals, customers := make([]string, n), make([]string, n), make([]string, n)
	currencies, totals, countries := make([]string, n), make([]int64, n), make([]string, n)
	lines, created := make([]string, n), make([]time.Time, n)
	tokens, names, line1s, cities, postals := make([]string, n), make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	for i, o := range orders {
		b, err := json.Marshal(o.Lines)
		if err != nil {
			return fmt.Errorf("encoding order %s: %w", o.ID, err)
		}
		ids[i], principals[i], customers[i], currencies[i] = o.ID, o.Principal, o.CustomerID, o.Currency
		totals[i], countries[i], lines[i], created[i] = o.Total, o.Shipping.Country, string(b), o.CreatedAt
		tokens[i], names[i], line1s[i] = o.Payment.Token, o.Shipping.Name, o.Shipping.Line1
		cities[i], postals[i] = o.Shipping.City, o.Shipping.PostalCode
	}
	tx.Queue(postgresInsert, ids, principals, customers, currencies, totals, countries, lines, created)
	tx.Queue(postgresInsertPrivate, ids, tokens, names, line1s, cities, postals)
	return nil
}

const postgresPrivate = `/* order.private */
select order_id::text, token, name, line1, city, postal_code from order_private where order_id = any($1::uuid[])`

func (postgres) private(ctx context.Context, tx mainstay.Tx, ids []string) (map[string]private, error) {
	rows, err := tx.QueryContext(ctx, postgresPrivate, ids)
	return scanPrivate(rows, err)
}

const postgresChange = `/* order.change */
update orders set status = c.status, reason_code = c.code, reason_detail = c.detail, updated_at = c.at,
    ended_at = case when c.status in ('confirmed', 'cancelled') then coalesce(orders.ended_at, c.at) end
from (select distinct on (id) id, status, code, detail, at
      from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::timestamptz[])
           with ordinality as c(id, status, code, detail, at, n) order by id, n desc) as c
where orders.id = c.id`

func (postgres) change(_ context.Context, tx mainstay.Tx, changes []change) error {
	n := len(changes)
	ids, statuses, codes, details, ats := make([]string, n), make([]string, n), make([]string, n), make([]string, n), make([]time.Time, n)
	for i, c := range changes {
		ids[i], statuses[i], codes[i], details[i], ats[i] = c.id, string(c.status), c.code, c.detail, c.at
	}
	tx.Queue(postgresChange, ids, statuses, codes, details, ats)
	return nil
}

const postgresGet = `/* order.get */
select id::text, customer_id, status, reason_code, reason_detail, currency, total, lines, created_at, updated_at from orders where id = $1`

func (postgres) get(ctx context.Context, q Queryer, id string) (View, error) {
	var found *View
	rows, err := q.QueryContext(ctx, postgresGet, id)
	err = collect(rows, err, "reading order "+id, func(rows *sql.Rows) error {
		o := &View{}
		var reason Reason
		var lines []byte
		err := rows.Scan(&o.ID, &o.CustomerID, &o.Status, &reason.Code, &reason.Detail, &o.Currency, &o.Total, &lines, &o.CreatedAt, &o.UpdatedAt)
		if err != nil {
			return err
		}
		o.CreatedAt, o.UpdatedAt = o.CreatedAt.UTC(), o.UpdatedAt.UTC()
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

const postgresEnded = `/* order.ended */
select id::text from orders where id = any($1::uuid[]) and status <> 'pending'`

func (postgres) ended(ctx context.Context, q Queryer, ids []string) ([]string, error) {
	rows, err := q.QueryContext(ctx, postgresEnded, ids)
	return scanStrings(rows, err, "reading which orders have ended")
}

const (
	postgresWalk = `/* order.walk_private */
select p.order_id::text, coalesce(o.created_at >= $2, false), coalesce(o.ended_at < $2, false)
from (select order_id from order_private where order_id > $1::uuid order by order_id limit $3) p
left join orders o on o.id = p.order_id order by p.order_id`
	postgresErase = `/* order.erase */ delete from order_private where order_id = any($1::uuid[])`
	// nowhere is before every order's id.
	nowhere = "00000000-0000-0000-0000-000000000000"
)

func (postgres) erase(ctx context.Context, tx mainstay.Tx, before time.Time, after string, limit int) (erased int64, last string, err error) {
	if after == "" {
		after = nowhere
	}
	rows, err := tx.QueryContext(ctx, postgresWalk, after, before, limit)
	ids, last, err := walk(rows, err, limit)
	if err == nil && len(ids) > 0 {
		tx.Queue(postgresErase, ids)
	}
	return int64(len(ids)), last, err
}
