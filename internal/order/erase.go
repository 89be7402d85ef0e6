package order

import (
	"context"
	"database/sql"
	"time"

	"github.com/mainstay-io/mainstay"
)

// Runner runs a function in a transaction of its own.
type Runner interface {
	Run(ctx context.Context, fn func(ctx context.Context, tx mainstay.Tx) error) error
}

// Erase removes the personal data of orders that ended before the given time, among the next limit orders behind the
// id after, which is "" for the first ones. Last is where to go on, "" when there is nothing more to look at: ids are
// in the order of the orders' making, so the walk ends at the first order that was made after that time.
func Erase(ctx context.Context, db Runner, dialect mainstay.Dialect, before time.Time, after string, limit int) (erased int64, last string, err error) {
	err = db.Run(ctx, func(ctx context.Context, tx mainstay.Tx) error {
		var err error
		erased, last, err = storeFor(dialect).erase(ctx, tx, before, after, limit)
		return err
	})
	return erased, last, err
}

// page is an order with personal data, as the walk comes by.
type page struct {
	id    string
	young bool // made after the time before which orders must have ended
	ended bool // and before that time
}

// walk scans a page and says which orders' data is to go, and where to go on.
func walk(rows *sql.Rows, err error, limit int) (ids []string, last string, _ error) {
	n := 0
	err = collect(rows, err, "walking personal data", func(rows *sql.Rows) error {
		var p page
		if err := rows.Scan(&p.id, &p.young, &p.ended); err != nil {
			return err
		}
		if last, n = p.id, n+1; p.ended {
			ids = append(ids, p.id)
		}
		if p.young {
			n = 0 // the others are younger
		}
		return nil
	})
	if n < limit {
		last = ""
	}
	return ids, last, err
}
