package demo

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/mainstay-io/mainstay/internal/client"
)

// Articles of the demo, without their prefix.
const (
	mug       = "mug"
	shirt     = "shirt"
	soldOut   = "sold-out"
	noSuch    = "no-such-article"
	nowhere   = "AQ" // a country whose carriers take nothing
	somewhere = "FR"
)

// levels is the stock that the demo sets; an article that is not here is unknown.
func levels() []level { return []level{{mug, 5000}, {shirt, 5000}, {soldOut, 0}} }

type level struct {
	sku    string
	onHand int64
}

// kind is a sort of order, and how it has to end.
type kind struct {
	name           string
	count          int
	token          string
	sku            string
	price          int64 // of one, in minor units
	country        string
	status, reason string
	why            string
	owes           string // what stays undone, "" for nothing
}

// allKinds are all the ways in which an order can end.
func allKinds() []kind {
	ok := kind{token: "tok_ok", sku: mug, price: 1250, country: somewhere, status: client.StatusConfirmed}
	bad := kind{token: "tok_ok", sku: mug, price: 1250, country: somewhere, status: client.StatusCancelled}
	with := func(k kind, name string, count int, change func(*kind)) kind {
		k.name, k.count = name, count
		change(&k)
		return k
	}
	return []kind{
		with(ok, "mug", 110, func(k *kind) { k.why = "reserved, paid, shipped" }),
		with(ok, "shirt", 50, func(k *kind) { k.sku, k.price, k.why = shirt, 1990, "reserved, paid, shipped" }),
		with(ok, "late payment answer", 10, func(k *kind) {
			k.token, k.why = "tok_timeout", "asked again with the same key"
		}),
		with(ok, "payment down twice", 17, func(k *kind) { k.token, k.why = "tok_flaky", "called again until it was answered" }),
		with(bad, "card declined", 6, func(k *kind) { k.token, k.reason, k.why = "tok_declined", "card_declined", "stock given back" }),
		with(bad, "card without money", 4, func(k *kind) {
			k.token, k.reason, k.why = "tok_insufficient_funds", "insufficient_funds", "stock given back"
		}),
		with(bad, "capture refused", 3, func(k *kind) {
			k.token, k.reason, k.why = "tok_capture_rejected", "capture_rejected", "unbooked, voided, stock given back"
		}),
		with(bad, "sold out", 4, func(k *kind) { k.sku, k.reason, k.why = soldOut, "out_of_stock", "payment voided" }),
		with(bad, "unknown article", 3, func(k *kind) { k.sku, k.reason, k.why = noSuch, "unknown_sku", "payment voided" }),
		with(bad, "nobody ships there", 4, func(k *kind) {
			k.country, k.reason, k.why = nowhere, "no_carrier", "payment voided, stock given back"
		}),
		with(bad, "void refused", 1, func(k *kind) {
			k.token, k.country, k.price, k.owes = "tok_void_fails", nowhere, 2495, "void"
			k.status, k.reason, k.why = client.StatusNeedsOperator, "no_carrier", "the gateway will not void: you must"
		}),
	}
}

// kindsForOthers leaves out what only a person could end: a running server waits long before it asks for one.
func kindsForOthers(all []kind) []kind {
	var kept []kind
	for _, k := range all {
		if k.status != client.StatusNeedsOperator {
			kept = append(kept, k)
		}
	}
	return kept
}

// skuPrefix is what the names of the demo's articles begin with. On somebody's server each run has its own, so that
// two demos do not count each other's units.
func skuPrefix(shared bool) string {
	if shared {
		return fmt.Sprintf("demo-%04x-", rand.N(0x10000))
	}
	return "demo-"
}

// planned is an order that will be sent.
type planned struct {
	kind int
	key  string
	at   time.Duration // since the first
	body client.NewOrder
}

// peakBegins and peakEnds are the part of the orders, in percent, that is sent all at once.
const peakBegins, peakEnds = 45, 75

// plan mixes all orders, the same way each time, and spreads them over a while, with a peak in the middle.
func plan(kinds []kind, prefix string, over time.Duration) (all []planned, _ []kind, _ string) {
	for i, k := range kinds {
		for range k.count {
			all = append(all, planned{kind: i, key: client.NewKey(), body: k.order(prefix)})
		}
	}
	mix := rand.New(rand.NewPCG(2, 7))
	mix.Shuffle(len(all), func(a, b int) { all[a], all[b] = all[b], all[a] })
	for i, p := range all {
		if kinds[p.kind].owes != "" { // takes longest, so it goes first
			all[0], all[i] = all[i], all[0]
		}
	}
	for i := range all {
		all[i].at = when(i, len(all), over)
	}
	return all, kinds, prefix
}

// when is the time of an order: evenly but for the peak, which has a fortieth of the time.
func when(i, n int, over time.Duration) time.Duration {
	percent := 100 * float64(i) / float64(n)
	peak := 2.5
	scale := (100 - peak) / (100 - (peakEnds - peakBegins))
	switch {
	case percent < peakBegins:
		percent *= scale
	case percent < peakEnds:
		percent = peakBegins*scale + (percent-peakBegins)/(peakEnds-peakBegins)*peak
	default:
		percent = 100 - (100-percent)*scale
	}
	return time.Duration(percent / 100 * float64(over))
}

func (k kind) order(prefix string) client.NewOrder {
	return client.NewOrder{
		CustomerID: "demo", Currency: currency,
		Lines:   []client.Line{{SKU: prefix + k.sku, Quantity: quantity, UnitPrice: k.price}},
		Payment: client.Payment{Token: k.token},
		Shipping: client.Shipping{
			Name: "Ada", Line1: "1 Main St", City: "Paris", PostalCode: "75001", Country: k.country,
		},
	}
}

// Every order is about two of something, in one currency.
const (
	quantity = 2
	currency = "EUR"
)
