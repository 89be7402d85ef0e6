// Package serve is the all-in-one process: ingest, sequencer, relay, workers, sagas and the three participants over
// one database and one broker. It wires them and knows nothing that they do.
package serve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/mainstay-io/mainstay/api"
	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/clock"
	"github.com/mainstay-io/mainstay/internal/inventory"
	"github.com/mainstay-io/mainstay/internal/logistics"
	"github.com/mainstay-io/mainstay/internal/obs"
	"github.com/mainstay-io/mainstay/internal/operator"
	"github.com/mainstay-io/mainstay/internal/order"
	"github.com/mainstay-io/mainstay/internal/problem"
)

// sampleStock is what a database without any stock is given, so that the first order finds something.
func sampleStock() map[string]int64 {
	return map[string]int64{"mug-red": 1_000_000, "mug-blue": 1_000_000, "shirt-m": 1_000_000, "poster": 3}
}

// Main runs everything until ctx ends.
func Main(ctx context.Context, env app.Env, cfg app.Config) (err error) {
	log := obs.NewLogger(env.Stderr, cfg.LogLevel, cfg.LogFormat, env.IsTerminal(env.Stderr))
	held, err := lockPlaces(cfg)
	if err != nil {
		return err
	}
	defer held.release()
	health := app.NewHealth(log)
	group := app.NewGroup(log, health, cfg.ShutdownGrace)
	defer func() { err = errors.Join(err, group.Close()) }()

	public, ops, err := listen(ctx, cfg)
	if err != nil {
		return err
	}
	group.Opened("addresses", func(context.Context) error {
		return errors.Join(ignoreClosed(public.Close()), ignoreClosed(ops.Close()))
	})
	reg := prometheus.NewRegistry()
	b, err := open(ctx, cfg, log, group, newHooks(reg))
	if err != nil {
		return err
	}
	seeded, err := b.seed(ctx)
	if err != nil {
		return err
	}
	for _, s := range b.services() {
		group.Add(s)
	}
	b.checks(health)
	obs.RegisterBacklog(reg, b.db, log)
	group.Add(b.intakeService(public))
	group.Add(b.opsServer(ops, health, reg).Service(app.Probes))
	health.Start()
	b.greet(env.Stdout, public, ops, seeded)
	return group.Run(ctx)
}

func ignoreClosed(error) error { return nil } // the servers own the listeners once they run

func listen(ctx context.Context, cfg app.Config) (public, ops app.Bound, err error) {
	if public, err = app.Listen(ctx, cfg, "http", cfg.Ops); err != nil {
		return public, ops, err
	}
	if ops, err = app.Listen(ctx, cfg, "ops", cfg.HTTP); err != nil {
		return public, ops, errors.Join(err, public.Close())
	}
	return public, ops, nil
}

func newHooks(reg *prometheus.Registry) hooks {
	build := app.ThisBuild()
	obs.Register(reg, build.Version, build.Revision, build.Go)
	web := obs.NewHTTP(reg)
	return hooks{
		ingest: obs.NewIngest(reg), relay: obs.NewRelay(reg), lane: obs.NewLanes(reg), saga: obs.NewSagas(reg),
		sequencer: obs.NewSequencer(reg), public: web.Server("ingest"), ops: web.Server("operator"),
	}
}

// seed stocks a database that has never had any.
func (b *backbone) seed(ctx context.Context) (bool, error) {
	var known bool
	err := b.db.reads.QueryRowContext(ctx, `/* serve.stocked */ select exists (select 1 from stock)`).Scan(&known)
	if err != nil || known {
		return false, err
	}
	if err := b.desk().Seed(ctx, sampleStock()); err != nil {
		return false, fmt.Errorf("stocking the samples: %w", err)
	}
	return true, nil
}

func (b *backbone) desk() *inventory.Desk { return inventory.NewDesk(b.db.Dialect(), b.db, b.db.reads) }

// checks are what readiness depends on, by name.
func (b *backbone) checks(h *app.Health) {
	h.Check("database", b.db.reads.PingContext)
	if b.carrier.ready != nil {
		h.Check("broker", b.carrier.ready)
	}
	h.Check("worker", b.worker.Ready)
	if b.relay != nil {
		h.Check("relay", func(context.Context) error { return b.relay.Ready() })
	}
}

// intakeService is the ingest API; when it begins to drain, it answers those who wait for an order with what is true.
func (b *backbone) intakeService(l app.Bound) app.Service {
	server := b.publicServer(l)
	s := server.Service(app.Intake)
	s.Drain = func(ctx context.Context) error {
		b.waiters.Close()
		return server.Drain(ctx)
	}
	return s
}

func (b *backbone) publicServer(l app.Bound) *app.Server {
	mux := http.NewServeMux()
	orders := &order.HTTP{
		Accepter: accepter{b.ingest}, Reader: b.reads, Waiter: b.waiters, Clock: clock.System, Log: b.log,
	}
	orders.Mount(mux)
	api.Mount(mux)
	problem.MountFallback(mux)
	return app.NewServer(app.HTTP{
		Name: "ingest API", Listener: l, Handler: mux, Log: b.log, InFlight: b.cfg.InFlight, Waiters: b.cfg.Waiters,
		Observer: b.public,
	})
}

func (b *backbone) opsServer(l app.Bound, health *app.Health, reg *prometheus.Registry) *app.Server {
	mux := http.NewServeMux()
	desk := &operator.HTTP{
		Inventory: stock{b.desk()}, Carriers: carriers{logistics.NewDesk(b.db.Dialect(), b.db, b.db.reads)}, Log: b.log,
	}
	desk.Mount(mux)
	health.Routes(mux)
	mux.Handle("GET /metrics", obs.Handler(reg))
	problem.MountFallback(mux)
	return app.NewServer(app.HTTP{Name: "operator API", Listener: l, Handler: mux, Log: b.log, Observer: b.ops})
}

// greet prints where everything is, and an order that works as pasted.
func (b *backbone) greet(w io.Writer, public, ops app.Bound, seeded bool) {
	var s strings.Builder
	fmt.Fprintf(&s, "mainstay %s\n", app.ThisBuild().Version)
	for _, l := range []app.Bound{public, ops} {
		if l.Notice != "" {
			fmt.Fprintf(&s, "  note      %s\n", l.Notice)
		}
	}
	fmt.Fprintf(&s, "  orders    %s/v1/orders   (docs: %s/docs)\n", public.URL(), public.URL())
	fmt.Fprintf(&s, "  operator  %s   (/readyz, /metrics)\n", ops.URL())
	fmt.Fprintf(&s, "  database  %s\n", b.db.place)
	fmt.Fprintf(&s, "  broker    %s\n", b.carrier.place)
	if seeded {
		fmt.Fprintf(&s, "  stock     was empty: sample articles were put in (mug-red, mug-blue, shirt-m, poster)\n")
	}
	fmt.Fprintf(&s, "\nTry it:\n%s\n", tryIt(public.URL()))
	_, _ = io.WriteString(w, s.String())
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
