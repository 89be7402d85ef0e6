package serve

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/order"
)

// Waiting for an order that nobody works on ends as soon as the server drains, whether it began before or after.
func TestIntake_DrainLetsWaitersGo(t *testing.T) {
	t.Parallel()
	cfg, err := app.LoadConfig(app.Env{Getenv: func(string) string { return "" }}, nil)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Data, cfg.Broker, cfg.HTTP, cfg.Ops = t.TempDir(), "memory", "127.0.0.1:0", "127.0.0.1:0"
	log := slog.New(slog.DiscardHandler)
	group := app.NewGroup(log, app.NewHealth(log), 10*time.Second)
	b, err := open(t.Context(), cfg, log, group, hooks{})
	if err != nil {
		t.Fatal(err)
	}
	public, err := app.Listen(t.Context(), cfg, "http")
	if err != nil {
		t.Fatal(err)
	}
	pending := placed(t, "tok_ok", "mug-red")
	err = b.db.Run(t.Context(), func(ctx context.Context, tx mainstay.Tx) error {
		return b.intake.Intake.Write(ctx, tx, []*order.Order{pending})
	})
	if err != nil {
		t.Fatal(err)
	}

	intake := b.intake.API(public, nil)
	ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
	defer stop()
	var running, waiting sync.WaitGroup
	running.Go(func() { _ = b.intake.Waiters.Run(ctx, nil) })
	running.Go(func() { _ = intake.Run(ctx) })
	waiting.Go(func() {
		if err := b.intake.Waiters.Wait(ctx, pending.ID, nil); err != nil {
			t.Errorf("before: %v", err)
		}
	})
	if err := intake.Drain(ctx); err != nil {
		t.Fatal(err)
	}
	if err := b.intake.Waiters.Wait(ctx, pending.ID, nil); err != nil {
		t.Errorf("after: %v", err)
	}
	waiting.Wait()
	stop()
	running.Wait()
	if err := group.Close(); err != nil {
		t.Error(err)
	}
}
