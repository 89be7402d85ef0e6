package logistics

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/mainstay-io/mainstay"
)

// ErrInvalid means that a country is not two capital letters or a capacity is negative.
var ErrInvalid = errors.New("logistics: a country of two capital letters and a capacity of zero or more are needed")

// Runner runs fn in a transaction that is committed when fn gives nil. It may run fn again when the database asks
// for a repetition.
type Runner interface {
	Run(ctx context.Context, fn func(ctx context.Context, tx mainstay.Tx) error) error
}

// Reader reads outside transactions.
type Reader interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// Desk is what operators do with carriers. It may be used by many goroutines.
type Desk struct {
	sql  statements
	run  Runner
	read Reader
}

// NewDesk makes a desk over a database of a dialect.
func NewDesk(dialect mainstay.Dialect, run Runner, read Reader) *Desk {
	return &Desk{statementsOf(dialect), run, read}
}

// SetCapacity limits the open bookings of a country, nil for no limit, and answers with the carrier as it then is.
// Bookings that are open stay so.
func (d *Desk) SetCapacity(ctx context.Context, country string, capacity *int64) (Carrier, error) {
	if !isCountry(country) || (capacity != nil && *capacity < 0) {
		return Carrier{}, ErrInvalid
	}
	var after Carrier
	err := d.run.Run(ctx, func(ctx context.Context, tx mainstay.Tx) error {
		carriers, err := d.sql.lockCarriers(ctx, tx, []string{country})
		if err != nil {
			return err
		}
		after = carriers[country]
		after.Capacity = capacity
		return d.sql.setCapacity(ctx, tx, country, capacity)
	})
	if err != nil {
		return Carrier{}, fmt.Errorf("setting a carrier's capacity: %w", err)
	}
	return after, nil
}

const getCarrier = `/* logistics.get */ select country, capacity, booked, dispatched from carrier where country = $1`

// Get reads the carrier of a country. One that has never been used is there too, without a limit.
func (d *Desk) Get(ctx context.Context, country string) (Carrier, error) {
	if !isCountry(country) {
		return Carrier{}, ErrInvalid
	}
	carriers, err := scanCarriers(d.read.QueryContext(ctx, getCarrier, country))
	if err != nil {
		return Carrier{}, fmt.Errorf("reading a carrier: %w", err)
	}
	return carriers[country], nil
}

// scan calls each for every row and closes rows.
func scan(rows *sql.Rows, err error, each func() error) error {
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		if err := each(); err != nil {
			return err
		}
	}
	return rows.Err()
}

func scanCarriers(rows *sql.Rows, err error) (map[string]Carrier, error) {
	carriers := map[string]Carrier{}
	return carriers, scan(rows, err, func() error {
		var country string
		var c Carrier
		err := rows.Scan(&country, &c.Capacity, &c.Booked, &c.Dispatched)
		carriers[country] = c
		return err
	})
}

func scanBookings(rows *sql.Rows, err error) (map[string]booking, error) {
	bookings := map[string]booking{}
	return bookings, scan(rows, err, func() error {
		var b booking
		err := rows.Scan(&b.order, &b.country, &b.status, &b.tracking)
		bookings[b.order] = b
		return err
	})
}
