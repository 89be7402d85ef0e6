package client_test

import (
	"math"
	"testing"

	"github.com/mainstay-io/mainstay/internal/client"
)

func TestMoney(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		minor    int64
		currency string
		want     string
	}{
		{2500, "EUR", "25.00 EUR"},
		{5, "EUR", "0.05 EUR"},
		{0, "USD", "0.00 USD"},
		{-105, "EUR", "-1.05 EUR"},
		{2500, "JPY", "2500 JPY"},
		{-2500, "JPY", "-2500 JPY"},
		{2500, "KWD", "2.500 KWD"},
		{5, "KWD", "0.005 KWD"},
		{math.MinInt64, "EUR", "-92233720368547758.08 EUR"},
	} {
		if got := client.Money(tc.minor, tc.currency); got != tc.want {
			t.Errorf("Money(%d, %s) is %q, want %q", tc.minor, tc.currency, got, tc.want)
		}
	}
}
