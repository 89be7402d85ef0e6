package main

import (
	"context"
	"testing"
	"time"

	"github.com/mainstay-io/mainstay/internal/testkit/load"
	"github.com/mainstay-io/mainstay/internal/testkit/proc"
)

// TestServe_KeepsOrdersAcrossKill is the first thing that ever ran: it never goes red again.
func TestServe_KeepsOrdersAcrossKill(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	bin, dir := proc.Build(t, "./cmd/mainstay"), t.TempDir()

	s := startServer(t, bin, "--data", dir)
	good, bad := s.place(ctx, t, load.OrderOf("tok_ok", "mug-red")), s.place(ctx, t, load.OrderOf("tok_declined", "mug-red"))
	s.wantEnd(ctx, t, good.ID, "confirmed")
	s.wantEnd(ctx, t, bad.ID, "cancelled card_declined")
	s.Kill()

	s = startServer(t, bin, "--data", dir)
	s.wantEnd(ctx, t, good.ID, "confirmed")
	s.wantEnd(ctx, t, bad.ID, "cancelled card_declined")
	stock, err := s.Stock(ctx, "mug-red")
	if err != nil || stock.Shipped != 2 || stock.Reserved != 0 {
		t.Errorf("stock of mug-red: %+v, error %v; want 2 shipped and nothing reserved", stock, err)
	}
	verify(t, "--data", dir)
	if err := s.Term(); err != nil {
		t.Fatal(err)
	}
	if code, err := s.Wait(ctx); code != 0 || err != nil {
		t.Errorf("after SIGTERM: exit code %d, error %v\n%s", code, err, s.Stderr())
	}
	verify(t, "--data", dir)
}
