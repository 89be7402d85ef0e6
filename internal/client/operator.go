package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"

	"github.com/mainstay-io/mainstay/internal/app"
)

// Stock is what is known of a SKU, in units. Orders move units between the three and never change their sum.
type Stock struct {
	SKU string `json:"sku"`
	// OnHand can still be reserved.
	OnHand   int64 `json:"on_hand"`
	Reserved int64 `json:"reserved"`
	Shipped  int64 `json:"shipped"`
}

// Carrier is how much the carriers of a country can still take.
type Carrier struct {
	Country string `json:"country"`
	// Capacity is in shipments; nil is unlimited.
	Capacity *int64 `json:"capacity"`
}

// PutStock sets what can be reserved of a SKU.
func (c *Client) PutStock(ctx context.Context, sku string, onHand int64) (Stock, error) {
	return operate[Stock](ctx, c, "setting the stock of "+sku, http.MethodPut, "/v1/inventory/"+url.PathEscape(sku),
		map[string]int64{"on_hand": onHand})
}

// Stock reads what is known of a SKU.
func (c *Client) Stock(ctx context.Context, sku string) (Stock, error) {
	return operate[Stock](ctx, c, "getting the stock of "+sku, http.MethodGet, "/v1/inventory/"+url.PathEscape(sku), nil)
}

// PutCarrier sets how many more shipments the carriers of a country take.
func (c *Client) PutCarrier(ctx context.Context, country string, capacity int64) (Carrier, error) {
	return operate[Carrier](ctx, c, "setting the carriers of "+country, http.MethodPut, "/v1/carriers/"+url.PathEscape(country),
		map[string]int64{"capacity": capacity})
}

// Carrier reads how many more shipments the carriers of a country take.
func (c *Client) Carrier(ctx context.Context, country string) (Carrier, error) {
	return operate[Carrier](ctx, c, "getting the carriers of "+country, http.MethodGet, "/v1/carriers/"+url.PathEscape(country), nil)
}

// operate sends one request to the operator API; a nil body is none.
func operate[T any](ctx context.Context, c *Client, doing, method, path string, body any) (T, error) {
	var got T
	r := request{doing: doing, method: method, url: c.cfg.OpsURL + path}
	if body != nil {
		var err error
		if r.body, err = json.Marshal(body); err != nil {
			return got, fmt.Errorf("%s: encoding: %w", doing, err)
		}
	}
	a, err := c.send(ctx, r)
	if err != nil {
		return got, err
	}
	return got, decode(a, &got)
}

// Readiness is what a process says of itself.
type Readiness struct {
	Ready  bool         `json:"ready"`
	Checks []app.Result `json:"checks"`
}

// Ready asks whether the process is ready. That it is not is an answer, no error.
func (c *Client) Ready(ctx context.Context) (Readiness, error) {
	var got Readiness
	a, err := c.send(ctx, request{doing: "asking for readiness", method: http.MethodGet, url: c.cfg.OpsURL + "/readyz"})
	if err != nil && (a.status != http.StatusServiceUnavailable || decode(a, &got) != nil) {
		return got, err
	}
	return got, decode(a, &got)
}
