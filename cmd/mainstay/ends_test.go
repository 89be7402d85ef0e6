package main

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mainstay-io/mainstay/internal/broker/natsembed"
	"github.com/mainstay-io/mainstay/internal/client"
	"github.com/mainstay-io/mainstay/internal/testkit/load"
	"github.com/mainstay-io/mainstay/internal/testkit/pgtest"
	"github.com/mainstay-io/mainstay/internal/testkit/proc"
)

// ends are the ways in which an order can end, and how each is reached from outside: with a token, a SKU, or the
// setting of a country's carriers (Atlantis, "AQ", has none; see carriersOf). deadline_exceeded is TestServe_Deadline's.
func ends() []struct{ token, sku, country, want string } {
	return []struct{ token, sku, country, want string }{
		{"tok_ok", "mug-red", "FR", "confirmed"},
		{"tok_timeout", "mug-red", "FR", "confirmed"},
		{"tok_flaky", "mug-red", "FR", "confirmed"},
		{"tok_void_fails", "mug-red", "FR", "confirmed"}, // nothing had to be voided
		{"tok_declined", "mug-red", "FR", "cancelled card_declined"},
		{"tok_insufficient_funds", "mug-red", "FR", "cancelled insufficient_funds"},
		{"tok_of_nobody", "mug-red", "FR", "cancelled invalid_token"},
		{"tok_capture_rejected", "mug-red", "FR", "cancelled capture_rejected"},
		{"tok_ok", "last-one", "FR", "cancelled out_of_stock"},
		{"tok_ok", "no-such-sku", "FR", "cancelled unknown_sku"},
		{"tok_timeout", "no-such-sku", "FR", "cancelled unknown_sku"},
		{"tok_ok", "mug-red", "AQ", "cancelled no_carrier"},
		{"tok_flaky", "mug-red", "AQ", "cancelled no_carrier"},
		{"tok_void_fails", "mug-red", "AQ", "needs_operator no_carrier"},
	}
}

// endsFlags make the ends come soon.
func endsFlags() []string { return []string{"--call-timeout", "300ms", "--retry-budget", "1s"} }

// wantEveryEnd places an order for every way to end, all at once, and wants the stock to be what it must be then.
func wantEveryEnd(t testing.TB, s *server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	before := prepareStock(ctx, t, s)
	var all sync.WaitGroup
	for _, c := range ends() {
		all.Go(func() {
			o := load.OrderOf(c.token, c.sku)
			o.Shipping.Country = c.country
			placed, err := s.PlaceOrder(ctx, client.NewKey(), o)
			if err != nil {
				t.Error(err)
				return
			}
			s.wantEnd(ctx, t, placed.ID, c.want)
		})
	}
	all.Wait()
	shipped := int64(0)
	for _, c := range ends() {
		if c.want == "confirmed" {
			shipped += 2
		}
	}
	after, err := s.Stock(ctx, "mug-red")
	if err != nil || after.Shipped-before.Shipped != shipped || after.OnHand != before.OnHand-shipped || after.Reserved != before.Reserved {
		t.Errorf("stock of mug-red was %+v and is %+v, error %v; want %d shipped and nothing reserved", before, after, err, shipped)
	}
}

// prepareStock makes what the ends need: one piece of an article of which two are ordered, and a country without
// carriers.
func prepareStock(ctx context.Context, t testing.TB, s *server) client.Stock {
	t.Helper()
	if _, err := s.PutStock(ctx, "last-one", 1); err != nil {
		t.Fatal(err)
	}
	if _, err := s.PutCarrier(ctx, "AQ", 0); err != nil {
		t.Fatal(err)
	}
	before, err := s.Stock(ctx, "mug-red")
	if err != nil {
		t.Fatal(err)
	}
	return before
}

// TestServe_EveryEnd reaches every end from outside, over every broker and on both databases.
func TestServe_EveryEnd(t *testing.T) {
	t.Parallel()
	bin := proc.Build(t, "./cmd/mainstay")
	for _, database := range []string{"sqlite", "postgres"} {
		for _, broker := range []string{"embedded", "memory", "database", "external"} {
			t.Run(database+"/"+broker, func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				serve, check := []string{"--data", dir}, []string{"--data", dir}
				if database == "postgres" {
					url := pgtest.New(t)
					runCommand(t, bin, "migrate", "up", "--database", url, "--lanes", "4")
					serve, check = append(serve, "--database", url), []string{"--database", url}
				}
				serve = append(serve, brokerFlags(t, broker)...)
				s := startServer(t, bin, slices.Concat(endsFlags(), serve)...)
				wantEveryEnd(t, s)
				verify(t, check...)
			})
		}
	}
}

// TestServe_OnOtherVersions reaches every end on the versions of PostgreSQL that the other tests do not meet.
func TestServe_OnOtherVersions(t *testing.T) {
	t.Parallel()
	bin := proc.Build(t, "./cmd/mainstay")
	for _, version := range pgtest.Versions() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			url := pgtest.NewVersion(t, version).NewDatabase()
			runCommand(t, bin, "migrate", "up", "--database", url, "--lanes", "4")
			s := startServer(t, bin, append(endsFlags(), "--data", t.TempDir(), "--database", url)...)
			wantEveryEnd(t, s)
			verify(t, "--database", url)
		})
	}
}

// brokerFlags name the broker; an external NATS server is started for the test.
func brokerFlags(t testing.TB, broker string) []string {
	t.Helper()
	switch broker {
	case "embedded":
		return nil
	case "external":
		addr := proc.FreeAddr(t)
		srv, err := natsembed.Start(t.Context(), natsembed.Config{Dir: t.TempDir(), Listen: addr})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = srv.Shutdown(context.Background()) })
		return []string{"--broker", "nats://" + addr}
	default:
		return []string{"--broker", broker}
	}
}

// TestServe_Deadline reaches deadline_exceeded from outside: with a --call-timeout longer than the --order-deadline,
// the first answer to tok_timeout comes too late for the order.
func TestServe_Deadline(t *testing.T) {
	t.Parallel()
	bin, dir := proc.Build(t, "./cmd/mainstay"), t.TempDir()
	s := startServer(t, bin, "--data", dir, "--step-timeout", "200ms", "--order-deadline", "2s", "--call-timeout", "5s")
	late := s.place(t.Context(), t, load.OrderOf("tok_timeout", "mug-red"))
	s.wantEnd(t.Context(), t, s.place(t.Context(), t, load.OrderOf("tok_ok", "mug-red")).ID, "confirmed")
	s.wantEnd(t.Context(), t, late.ID, "cancelled deadline_exceeded")
	if stock, err := s.Stock(t.Context(), "mug-red"); err != nil || stock.Shipped != 2 || stock.Reserved != 0 {
		t.Errorf("stock of mug-red: %+v, error %v; want 2 shipped and nothing reserved", stock, err)
	}
	if out := verify(t, "--data", dir); !strings.Contains(out, "1 confirmed, 1 cancelled") {
		t.Errorf("verify:\n%s", out)
	}
}
