package order

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/mainstay-io/mainstay"
)

// Start is a saga to begin for an order.
type Start struct {
	OrderID     string
	Data        []byte
	Traceparent string
}

// Intake stores orders that were accepted.
type Intake struct {
	store store
	start func(ctx context.Context, tx mainstay.Tx, starts []Start) error
}

// NewIntake makes an intake; start begins the sagas, in the same transaction.
func NewIntake(dialect mainstay.Dialect, start func(ctx context.Context, tx mainstay.Tx, starts []Start) error) *Intake {
	return &Intake{store: storeFor(dialect), start: start}
}

// Write stores orders, starts their sagas and announces them, all in tx.
func (in *Intake) Write(ctx context.Context, tx mainstay.Tx, orders []*Order) error {
	if err := in.store.insert(ctx, tx, orders); err != nil {
		return err
	}
	starts := make([]Start, len(orders))
	for i, o := range orders {
		d, err := json.Marshal(data{o.Total, o.Currency, o.Shipping.Country, o.Lines})
		if err != nil {
			return fmt.Errorf("encoding order %s: %w", o.ID, err)
		}
		starts[i] = Start{o.ID, d, o.Traceparent}
		event, err := o.event()
		if err != nil {
			return err
		}
		tx.Send(event)
	}
	return in.start(withPrivate(ctx, orders), tx, starts)
}

type privateKey struct{}

// withPrivate carries the personal data of orders that are just being written to Binding.Commands, which would
// otherwise have to read it back in the same transaction.
func withPrivate(ctx context.Context, orders []*Order) context.Context {
	m := make(map[string]private, len(orders))
	for _, o := range orders {
		m[o.ID] = private{o.Payment, o.Shipping}
	}
	return context.WithValue(ctx, privateKey{}, m)
}

func (o *Order) event() (*mainstay.Message, error) {
	payload, err := json.Marshal(struct {
		OrderID    string `json:"order_id"`
		CustomerID string `json:"customer_id"`
		Total      int64  `json:"total"`
		Currency   string `json:"currency"`
		Lines      []Line `json:"lines"`
	}{o.ID, o.CustomerID, o.Total, o.Currency, o.Lines})
	if err != nil {
		return nil, fmt.Errorf("encoding an event: %w", err)
	}
	m := eventMessage(o.ID, EventPlaced, payload)
	m.Traceparent = o.Traceparent
	return m, nil
}
