package outbox_test

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/outbox"
)

// The event is published if the transaction commits, and was never there if it does not. The row's lock is taken first:
// it is what keeps the events of one order in the order of their commits.
func ExampleOutbox_Append() {
	confirm := func(ctx context.Context, db *sql.DB, order string) error {
		ob, err := outbox.Open(ctx, db, mainstay.Postgres) // once, when the process starts
		if err != nil {
			return err
		}
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer tx.Rollback() // after a commit it does nothing
		if _, err := tx.ExecContext(ctx, "update orders set status = 'confirmed' where id = $1", order); err != nil {
			return err
		}
		err = ob.Append(ctx, tx, &mainstay.Message{
			Topic: "order-events", Key: order, Type: "order.confirmed", Source: "shop/orders",
			AggregateType: "order", AggregateID: order, CorrelationID: order, Payload: []byte(`{}`),
		})
		if err != nil {
			return err
		}
		return tx.Commit()
	}
	_ = confirm
}

// Messages of one key are always in the same lane, the one where Kafka's Java client would put them.
func ExampleLane() {
	fmt.Println(outbox.Lane("order-1", 16), outbox.Lane("order-1", 16), outbox.Lane("order-2", 16))
	// Output: 6 6 3
}
