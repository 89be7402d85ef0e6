package serve

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/clock"
	"github.com/mainstay-io/mainstay/internal/inventory"
	"github.com/mainstay-io/mainstay/internal/order"
)

func placed(t testing.TB, token, sku string) *order.Order {
	t.Helper()
	return &order.Order{
		ID: uuid.Must(uuid.NewV7()).String(), Principal: "anonymous", Total: 2500, CreatedAt: clock.System(),
		Draft: order.Draft{
			CustomerID: "c-1", Currency: "EUR", Lines: []order.Line{{SKU: sku, Quantity: 2, UnitPrice: 1250}},
			Payment:  order.Payment{Token: token},
			Shipping: order.Shipping{Name: "Ada", Line1: "1 Main St", City: "Paris", PostalCode: "75001", Country: "FR"},
		},
	}
}

func TestBackbone_EndsOrders(t *testing.T) {
	t.Parallel()
	for _, broker := range []string{"database", "memory", ""} {
		t.Run("broker="+broker, func(t *testing.T) {
			t.Parallel()
			env := app.Env{Getenv: func(string) string { return "" }}
			cfg, err := app.LoadConfig(env, nil)
			if err != nil {
				t.Fatal(err)
			}
			cfg.Data, cfg.Broker = t.TempDir(), broker
			log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
			health := app.NewHealth(log)
			group := app.NewGroup(log, health, 10*time.Second)
			b, err := open(t.Context(), cfg, log, group, hooks{})
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range b.services() {
				group.Add(s)
			}
			ctx, stop := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- group.Run(ctx) }()

			desk := inventory.NewDesk(b.db.Dialect(), b.db, b.db.Reads)
			if _, err := desk.Set(t.Context(), "mug-red", 100); err != nil {
				t.Fatal(err)
			}
			want := map[string]string{}
			var all []*order.Order
			for _, c := range []struct{ token, sku, status string }{
				{"tok_ok", "mug-red", "confirmed"},
				{"tok_declined", "mug-red", "cancelled card_declined"},
				{"tok_ok", "none", "cancelled unknown_sku"},
				{"tok_flaky", "mug-red", "confirmed"},
				{"tok_capture_rejected", "mug-red", "cancelled capture_rejected"},
			} {
				p := placed(t, c.token, c.sku)
				want[p.ID] = c.status
				all = append(all, p)
			}
			intake := func(ctx context.Context, tx mainstay.Tx) error { return b.intake.Intake.Write(ctx, tx, all) }
			if err := b.db.Run(t.Context(), intake); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			for id, status := range want {
				wctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
				_ = b.intake.Waiters.Wait(wctx, id, nil)
				cancel()
				o, err := b.intake.Reads.Get(t.Context(), id)
				if err != nil {
					t.Fatal(err)
				}
				got := string(o.Status)
				if o.Reason != nil {
					got = fmt.Sprintf("%s %s", o.Status, o.Reason.Code)
				}
				if got != status {
					t.Errorf("order %s: got %s %v, want %s", id, got, o.Reason, status)
				}
			}
			t.Logf("ended after %v", time.Since(began))
			stop()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
}
