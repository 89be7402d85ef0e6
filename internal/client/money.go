package client

import (
	"fmt"
	"strings"
)

// Currencies of ISO 4217 whose major unit is not a hundred minor ones.
const (
	noDecimals    = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF"
	threeDecimals = "BHD IQD JOD KWD LYD OMR TND"
)

// Money is an amount in minor units of a currency as people read it: "25.00 EUR", "2500 JPY".
func Money(minor int64, currency string) string {
	sign, digits := "", fmt.Sprint(minor)
	if minor < 0 {
		sign, digits = "-", digits[1:]
	}
	decimals := decimalsOf(currency)
	if decimals == 0 {
		return sign + digits + " " + currency
	}
	digits = strings.Repeat("0", max(0, decimals+1-len(digits))) + digits
	point := len(digits) - decimals
	return sign + digits[:point] + "." + digits[point:] + " " + currency
}

func decimalsOf(currency string) int {
	switch {
	case len(currency) != 3:
		return 2
	case strings.Contains(noDecimals, currency):
		return 0
	case strings.Contains(threeDecimals, currency):
		return 3
	}
	return 2
}
