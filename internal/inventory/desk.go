package inventory

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/mainstay-io/mainstay"
)

// Errors of the desk.
var (
	// ErrUnknownSKU means that a SKU was never set.
	ErrUnknownSKU = errors.New("inventory: the sku is not known")
	// ErrInvalid means that a SKU is empty or a number of units negative.
	ErrInvalid = errors.New("inventory: a sku and zero or more units are needed")
)

// Runner runs fn in a transaction that is committed when fn gives nil. It may run fn again when the database asks
// for a repetition.
type Runner interface {
	Run(ctx context.Context, fn func(ctx context.Context, tx mainstay.Tx) error) error
}

// Reader reads outside transactions.
type Reader interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// Desk is what operators do with stock. It may be used by many goroutines.
type Desk struct {
	sql  statements
	run  Runner
	read Reader
}

// NewDesk makes a desk over a database of a dialect.
func NewDesk(dialect mainstay.Dialect, run Runner, read Reader) *Desk {
	return &Desk{statementsOf(dialect), run, read}
}

// Set makes onHand what can still be reserved of a SKU, which is made if it is not known, and answers with the
// stock as it then is. The difference becomes a movement; nothing changes for units that orders hold.
func (d *Desk) Set(ctx context.Context, sku string, onHand int64) (Stock, error) {
	if sku == "" || onHand < 0 {
		return Stock{}, ErrInvalid
	}
	var after Stock
	err := d.run.Run(ctx, func(ctx context.Context, tx mainstay.Tx) (err error) {
		after, err = d.set(ctx, tx, sku, onHand)
		return err
	})
	if err != nil {
		return Stock{}, fmt.Errorf("setting stock: %w", err)
	}
	return after, nil
}

func (d *Desk) set(ctx context.Context, tx mainstay.Tx, sku string, onHand int64) (Stock, error) {
	kind := kindAdjust
	created, err := d.sql.create(ctx, tx, sku)
	if err != nil {
		return Stock{}, err
	}
	if created {
		kind = kindReceive
	}
	stock, err := d.sql.lockStock(ctx, tx, []string{sku})
	if err != nil {
		return Stock{}, err
	}
	m := movement{sku: sku, kind: kind, quantity: onHand - stock[sku].OnHand}
	if m.quantity != 0 {
		d.sql.move(tx, []movement{m})
	}
	return stock[sku].plus(m.delta()), nil
}

// Seed gives those SKUs their first units that are not known; the others are left alone.
func (d *Desk) Seed(ctx context.Context, onHand map[string]int64) error {
	err := d.run.Run(ctx, func(ctx context.Context, tx mainstay.Tx) error {
		var moves []movement
		for _, sku := range slices.Sorted(maps.Keys(onHand)) {
			created, err := d.sql.create(ctx, tx, sku)
			if err != nil {
				return err
			}
			if created && onHand[sku] != 0 {
				moves = append(moves, movement{sku: sku, kind: kindReceive, quantity: onHand[sku]})
			}
		}
		d.sql.move(tx, moves)
		return nil
	})
	if err != nil {
		return fmt.Errorf("seeding stock: %w", err)
	}
	return nil
}

const getStock = `/* inventory.get */ select on_hand, reserved, shipped from stock where sku = $1`

// Get reads the stock of a SKU, or ErrUnknownSKU.
func (d *Desk) Get(ctx context.Context, sku string) (Stock, error) {
	var s Stock
	found := false
	rows, err := d.read.QueryContext(ctx, getStock, sku)
	err = scan(rows, err, func() error {
		found = true
		return rows.Scan(&s.OnHand, &s.Reserved, &s.Shipped)
	})
	switch {
	case err != nil:
		return Stock{}, fmt.Errorf("reading stock: %w", err)
	case !found:
		return Stock{}, ErrUnknownSKU
	default:
		return s, nil
	}
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

func scanStock(rows *sql.Rows, err error) (map[string]Stock, error) {
	stock := map[string]Stock{}
	return stock, scan(rows, err, func() error {
		var sku string
		var s Stock
		err := rows.Scan(&sku, &s.OnHand, &s.Reserved, &s.Shipped)
		stock[sku] = s
		return err
	})
}

func scanReservations(rows *sql.Rows, err error) (map[string][]movement, error) {
	reserved := map[string][]movement{}
	return reserved, scan(rows, err, func() error {
		m := movement{kind: kindReserve}
		err := rows.Scan(&m.order, &m.sku, &m.quantity)
		reserved[m.order] = append(reserved[m.order], m)
		return err
	})
}
