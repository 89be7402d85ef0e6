package order

import (
	"errors"
	"time"
)

// Status is how far an order is.
type Status string

// Statuses.
const (
	Pending       Status = "pending"
	Confirmed     Status = "confirmed"
	Cancelled     Status = "cancelled"
	NeedsOperator Status = "needs_operator"
)

// Ended says that a client need not wait any longer: the order is confirmed, cancelled, or waits for a person.
func (s Status) Ended() bool { return s != Pending }

// ErrNotFound: there is no order with the id.
var ErrNotFound = errors.New("there is no such order")

// Draft is the body of POST /v1/orders, in the client's words.
type Draft struct {
	CustomerID string   `json:"customer_id"`
	Currency   string   `json:"currency"`
	Lines      []Line   `json:"lines"`
	Payment    Payment  `json:"payment"`
	Shipping   Shipping `json:"shipping"`
}

// Line is a quantity of one article; the price is in minor units of the order's currency.
type Line struct {
	SKU       string `json:"sku"`
	Quantity  int64  `json:"quantity"`
	UnitPrice int64  `json:"unit_price"`
}

// Payment is how the order is paid. The token is personal data.
type Payment struct {
	Token string `json:"token"`
}

// Shipping is where the order goes. All of it but the country is personal data.
type Shipping struct {
	Name       string `json:"name"`
	Line1      string `json:"line1"`
	City       string `json:"city"`
	PostalCode string `json:"postal_code"`
	Country    string `json:"country"`
}

// Order is an accepted order, as it is stored with its saga.
type Order struct {
	ID        string // a UUID, version 7
	Principal string
	Draft
	Total       int64 // minor units, above zero
	CreatedAt   time.Time
	Traceparent string
}

// View is an order as clients see it: without personal data.
type View struct {
	ID         string    `json:"id"`
	Status     Status    `json:"status"`
	CustomerID string    `json:"customer_id"`
	Currency   string    `json:"currency"`
	Total      int64     `json:"total"`
	Lines      []Line    `json:"lines"`
	Reason     *Reason   `json:"reason,omitempty"`
	CreatedAt  time.Time `json:"created_at"`
	UpdatedAt  time.Time `json:"updated_at"`
}

// Reason says why an order was cancelled, or, when it needs an operator, why it was to be.
type Reason struct {
	Code   string `json:"code"`
	Detail string `json:"detail"`
}

// View is how o looks right after its acceptance.
func (o *Order) View() View {
	return View{
		ID: o.ID, Status: Pending, CustomerID: o.CustomerID, Currency: o.Currency, Total: o.Total, Lines: o.Lines,
		CreatedAt: o.CreatedAt, UpdatedAt: o.CreatedAt,
	}
}
