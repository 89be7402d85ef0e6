// Package serve is the all-in-one process: the parts of ingest, outbox and worker over one database and one broker. It
// joins them and knows nothing that they do.
package serve

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/obs"
	"github.com/mainstay-io/mainstay/internal/process"
)

// sampleStock is what a database without any stock is given, so that the first order finds something.
func sampleStock() map[string]int64 {
	return map[string]int64{"mug-red": 1_000_000, "mug-blue": 1_000_000, "shirt-m": 1_000_000, "poster": 3}
}

// Main runs everything until ctx ends.
func Main(ctx context.Context, env app.Env, cfg app.Config) error {
	held, err := lockPlaces(cfg)
	if err != nil {
		return err
	}
	defer held.release()
	return process.Main(ctx, "mainstay", env, cfg, build)
}

func build(ctx context.Context, h *process.Host) error {
	public, err := h.Listen(ctx, "http", h.Config.Ops)
	if err != nil {
		return err
	}
	b, err := open(ctx, h.Config, h.Log, h.Group, newHooks(h.Registry))
	if err != nil {
		return err
	}
	seeded, err := b.seed(ctx)
	if err != nil {
		return err
	}
	h.Add(b.services()...)
	h.Add(b.intake.API(public, h.Web.Server("ingest")))
	b.checks(h.Health)
	b.intake.MountOperator(h.OpsRoutes)
	obs.RegisterBacklog(h.Registry, b.db, h.Log)
	b.greet(h, public, seeded)
	return nil
}

func newHooks(reg prometheus.Registerer) hooks {
	return hooks{
		ingest: obs.NewIngest(reg), relay: obs.NewRelay(reg), lane: obs.NewLanes(reg), saga: obs.NewSagas(reg),
		sequencer: obs.NewSequencer(reg), retention: obs.NewRetention(reg),
	}
}

// seed stocks a database that has never had any.
func (b *backbone) seed(ctx context.Context) (bool, error) {
	var known bool
	err := b.db.Reads.QueryRowContext(ctx, `/* serve.stocked */ select exists (select 1 from stock)`).Scan(&known)
	if err != nil || known {
		return false, err
	}
	if err := b.desk().Seed(ctx, sampleStock()); err != nil {
		return false, fmt.Errorf("stocking the samples: %w", err)
	}
	return true, nil
}

// greet says where everything is, and an order that works as pasted.
func (b *backbone) greet(h *process.Host, public app.Bound, seeded bool) {
	h.Say("orders", "%s/v1/orders   (docs: %s/docs)", public.URL(), public.URL())
	h.SayOps("operator")
	h.Say("database", "%s", b.db.Place)
	h.Say("broker", "%s", b.carrier.Place)
	if seeded {
		h.Say("stock", "was empty: sample articles were put in (mug-red, mug-blue, shirt-m, poster)")
	}
	h.Tell("\nTry it:\n" + tryIt(public.URL()) + "\n")
}

func tryIt(base string) string {
	key, err := uuid.NewRandom()
	if err != nil {
		key = uuid.UUID{}
	}
	return fmt.Sprintf(`curl -sS %s/v1/orders -H 'Content-Type: application/json' -H 'Idempotency-Key: %s' \
  -d '{"customer_id":"c-1","currency":"EUR","lines":[{"sku":"mug-red","quantity":2,"unit_price":1250}],"payment":{"token":"tok_ok"},"shipping":{"name":"Ada","line1":"1 Main St","city":"Paris","postal_code":"75001","country":"FR"}}'`,
		base, key)
}
