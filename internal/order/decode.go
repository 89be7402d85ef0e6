package order

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/mainstay-io/mainstay/internal/problem"
)

// Limits of a draft.
const (
	maxBody      = 256 << 10
	maxText      = 128
	maxAddress   = 256
	maxPostal    = 32
	maxSKU       = 64
	maxLines     = 100
	maxQuantity  = 10_000
	maxUnitPrice = 1_000_000_000
)

// The largest total fits: a change of the limits that breaks this does not compile.
const _ int64 = maxLines * maxQuantity * maxUnitPrice

// Decode reads a draft and gives its total in minor units. The problem names every mistake; it is nil when there is
// none.
func Decode(body []byte) (Draft, int64, *problem.Problem) {
	var w written
	mistakes, p := problem.Decode(body, &w)
	if p != nil {
		return Draft{}, 0, p
	}
	d := Draft{CustomerID: w.CustomerID, Currency: w.Currency, Payment: w.Payment, Shipping: w.Shipping}
	v := validator{&mistakes}
	for i, l := range w.Lines {
		d.Lines = append(d.Lines, v.priced(fmt.Sprintf("/lines/%d", i), l))
	}
	total := v.draft(&d)
	if p := mistakes.Problem(); p != nil {
		return Draft{}, 0, p
	}
	return d, total, nil
}

// written is a draft as it is read: nothing may be had for free because its price was left out.
type written struct {
	CustomerID string        `json:"customer_id"`
	Currency   string        `json:"currency"`
	Lines      []writtenLine `json:"lines"`
	Payment    Payment       `json:"payment"`
	Shipping   Shipping      `json:"shipping"`
}

type writtenLine struct {
	SKU       string `json:"sku"`
	Quantity  int64  `json:"quantity"`
	UnitPrice *int64 `json:"unit_price"`
}

// priced is the line, whose price must be there, be it zero.
func (v validator) priced(at string, l writtenLine) Line {
	price := int64(0)
	if l.UnitPrice == nil {
		v.Add(at+"/unit_price", problem.MistakeRequired, "is required")
	} else {
		price = *l.UnitPrice
	}
	return Line{SKU: l.SKU, Quantity: l.Quantity, UnitPrice: price}
}

type validator struct{ *problem.Mistakes }

func (v validator) draft(d *Draft) (total int64) {
	v.text("/customer_id", d.CustomerID, maxText)
	switch {
	case d.Currency == "":
		v.Add("/currency", problem.MistakeRequired, "is required")
	case !isCurrency(d.Currency):
		v.Add("/currency", problem.MistakeFormat, "must be an active ISO 4217 code, in capitals")
	}
	total = v.lines(d.Lines)
	v.token("/payment/token", d.Payment.Token)
	v.text("/shipping/name", d.Shipping.Name, maxAddress)
	v.text("/shipping/line1", d.Shipping.Line1, maxAddress)
	v.text("/shipping/city", d.Shipping.City, maxAddress)
	v.text("/shipping/postal_code", d.Shipping.PostalCode, maxPostal)
	if !isCountry(d.Shipping.Country) {
		v.Add("/shipping/country", problem.MistakeFormat, "must be an ISO 3166 alpha-2 code, in capitals")
	}
	return total
}

func (v validator) lines(lines []Line) (total int64) {
	if len(lines) == 0 || len(lines) > maxLines {
		v.Add("/lines", problem.MistakeRange, fmt.Sprintf("must have 1 to %d elements", maxLines))
		return 0
	}
	for i, l := range lines {
		v.line(fmt.Sprintf("/lines/%d", i), l)
	}
	if v.Within("/lines") {
		return 0
	}
	for _, l := range lines {
		total += l.Quantity * l.UnitPrice // 100 lines of at most 10^13: cannot overflow
	}
	if total == 0 {
		v.Add("/lines", problem.MistakeRange, "the total must be above zero")
	}
	return total
}

func (v validator) line(at string, l Line) {
	if !isSKU(l.SKU) {
		v.Add(at+"/sku", problem.MistakeFormat, fmt.Sprintf("must be 1 to %d of a-z, 0-9, '.', '_' and '-', and begin with a letter or digit", maxSKU))
	}
	if l.Quantity < 1 || l.Quantity > maxQuantity {
		v.Add(at+"/quantity", problem.MistakeRange, fmt.Sprintf("must be 1 to %d", maxQuantity))
	}
	if l.UnitPrice < 0 || l.UnitPrice > maxUnitPrice {
		v.Add(at+"/unit_price", problem.MistakeRange, fmt.Sprintf("must be 0 to %d minor units", maxUnitPrice))
	}
}

// text checks a required text of at most limit characters, without control characters.
func (v validator) text(at, s string, limit int) {
	switch {
	case strings.TrimSpace(s) == "":
		v.Add(at, problem.MistakeRequired, "is required")
	case utf8.RuneCountInString(s) > limit:
		v.Add(at, problem.MistakeRange, fmt.Sprintf("must have at most %d characters", limit))
	case strings.ContainsFunc(s, unicode.IsControl):
		v.Add(at, problem.MistakeFormat, "must not hold control characters")
	}
}

func (v validator) token(at, s string) {
	invisible := func(r rune) bool { return r <= ' ' || r > '~' }
	switch {
	case s == "":
		v.Add(at, problem.MistakeRequired, "is required")
	case len(s) > maxText || strings.ContainsFunc(s, invisible):
		v.Add(at, problem.MistakeFormat, fmt.Sprintf("must be 1 to %d visible ASCII characters", maxText))
	}
}

func isSKU(s string) bool {
	if s == "" || len(s) > maxSKU || strings.IndexByte("._-", s[0]) >= 0 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && strings.IndexByte("._-", c) < 0 {
			return false
		}
	}
	return true
}

func isCountry(s string) bool {
	return len(s) == 2 && s[0] >= 'A' && s[0] <= 'Z' && s[1] >= 'A' && s[1] <= 'Z'
}

// currencies are the active codes of ISO 4217, list one of 2024, without funds, precious metals and test codes.
const currencies = "AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF " +
	"CLP CNY COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL HTG HUF IDR " +
	"ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD MMK MNT MOP " +
	"MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD RUB RWF SAR SBD SCR SDG " +
	"SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH UGX USD UYU UZS VED VES VND VUV WST " +
	"XAF XCD XCG XOF XPF YER ZAR ZMW ZWG"

func isCurrency(s string) bool {
	at := strings.Index(currencies, s)
	return len(s) == 3 && at >= 0 && at%4 == 0 // words of three letters, and one space
}
