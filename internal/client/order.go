package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/google/uuid"

	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/clock"
)

// NewOrder is what a client orders. Amounts are in minor units of the currency.
type NewOrder struct {
	CustomerID string   `json:"customer_id"`
	Currency   string   `json:"currency"`
	Lines      []Line   `json:"lines"`
	Payment    Payment  `json:"payment"`
	Shipping   Shipping `json:"shipping"`
}

// Line is one line of an order.
type Line struct {
	SKU       string `json:"sku"`
	Quantity  int64  `json:"quantity"`
	UnitPrice int64  `json:"unit_price"`
}

// Payment says how an order is paid.
type Payment struct {
	Token string `json:"token"`
}

// Shipping says where an order goes.
type Shipping struct {
	Name       string `json:"name"`
	Line1      string `json:"line1"`
	City       string `json:"city"`
	PostalCode string `json:"postal_code"`
	Country    string `json:"country"`
}

// Statuses of an order.
const (
	StatusPending       = "pending"
	StatusConfirmed     = "confirmed"
	StatusCancelled     = "cancelled"
	StatusNeedsOperator = "needs_operator"
)

// Order is an order as the server tells it.
type Order struct {
	ID        string    `json:"id"`
	Status    string    `json:"status"`
	Total     int64     `json:"total"`
	Currency  string    `json:"currency"`
	CreatedAt time.Time `json:"created_at"`
	// Reason says why an order was cancelled, or needs an operator; else nil.
	Reason *Reason `json:"reason,omitempty"`
	// Raw is the whole answer of the server.
	Raw json.RawMessage `json:"-"`
}

// Reason is why an order did not go through.
type Reason struct {
	Code   string `json:"code"`
	Detail string `json:"detail"`
}

// Ended says whether the order has come to rest: nothing more happens to it by itself.
func (o Order) Ended() bool { return o.Status != "" && o.Status != StatusPending }

// Placed is an order that was accepted.
type Placed struct {
	Order
	// Replayed says that the answer was given for an earlier request with the same key.
	Replayed bool
	// Attempts is how often the order was sent.
	Attempts int
}

// NewKey makes an idempotency key.
func NewKey() string { return uuid.NewString() }

// PlaceOrder places an order under an idempotency key, sending it again with the same key until the server has
// answered for good, Config.Attempts are spent, or ctx ends. After an error of code app.ExitUnreachable nobody knows
// whether the order was accepted: place it again with the same key.
func (c *Client) PlaceOrder(ctx context.Context, key string, o NewOrder) (Placed, error) {
	body, err := json.Marshal(o)
	if err != nil {
		return Placed{}, fmt.Errorf("encoding the order: %w", err)
	}
	return c.PlaceRaw(ctx, key, body)
}

// PlaceRaw is PlaceOrder of a body as it is.
func (c *Client) PlaceRaw(ctx context.Context, key string, body []byte) (Placed, error) {
	a, attempts, err := c.insist(ctx, request{
		doing: "placing an order", method: http.MethodPost, url: c.cfg.URL + "/v1/orders", key: key, body: body,
	})
	if err != nil {
		return Placed{Attempts: attempts}, err
	}
	placed := Placed{Replayed: a.header.Get("Idempotent-Replayed") == "true", Attempts: attempts}
	placed.Order, err = readOrder(a)
	return placed, err
}

// Order reads an order. With a wait above zero, at most app.MaxWait, the server answers as soon as the order has
// ended, or when the wait is over.
func (c *Client) Order(ctx context.Context, id string, wait time.Duration) (Order, error) {
	r := request{
		doing: "getting order " + id, method: http.MethodGet, url: c.cfg.URL + "/v1/orders/" + url.PathEscape(id), wait: wait,
	}
	if wait > 0 {
		r.url += "?wait=" + url.QueryEscape(wait.String())
	}
	a, err := c.send(ctx, r)
	if err != nil {
		return Order{}, err
	}
	return readOrder(a)
}

// Await reads an order until it has ended or the time is over, whichever is first, and answers with what is true
// then. It lives through restarts and overloads of the server; when the last try failed, its error is the answer.
func (c *Client) Await(ctx context.Context, id string, atMost time.Duration) (Order, error) {
	since := clock.Start()
	for attempt := 1; ; attempt++ {
		left := atMost - since.Elapsed()
		o, err := c.Order(ctx, id, max(min(left, app.MaxWait), time.Millisecond))
		left = atMost - since.Elapsed()
		switch {
		case err == nil && (o.Ended() || left <= 0), ctx.Err() != nil:
			return o, err
		case err == nil:
			attempt = 0
			continue
		case left <= 0, !passing(err):
			return o, err
		}
		if !pause(ctx, min(c.backoff(attempt), left)) {
			return o, err
		}
	}
}

// passing says whether an error is one that time may heal.
func passing(err error) bool {
	var coded *app.Error
	return errors.As(err, &coded) && coded.Code == app.ExitUnreachable
}

func readOrder(a answer) (Order, error) {
	var o Order
	if err := decode(a, &o); err != nil {
		return Order{}, err
	}
	if o.ID == "" || o.Status == "" {
		return Order{}, notOurs(a, errors.New("it has no id or no status"))
	}
	o.Raw = a.body
	return o, nil
}

func decode(a answer, into any) error {
	if err := json.Unmarshal(a.body, into); err != nil {
		return notOurs(a, err)
	}
	return nil
}

func notOurs(a answer, err error) error {
	return app.Errorf(app.ExitError, "Is it a Mainstay server, and of this version?",
		"reading the answer (%d, %s): %w", a.status, a.header.Get("Content-Type"), err)
}
