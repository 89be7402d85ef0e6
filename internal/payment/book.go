package payment

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/mainstay-io/mainstay"
)

// Statuses of a payment.
const (
	statusAuthorised = "authorised"
	statusCaptured   = "captured"
	statusVoided     = "voided"
	statusDeclined   = "declined"
)

// Kinds of entries.
const (
	kindAuthorise = "authorise"
	kindCapture   = "capture"
	kindVoid      = "void"
)

// Accounts: a hold moves money from customer to customer_hold; it ends at merchant, or back at customer.
const (
	accountCustomer = "customer"
	accountHold     = "customer_hold"
	accountMerchant = "merchant"
)

// payment is a row.
type payment struct {
	order    string
	amount   int64
	currency string
	status   string
	changed  bool
}

// entry is a leg of a posting: a debit is positive, a credit negative.
type entry struct {
	order, kind, account string
	amount               int64
	currency             string
}

// book is the payments of a batch in memory, and what has become of them: changed rows and new entries, in order.
type book struct {
	payments map[string]*payment
	changed  []*payment
	entries  []entry
}

// statements is the SQL of a dialect.
type statements interface {
	// lock reads the payments of the orders that have one and keeps others from changing them until the transaction
	// ends. Locks are taken in the order of the orders' ids.
	lock(ctx context.Context, tx mainstay.Tx, orders []string) (*book, error)
	// save queues what has changed.
	save(tx mainstay.Tx, b *book)
}

func statementsOf(d mainstay.Dialect) statements {
	if d == mainstay.Postgres {
		return postgres{}
	}
	return sqlite{}
}

func (b *book) set(p *payment, status string) {
	p.status = status
	b.payments[p.order] = p
	if !p.changed {
		p.changed = true
		b.changed = append(b.changed, p)
	}
}

// post writes both legs of a movement of the payment's amount.
func (b *book) post(p *payment, kind, debit, credit string) {
	b.entries = append(b.entries,
		entry{p.order, kind, debit, p.amount, p.currency},
		entry{p.order, kind, credit, -p.amount, p.currency})
}

func (b *book) settle(d mainstay.Settlement, c command) error {
	switch p := b.payments[c.OrderID]; d.Message.Type {
	case Authorise:
		b.authorise(p, c, d.Rejection != nil)
		return nil
	case Capture:
		if d.Rejection != nil {
			return nil //nolint:nilerr // a rejected capture moves no money
		}
		return b.capture(p)
	case Void:
		done, ok := d.Result.(Cancellation)
		if !ok {
			return fmt.Errorf("the result is a %T, not a Cancellation", d.Result)
		}
		return b.void(p, c, done)
	default:
		return errors.New("unknown command")
	}
}

// authorise changes nothing when there is a payment: a void was settled first and has posted the authorisation too.
func (b *book) authorise(p *payment, c command, rejected bool) {
	if p != nil {
		return
	}
	p = &payment{order: c.OrderID, amount: c.Amount, currency: c.Currency}
	if rejected {
		b.set(p, statusDeclined)
		return
	}
	b.hold(p)
}

func (b *book) hold(p *payment) {
	b.set(p, statusAuthorised)
	b.post(p, kindAuthorise, accountHold, accountCustomer)
}

func (b *book) capture(p *payment) error {
	switch {
	case p != nil && p.status == statusCaptured:
		return nil
	case p == nil || p.status != statusAuthorised:
		return errors.New("the gateway has captured what is not authorised here")
	}
	b.set(p, statusCaptured)
	b.post(p, kindCapture, accountMerchant, accountHold)
	return nil
}

// void gives back what is held here. When nothing was recorded though the gateway held an amount, as after an
// authorisation whose outcome nobody has learned, both the hold and its end are posted.
func (b *book) void(p *payment, c command, done Cancellation) error {
	if p == nil {
		if !done.Voided {
			return nil
		}
		p = &payment{order: c.OrderID, amount: done.Amount, currency: done.Currency}
		b.hold(p)
	}
	switch p.status {
	case statusVoided, statusDeclined:
		return nil
	case statusCaptured:
		return errors.New("the gateway has voided what is captured here")
	}
	b.set(p, statusVoided)
	b.post(p, kindVoid, accountCustomer, accountHold)
	return nil
}

func scanBook(rows *sql.Rows, err error) (*book, error) {
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	b := &book{payments: map[string]*payment{}}
	for rows.Next() {
		p := &payment{}
		if err := rows.Scan(&p.order, &p.amount, &p.currency, &p.status); err != nil {
			return nil, err
		}
		b.payments[p.order] = p
	}
	return b, rows.Err()
}
