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
	// load puts what is wanted into l.
	load(ctx context.Context, l *ledger, w wanted) error
	save(ctx context.Context, l *ledger) error
}

// run is what every transaction does between its begin and its commit.
func run(ctx context.Context, s session, ops []*op) error {
	l := newLedger()
	if err := s.load(ctx, l, want(ops)); err != nil {
		return err
	}
	for _, o := range ops {
		l.apply(o)
	}
	return s.save(ctx, l)
}

// wanted is what a group of operations must see. Lists may be empty.
type wanted struct {
	keys, refs []string // of authorisations: by their keys, and all of an order
	captures   []string // keys
	flaky      []string // keys whose attempts count
}

func want(ops []*op) wanted {
	var w wanted
	for _, o := range ops {
		switch {
		case o.kind == opCapture:
			w.refs, w.captures = append(w.refs, o.ref), append(w.captures, o.key)
		case o.token == TokenFlaky:
			w.flaky = append(w.flaky, o.key)
			fallthrough
		default:
			w.keys = append(w.keys, o.key)
		}
	}
	return w
}

// rows is what the drivers' rows have in common.
type rows interface {
	Next() bool
	Scan(dest ...any) error
	Err() error
}

func (l *ledger) readAuthorisations(r rows) error {
	for r.Next() {
		a := &authorisation{}
		err := r.Scan(&a.Key, &a.OrderRef, &a.Amount, &a.Currency, &a.Status, &a.CapturedAmount, &a.VoidedAmount,
			&a.token, &a.hash, &a.code, &a.detail)
		if err != nil {
			return fmt.Errorf("loading authorisations: %w", err)
		}
		l.add(a)
	}
	return loaded("authorisations", r.Err())
}

func (l *ledger) readCaptures(r rows) error {
	for r.Next() {
		c := &capture{}
		if err := r.Scan(&c.key, &c.ref, &c.hash, &c.code, &c.detail); err != nil {
			return fmt.Errorf("loading captures: %w", err)
		}
		l.captures[c.key] = c
	}
	return loaded("captures", r.Err())
}

func (l *ledger) readAttempts(r rows) error {
	for r.Next() {
		var key string
		var n int
		if err := r.Scan(&key, &n); err != nil {
			return fmt.Errorf("loading attempts: %w", err)
		}
		l.attempts[key] = n
	}
	return loaded("attempts", r.Err())
}

func loaded(what string, err error) error {
	if err != nil {
		return fmt.Errorf("loading %s: %w", what, err)
	}
	return nil
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
