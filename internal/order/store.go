package order

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	"github.com/mainstay-io/mainstay"
)

// store is the context's SQL, by dialect.
type store interface {
	insert(ctx context.Context, tx mainstay.Tx, orders []*Order) error
	private(ctx context.Context, tx mainstay.Tx, ids []string) (map[string]private, error)
	change(ctx context.Context, tx mainstay.Tx, changes []change) error
	get(ctx context.Context, q Queryer, id string) (View, error)
	ended(ctx context.Context, q Queryer, ids []string) ([]string, error)
	erase(ctx context.Context, tx mainstay.Tx, before time.Time, after string, limit int) (erased int64, last string, err error)
}

// Queryer reads: *sql.DB does.
type Queryer interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

func storeFor(d mainstay.Dialect) store {
	if d == mainstay.Postgres {
		return postgres{}
	}
	return sqlite{}
}

// Reads answers questions about orders, outside any transaction.
type Reads struct {
	db    Queryer
	store store
}

// NewReads reads from db.
func NewReads(db Queryer, dialect mainstay.Dialect) *Reads { return &Reads{db, storeFor(dialect)} }

// Get reads one order; ErrNotFound when there is none.
func (r *Reads) Get(ctx context.Context, id string) (View, error) {
	return r.store.get(ctx, r.db, id)
}

// Ended tells which of the orders are not pending any more.
func (r *Reads) Ended(ctx context.Context, ids []string) ([]string, error) {
	return r.store.ended(ctx, r.db, ids)
}

// array gives strings as a JSON array.
func array(ss []string) string {
	b, err := json.Marshal(ss)
	if err != nil {
		panic(err) // strings always encode
	}
	return string(b)
}

func collect(rows *sql.Rows, err error, what string, scan func(*sql.Rows) error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// scanStrings collects a single column.
func scanStrings(rows *sql.Rows, err error, what string) ([]string, error) {
	var out []string
	err = collect(rows, err, what, func(rows *sql.Rows) error {
		var s string
		if err := rows.Scan(&s); err != nil {
			return err
		}
		out = append(out, s)
		return nil
	})
	return out, err
}

// scanPrivate collects personal data by order.
func scanPrivate(rows *sql.Rows, err error) (map[string]private, error) {
	out := map[string]private{}
	err = collect(rows, err, "reading personal data", func(rows *sql.Rows) error {
		var id string
		var p private
		if err := rows.Scan(&id, &p.Token, &p.Name, &p.Line1, &p.City, &p.PostalCode); err != nil {
			return err
		}
		out[id] = p
		return nil
	})
	return out, err
}
