// Package operator is the HTTP API of operators: what stands in the stores, and what the carriers take. It trusts its
// callers; the address that it is served on is the protection.
package operator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/mainstay-io/mainstay/internal/problem"
)

const (
	maxBody     = 4 << 10
	maxSKU      = 64
	maxQuantity = 1_000_000_000_000

	routePutStock   = "PUT /v1/inventory/{sku}"
	routeGetStock   = "GET /v1/inventory/{sku}"
	routePutCarrier = "PUT /v1/carriers/{country}"
	routeGetCarrier = "GET /v1/carriers/{country}"
)

// ErrNotFound: nothing is known under the name.
var ErrNotFound = errors.New("operator: not found")

// Stock is what is known of a SKU, in units. Orders move units between the three and never change their sum.
type Stock struct {
	SKU string `json:"sku"`
	// OnHand can still be reserved.
	OnHand   int64 `json:"on_hand"`
	Reserved int64 `json:"reserved"`
	Shipped  int64 `json:"shipped"`
}

// Carrier is what the carriers of a country have taken and still take.
type Carrier struct {
	Country string `json:"country"`
	// Capacity limits the open bookings; nil is unlimited.
	Capacity   *int64 `json:"capacity"`
	Booked     int64  `json:"booked"`
	Dispatched int64  `json:"dispatched"`
}

// StockLevel is the body that sets stock.
type StockLevel struct {
	OnHand *int64 `json:"on_hand"`
}

// CarrierLimit is the body that sets a capacity: a number, or null for none.
type CarrierLimit struct {
	Capacity jsontext.Value `json:"capacity"`
}

// Inventory keeps stock.
type Inventory interface {
	// Set makes onHand what can still be reserved, and the SKU known.
	Set(ctx context.Context, sku string, onHand int64) (Stock, error)
	// Get reads stock; ErrNotFound for a SKU that was never set.
	Get(ctx context.Context, sku string) (Stock, error)
}

// Carriers keep capacities; every country has one, unlimited until it is set.
type Carriers interface {
	Set(ctx context.Context, country string, capacity *int64) (Carrier, error)
	Get(ctx context.Context, country string) (Carrier, error)
}

// HTTP has the operator's routes.
type HTTP struct {
	Inventory Inventory
	Carriers  Carriers
	Log       *slog.Logger
}

// Routes lists the patterns that Mount registers.
func Routes() []string {
	return []string{routePutStock, routeGetStock, routePutCarrier, routeGetCarrier}
}

// Mount registers the routes.
func (h *HTTP) Mount(mux *http.ServeMux) {
	mux.HandleFunc(routePutStock, h.putStock)
	mux.HandleFunc(routeGetStock, h.getStock)
	mux.HandleFunc(routePutCarrier, h.putCarrier)
	mux.HandleFunc(routeGetCarrier, h.getCarrier)
}

func (h *HTTP) putStock(w http.ResponseWriter, r *http.Request) {
	sku, p := skuOf(r)
	if p != nil {
		problem.Write(w, r, p)
		return
	}
	var level StockLevel
	p = decode(w, r, &level, func(m *problem.Mistakes) {
		switch {
		case level.OnHand == nil:
			m.Add("/on_hand", problem.MistakeRequired, "is required")
		case *level.OnHand < 0 || *level.OnHand > maxQuantity:
			m.Add("/on_hand", problem.MistakeRange, fmt.Sprintf("must be 0 to %d", maxQuantity))
		}
	})
	if p != nil {
		problem.Write(w, r, p)
		return
	}
	stock, err := h.Inventory.Set(r.Context(), sku, *level.OnHand)
	h.answer(w, r, "setting stock", stock, err)
}

func (h *HTTP) getStock(w http.ResponseWriter, r *http.Request) {
	sku, p := skuOf(r)
	if p != nil {
		problem.Write(w, r, p)
		return
	}
	stock, err := h.Inventory.Get(r.Context(), sku)
	h.answer(w, r, "reading stock", stock, err)
}

func (h *HTTP) putCarrier(w http.ResponseWriter, r *http.Request) {
	country, p := countryOf(r)
	if p != nil {
		problem.Write(w, r, p)
		return
	}
	var limit CarrierLimit
	var capacity *int64
	p = decode(w, r, &limit, func(m *problem.Mistakes) {
		switch {
		case len(limit.Capacity) == 0:
			m.Add("/capacity", problem.MistakeRequired, "is required; null is unlimited")
		case json.Unmarshal(limit.Capacity, &capacity) != nil:
			m.Add("/capacity", problem.MistakeType, "must be an integer or null")
		case capacity != nil && (*capacity < 0 || *capacity > maxQuantity):
			m.Add("/capacity", problem.MistakeRange, fmt.Sprintf("must be 0 to %d, or null", maxQuantity))
		}
	})
	if p != nil {
		problem.Write(w, r, p)
		return
	}
	carrier, err := h.Carriers.Set(r.Context(), country, capacity)
	h.answer(w, r, "setting a carrier's capacity", carrier, err)
}

func (h *HTTP) getCarrier(w http.ResponseWriter, r *http.Request) {
	country, p := countryOf(r)
	if p != nil {
		problem.Write(w, r, p)
		return
	}
	carrier, err := h.Carriers.Get(r.Context(), country)
	h.answer(w, r, "reading a carrier", carrier, err)
}

// decode reads a body and has it checked; nil when there is no mistake.
func decode(w http.ResponseWriter, r *http.Request, into any, check func(*problem.Mistakes)) *problem.Problem {
	body, p := problem.ReadBody(w, r, maxBody)
	if p != nil {
		return p
	}
	mistakes, p := problem.Decode(body, into)
	if p != nil {
		return p
	}
	check(&mistakes)
	return mistakes.Problem()
}

func skuOf(r *http.Request) (string, *problem.Problem) {
	sku := r.PathValue("sku")
	for i := range len(sku) {
		c := sku[i]
		alphanumeric := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		if !alphanumeric && (i == 0 || c != '.' && c != '_' && c != '-') || i >= maxSKU {
			return "", problem.New(problem.BadRequest,
				"a SKU is 1 to 64 of a-z, 0-9, '.', '_' and '-', and begins with a letter or digit")
		}
	}
	return sku, nil
}

func countryOf(r *http.Request) (string, *problem.Problem) {
	country := r.PathValue("country")
	if len(country) != 2 || country[0] < 'A' || country[0] > 'Z' || country[1] < 'A' || country[1] > 'Z' {
		return "", problem.New(problem.BadRequest, "a country is an ISO 3166 alpha-2 code, in capitals")
	}
	return country, nil
}

func (h *HTTP) answer(w http.ResponseWriter, r *http.Request, doing string, v any, err error) {
	switch {
	case err == nil:
		problem.WriteJSON(w, http.StatusOK, v)
	case errors.Is(err, ErrNotFound):
		problem.Write(w, r, problem.New(problem.NotFound, "nothing is known under this name"))
	default:
		if r.Context().Err() == nil {
			h.Log.ErrorContext(r.Context(), "request failed", "doing", doing, "err", err)
		}
		problem.Write(w, r, problem.New(problem.Unavailable, "the database could not be asked now").After(time.Second))
	}
}
