package payment

import (
	"context"
	"encoding/json"

	"github.com/mainstay-io/mainstay"
)

const (
	// There is one writer: to read in its transaction is to lock.
	lockSQLite = `/* payment.lock */
select order_id, amount, currency, status from payment where order_id in (select value from json_each($1))`
	saveSQLite = `/* payment.save */
insert into payment (order_id, amount, currency, status, updated_at) values ($1, $2, $3, $4, $5)
on conflict (order_id) do update set status = excluded.status, updated_at = excluded.updated_at`
	postSQLite = `/* payment.post */
insert into payment_entry (order_id, kind, account, amount, currency, created_at) values ($1, $2, $3, $4, $5, $6)`
)

type sqlite struct{}

func (sqlite) lock(ctx context.Context, tx mainstay.Tx, orders []string) (*book, error) {
	list, err := json.Marshal(orders)
	if err != nil {
		return nil, err
	}
	return scanBook(tx.QueryContext(ctx, lockSQLite, string(list)))
}

func (sqlite) save(tx mainstay.Tx, b *book) {
	at := tx.Now().UnixMicro()
	for _, p := range b.changed {
		tx.Queue(saveSQLite, p.order, p.amount, p.currency, p.status, at)
	}
	for _, e := range b.entries {
		tx.Queue(postSQLite, e.order, e.kind, e.account, e.amount, e.currency, at)
	}
}
