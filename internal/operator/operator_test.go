package operator_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/mainstay-io/mainstay/internal/operator"
	"github.com/mainstay-io/mainstay/internal/problem"
)

type inventory map[string]int64

func (f inventory) Set(_ context.Context, sku string, onHand int64) (operator.Stock, error) {
	f[sku] = onHand
	return operator.Stock{SKU: sku, OnHand: onHand, Reserved: 2}, nil
}

func (f inventory) Get(_ context.Context, sku string) (operator.Stock, error) {
	n, ok := f[sku]
	switch {
	case sku == "broken":
		return operator.Stock{}, errors.New("secret")
	case !ok:
		return operator.Stock{}, operator.ErrNotFound
	}
	return operator.Stock{SKU: sku, OnHand: n}, nil
}

type carriers struct{}

func (carriers) Set(_ context.Context, country string, capacity *int64) (operator.Carrier, error) {
	return operator.Carrier{Country: country, Capacity: capacity}, nil
}

func (carriers) Get(_ context.Context, country string) (operator.Carrier, error) {
	return operator.Carrier{Country: country, Booked: 3}, nil
}

func TestHTTP(t *testing.T) {
	t.Parallel()
	const unlimited = `{"country":"FR","capacity":null,"booked":0,"dispatched":0}`
	for name, c := range map[string]struct {
		request string // method, path and body
		status  int
		has     string
	}{
		"set stock":        {`PUT /v1/inventory/mug-red {"on_hand":100}`, 200, `{"sku":"mug-red","on_hand":100,"reserved":2,"shipped":0}`},
		"set to nothing":   {`PUT /v1/inventory/mug {"on_hand":0}`, 200, `"on_hand":0`},
		"get stock":        {`GET /v1/inventory/known `, 200, `"on_hand":7`},
		"unknown stock":    {`GET /v1/inventory/mug `, 404, `"not_found"`},
		"broken store":     {`GET /v1/inventory/broken `, 503, `"unavailable"`},
		"bad sku":          {`PUT /v1/inventory/Mug {"on_hand":1}`, 400, `"bad_request"`},
		"long sku":         {`GET /v1/inventory/` + strings.Repeat("a", 65) + ` `, 400, `"bad_request"`},
		"no amount":        {`PUT /v1/inventory/mug {}`, 400, `"/on_hand"`},
		"below zero":       {`PUT /v1/inventory/mug {"on_hand":-1}`, 400, `"/on_hand"`},
		"a fraction":       {`PUT /v1/inventory/mug {"on_hand":1.5}`, 400, `"wrong_type"`},
		"unknown member":   {`PUT /v1/inventory/mug {"on_hand":1,"On_hand":2}`, 400, `"/On_hand"`},
		"set capacity":     {`PUT /v1/carriers/FR {"capacity":0}`, 200, `"capacity":0`},
		"lift capacity":    {`PUT /v1/carriers/FR {"capacity":null}`, 200, unlimited},
		"no capacity":      {`PUT /v1/carriers/FR {}`, 400, `"required"`},
		"capacity as text": {`PUT /v1/carriers/FR {"capacity":"1"}`, 400, `"wrong_type"`},
		"capacity below":   {`PUT /v1/carriers/FR {"capacity":-1}`, 400, `"out_of_range"`},
		"get carrier":      {`GET /v1/carriers/FR `, 200, `"booked":3`},
		"bad country":      {`GET /v1/carriers/fr `, 400, `"bad_request"`},
		"bad country, put": {`PUT /v1/carriers/FRA {"capacity":1}`, 400, `"bad_request"`},
		"other method":     {`DELETE /v1/carriers/FR `, 405, `"method_not_allowed"`},
		"too large":        {`PUT /v1/carriers/FR ` + strings.Repeat(" ", 5000), 413, `"body_too_large"`},
		"large stock body": {`PUT /v1/inventory/mug ` + strings.Repeat(" ", 5000), 413, `"body_too_large"`},
		"not json":         {`PUT /v1/carriers/FR capacity=1`, 400, `"malformed_json"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mux := http.NewServeMux()
			h := operator.HTTP{Inventory: inventory{"known": 7}, Carriers: carriers{}, Log: slog.New(slog.DiscardHandler)}
			h.Mount(mux)
			problem.MountFallback(mux)
			part := strings.SplitN(c.request, " ", 3)
			w := httptest.NewRecorder()
			mux.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), part[0], part[1], strings.NewReader(part[2])))
			if w.Code != c.status || !strings.Contains(w.Body.String(), c.has) || strings.Contains(w.Body.String(), "secret") {
				t.Fatalf("%d %s", w.Code, w.Body)
			}
		})
	}
}
