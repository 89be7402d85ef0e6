package payment

import (
	"context"

	"github.com/mainstay-io/mainstay"
)

const (
	lockPostgres = `/* payment.lock */
select order_id, amount, currency, status from payment
where order_id = any($1::text[])
order by order_id for update`
	savePostgres = `/* payment.save */
insert into payment (order_id, amount, currency, status, updated_at)
select order_id, amount, currency, status, $5
from unnest($1::text[], $2::bigint[], $3::text[], $4::text[]) as p (order_id, amount, currency, status)
on conflict (order_id) do update set status = excluded.status, updated_at = excluded.updated_at`
	postPostgres = `/* payment.post */
insert into payment_entry (order_id, kind, account, amount, currency, created_at)
select order_id, kind, account, amount, currency, $6
from unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::text[]) as e (order_id, kind, account, amount, currency)`
)

type postgres struct{}

func (postgres) lock(ctx context.Context, tx mainstay.Tx, orders []string) (*book, error) {
	return scanBook(tx.QueryContext(ctx, lockPostgres, orders))
}

func (postgres) save(tx mainstay.Tx, b *book) {
	if n := len(b.changed); n > 0 {
		orders, amounts, currencies, statuses := make([]string, n), make([]int64, n), make([]string, n), make([]string, n)
		for i, p := range b.changed {
			orders[i], amounts[i], currencies[i], statuses[i] = p.order, p.amount, p.currency, p.status
		}
		tx.Queue(savePostgres, orders, amounts, currencies, statuses, tx.Now())
	}
	if n := len(b.entries); n > 0 {
		orders, kinds, accounts := make([]string, n), make([]string, n), make([]string, n)
		amounts, currencies := make([]int64, n), make([]string, n)
		for i, e := range b.entries {
			orders[i], kinds[i], accounts[i], amounts[i], currencies[i] = e.order, e.kind, e.account, e.amount, e.currency
		}
		tx.Queue(postPostgres, orders, kinds, accounts, amounts, currencies, tx.Now())
	}
}
