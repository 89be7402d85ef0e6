package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/client"
	"github.com/mainstay-io/mainstay/internal/problem"
)

// Orders places orders at an ingest API, and waits for their ends where it is asked to.
type Orders struct {
	client *client.Client
	bodies [][]byte
	follow bool
	// patience bounds the wait for one end.
	patience time.Duration
}

// OrderConfig says which orders are placed and where.
type OrderConfig struct {
	// URL is the ingest API.
	URL string
	// SKUs are ordered in turn, one unit each.
	SKUs []string
	// Follow makes an operation end with the order; else it ends with the answer.
	Follow bool
	// Connections bounds those that are kept open: as many as there are requests at a time.
	Connections int
	Patience    time.Duration
}

// NewOrders makes the work; Close ends its connections.
func NewOrders(cfg OrderConfig) (*Orders, error) {
	dial := &net.Dialer{Timeout: 5 * time.Second}
	c, err := client.New(client.Config{URL: cfg.URL, Transport: &http.Transport{
		DialContext: dial.DialContext, MaxIdleConns: cfg.Connections, MaxIdleConnsPerHost: cfg.Connections,
		DisableCompression: true,
	}})
	if err != nil {
		return nil, err
	}
	o := &Orders{client: c, follow: cfg.Follow, patience: cfg.Patience}
	for _, sku := range cfg.SKUs {
		body, err := json.Marshal(client.NewOrder{
			CustomerID: "c-bench", Currency: "EUR", Lines: []client.Line{{SKU: sku, Quantity: 1, UnitPrice: 1250}},
			Payment:  client.Payment{Token: "tok_ok"},
			Shipping: client.Shipping{Name: "Ada", Line1: "1 Main St", City: "Paris", PostalCode: "75001", Country: "FR"},
		})
		if err != nil {
			return nil, fmt.Errorf("encoding an order: %w", err)
		}
		o.bodies = append(o.bodies, body)
	}
	return o, nil
}

// Close closes idle connections.
func (o *Orders) Close() { o.client.Close() }

// Begin places an order under a fresh key.
func (o *Orders) Begin(ctx context.Context, n int64) (Begun, error) {
	placed, err := o.client.PlaceRaw(ctx, client.NewKey(), o.bodies[n%int64(len(o.bodies))])
	b := Begun{Retries: max(placed.Attempts-1, 0)}
	switch {
	case err != nil:
		return b, faultOf(err)
	case placed.Replayed:
		return b, &Fault{"replayed", errors.New("a fresh key was answered as one that was used before")}
	}
	if o.follow {
		b.Finish = func(ctx context.Context) error { return o.await(ctx, placed.ID) }
	}
	return b, nil
}

// await waits for the order's end, which must be a good one: nothing is wrong with what was ordered.
func (o *Orders) await(ctx context.Context, id string) error {
	got, err := o.client.Await(ctx, id, o.patience)
	switch {
	case err != nil:
		return faultOf(err)
	case got.Status == client.StatusConfirmed:
		return nil
	case !got.Ended():
		return &Fault{kindUnfinished, fmt.Errorf("order %s is still %s", id, got.Status)}
	case got.Reason != nil:
		return &Fault{got.Status + " (" + got.Reason.Code + ")", fmt.Errorf("order %s: %s", id, got.Reason.Detail)}
	default:
		return &Fault{got.Status, fmt.Errorf("order %s", id)}
	}
}

// faultOf names the kind of an error of the client.
func faultOf(err error) error {
	var p *problem.Problem
	var coded *app.Error
	switch {
	case errors.As(err, &p):
		return &Fault{fmt.Sprintf("%d %s", p.Status, p.Title), err}
	case errors.As(err, &coded) && coded.Code == app.ExitUnreachable:
		return &Fault{"no answer", err}
	default:
		return &Fault{"error", err}
	}
}
