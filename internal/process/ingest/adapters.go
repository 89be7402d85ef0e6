package ingest

import (
	"context"
	"errors"
	"time"

	"github.com/mainstay-io/mainstay/internal/ingest"
	"github.com/mainstay-io/mainstay/internal/inventory"
	"github.com/mainstay-io/mainstay/internal/logistics"
	"github.com/mainstay-io/mainstay/internal/operator"
	"github.com/mainstay-io/mainstay/internal/order"
	"github.com/mainstay-io/mainstay/internal/problem"
)

// Accepter lets orders in through ingest.
type Accepter struct{ In *ingest.Ingest }

// Accept implements order.Accepter.
func (a Accepter) Accept(ctx context.Context, s order.Submission) (order.Receipt, error) {
	key, err := ingest.ParseKey(s.Key)
	if err != nil {
		return order.Receipt{}, problemOf(err)
	}
	fingerprint, err := ingest.Fingerprint(s.Method, s.Path, s.Body)
	if err != nil {
		return order.Receipt{}, problem.New(problem.BadRequest, err.Error())
	}
	answer, replayed, err := a.In.Accept(ctx, &ingest.Request{
		Principal: s.Principal, Route: s.Route, Key: key, Fingerprint: fingerprint,
		Answer: ingest.Answer(s.Answer), Item: s.Order,
	})
	if err != nil {
		return order.Receipt{}, problemOf(err)
	}
	return order.Receipt{Answer: order.Answer(answer), Replayed: replayed}, nil
}

// problemOf tells a client what ingest says; an error that is none of the client's business stays as it is.
func problemOf(err error) error {
	switch {
	case errors.Is(err, ingest.ErrKeyMissing):
		return problem.New(problem.KeyMissing, "send an Idempotency-Key of 1 to 255 visible ASCII characters, fresh for every intention")
	case errors.Is(err, ingest.ErrKeyInvalid):
		return problem.New(problem.KeyInvalid, "an Idempotency-Key is 1 to 255 visible ASCII characters, bare or in quotes, sent once")
	case errors.Is(err, ingest.ErrKeyReused):
		return problem.New(problem.KeyReused, "the key was used before, for another request; nothing has changed. Take a fresh key for another intention")
	case errors.Is(err, ingest.ErrInFlight):
		return problem.New(problem.KeyInFlight, "a request with this key is being worked on; send the same again in a moment").After(time.Second)
	case errors.Is(err, ingest.ErrOverloaded):
		return problem.New(problem.Overloaded, "too many requests are in flight; send the same again, with the same key").After(time.Second)
	case errors.Is(err, ingest.ErrClosed), errors.Is(err, ingest.ErrUnavailable):
		return problem.New(problem.Unavailable, "the order could not be stored now; send the same again, with the same key").After(time.Second)
	default:
		return err
	}
}

// stock is the operators' view of inventory.
type stock struct{ desk *inventory.Desk }

func (s stock) Set(ctx context.Context, sku string, onHand int64) (operator.Stock, error) {
	return stockView(sku)(s.desk.Set(ctx, sku, onHand))
}

func (s stock) Get(ctx context.Context, sku string) (operator.Stock, error) {
	return stockView(sku)(s.desk.Get(ctx, sku))
}

func stockView(sku string) func(inventory.Stock, error) (operator.Stock, error) {
	return func(st inventory.Stock, err error) (operator.Stock, error) {
		if errors.Is(err, inventory.ErrUnknownSKU) {
			err = operator.ErrNotFound
		}
		return operator.Stock{SKU: sku, OnHand: st.OnHand, Reserved: st.Reserved, Shipped: st.Shipped}, err
	}
}

// carriers is the operators' view of logistics.
type carriers struct{ desk *logistics.Desk }

func (c carriers) Set(ctx context.Context, country string, capacity *int64) (operator.Carrier, error) {
	return carrierView(country)(c.desk.SetCapacity(ctx, country, capacity))
}

func (c carriers) Get(ctx context.Context, country string) (operator.Carrier, error) {
	return carrierView(country)(c.desk.Get(ctx, country))
}

func carrierView(country string) func(logistics.Carrier, error) (operator.Carrier, error) {
	return func(ca logistics.Carrier, err error) (operator.Carrier, error) {
		return operator.Carrier{Country: country, Capacity: ca.Capacity, Booked: ca.Booked, Dispatched: ca.Dispatched}, err
	}
}
