package sandbox

import (
	"context"
	"database/sql"
	"fmt"
	"iter"

	"github.com/mainstay-io/mainstay"
)

// store runs groups of operations against a database.
type store interface {
	// transact applies ops in their order in one durable transaction and leaves the answers in them. After an error
	// it is unknown whether the transaction was committed; the answers are void.
	transact(ctx context.Context, ops []*op) error
	close() error
}

func openStore(ctx context.Context, db *sql.DB, dialect mainstay.Dialect) (store, error) {
	switch dialect {
	case mainstay.Postgres:
		return openPostgres(ctx, db)
	case mainstay.SQLite:
		return openSQLite(ctx, db)
	default:
		return nil, fmt.Errorf("unknown dialect %q", dialect)
	}
}

// session is one transaction's reading and writing.
type session interface {
	// query runs one of the statements of the dialect that take one or two lists of strings.
	query(ctx context.Context, q lookup, lists ...[]string) (*sql.Rows, error)
	save(ctx context.Context, l *ledger) error
}

type lookup int

const (
	lookupAuthorisations lookup = iota // by keys, and by order references
	lookupCaptures                     // by keys
	lookupAttempts                     // by keys
)

// run is what every transaction does between its begin and its commit.
func run(ctx context.Context, s session, ops []*op) error {
	l := newLedger()
	if err := load(ctx, s, l, ops); err != nil {
		return err
	}
	for _, o := range ops {
		l.apply(o)
	}
	if l.clean() {
		return nil
	}
	return s.save(ctx, l)
}

func load(ctx context.Context, s session, l *ledger, ops []*op) error {
	var keys, refs, captures, flaky []string
	for _, o := range ops {
		switch {
		case o.kind == opCapture:
			refs, captures = append(refs, o.ref), append(captures, o.key)
		case o.token == TokenFlaky:
			flaky = append(flaky, o.key)
			fallthrough
		default:
			keys = append(keys, o.key)
		}
	}
	if err := loadAuthorisations(ctx, s, l, keys, refs); err != nil {
		return fmt.Errorf("loading authorisations: %w", err)
	}
	if err := loadCaptures(ctx, s, l, captures); err != nil {
		return fmt.Errorf("loading captures: %w", err)
	}
	if err := loadAttempts(ctx, s, l, flaky); err != nil {
		return fmt.Errorf("loading attempts: %w", err)
	}
	return nil
}

func loadAuthorisations(ctx context.Context, s session, l *ledger, keys, refs []string) error {
	rows, err := s.query(ctx, lookupAuthorisations, keys, refs)
	return scan(rows, err, func() error {
		a := &authorisation{}
		err := rows.Scan(&a.Key, &a.OrderRef, &a.Amount, &a.Currency, &a.Status, &a.CapturedAmount, &a.VoidedAmount,
			&a.token, &a.hash, &a.code, &a.detail)
		l.add(a)
		return err
	})
}

func loadCaptures(ctx context.Context, s session, l *ledger, keys []string) error {
	if len(keys) == 0 {
		return nil
	}
	rows, err := s.query(ctx, lookupCaptures, keys)
	return scan(rows, err, func() error {
		c := &capture{}
		err := rows.Scan(&c.key, &c.ref, &c.hash, &c.code, &c.detail)
		l.captures[c.key] = c
		return err
	})
}

func loadAttempts(ctx context.Context, s session, l *ledger, keys []string) error {
	if len(keys) == 0 {
		return nil
	}
	rows, err := s.query(ctx, lookupAttempts, keys)
	return scan(rows, err, func() error {
		var key string
		var n int
		err := rows.Scan(&key, &n)
		l.attempts[key] = n
		return err
	})
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

// Queryer reads: a *sql.DB, a *sql.Conn or a *sql.Tx.
type Queryer interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

const (
	ledgerPostgres = `/* sandbox.ledger */
select key, order_ref, amount, currency, status, captured, voided from sandbox.authorisation order by key`
	ledgerSQLite = `/* sandbox.ledger */
select key, order_ref, amount, currency, status, captured, voided from authorisation order by key`
)

// Ledger reads every authorisation in the order of the keys, in one statement and so in one snapshot, whether or not
// a gateway has the store open. It ends after the first error.
func Ledger(ctx context.Context, q Queryer, dialect mainstay.Dialect) iter.Seq2[Authorisation, error] {
	return func(yield func(Authorisation, error) bool) {
		query := ledgerPostgres
		if dialect == mainstay.SQLite {
			query = ledgerSQLite
		}
		rows, err := q.QueryContext(ctx, query)
		if err != nil {
			yield(Authorisation{}, fmt.Errorf("reading the sandbox's ledger: %w", err))
			return
		}
		defer func() { _ = rows.Close() }()
		for rows.Next() {
			var a Authorisation
			err := rows.Scan(&a.Key, &a.OrderRef, &a.Amount, &a.Currency, &a.Status, &a.CapturedAmount, &a.VoidedAmount)
			if !yield(a, err) || err != nil {
				return
			}
		}
		if err := rows.Err(); err != nil {
			yield(Authorisation{}, fmt.Errorf("reading the sandbox's ledger: %w", err))
		}
	}
}
