package worker

import (
	"cmp"
	"context"
	"fmt"

	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/obs"
	"github.com/mainstay-io/mainstay/internal/payment"
	"github.com/mainstay-io/mainstay/internal/payment/sandbox"
	"github.com/mainstay-io/mainstay/internal/process"
	"github.com/mainstay-io/mainstay/internal/process/carrier"
	"github.com/mainstay-io/mainstay/worker"
)

// Program is the command line of the process.
func Program() app.Program {
	return app.Program{
		Process: app.Worker,
		About: `Handle messages: run the sagas of orders and the participants inventory, payment and logistics. Any number
of worker processes may share one database: they share the lanes of each consumer, and another takes over
within seconds when one is killed.

It stops on Ctrl-C or SIGTERM: what is under way is finished or rolled back, and its lanes go on in the others
at once. A second signal ends it at once, and that loses nothing either.`,
		Examples: `  worker --database postgres://mainstay@db/mainstay --broker nats://nats:4222
  worker --database postgres://mainstay@db/mainstay --broker database     (reads the database's log)
  worker --database postgres://mainstay@db/mainstay --broker nats://nats:4222 --consume inventory,payment
  MAINSTAY_DATABASE=postgres://mainstay@db/mainstay worker --config /etc/mainstay.yaml`,
		Serve: Main,
	}
}

// Main runs the process until ctx ends.
func Main(ctx context.Context, env app.Env, cfg app.Config) error {
	return Seams{}.Main(ctx, env, cfg)
}

// Seams are where tests put something of their own into a process that is whole otherwise. Each may be nil.
type Seams struct {
	// Gateway wraps the payment gateway.
	Gateway func(payment.Gateway) payment.Gateway
	// Register adds further consumers.
	Register func(*worker.Worker)
}

// Main runs the process, with what the seams put in, until ctx ends.
func (s Seams) Main(ctx context.Context, env app.Env, cfg app.Config) error {
	return process.Main(ctx, app.Worker, env, cfg, s.build)
}

func (s Seams) gateway(g payment.Gateway) payment.Gateway {
	if s.Gateway == nil {
		return g
	}
	return s.Gateway(g)
}

func (s Seams) build(ctx context.Context, h *process.Host) error {
	db, err := h.OpenPostgres(ctx)
	if err != nil {
		return err
	}
	gateway, err := openGateway(ctx, h, db)
	if err != nil {
		return err
	}
	c, err := carrier.Host(ctx, h, db)
	if err != nil {
		return err
	}
	if err := c.Foreign(ctx, h.Config, db, Writes(h.Config)); err != nil {
		return err
	}
	holder, err := process.NewHolder(h.Config)
	if err != nil {
		return err
	}
	p, err := New(Config{
		Config: h.Config, DB: db, Reader: c.Reader, Owners: c.Owners, Compared: c.Publisher != nil, Gateway: s.gateway(gateway), Holder: holder, Log: h.Log,
		Lanes: obs.NewLanes(h.Registry), Sagas: obs.NewSagas(h.Registry), Register: s.Register,
	})
	if err != nil {
		return err
	}
	h.Add(p.Services()...)
	p.Checks(h.Health)
	h.SayOps("ops")
	h.Say("database", "%s", db.Place)
	h.Say("broker", "%s", c.Place)
	h.Say("consumers", "%s", cmp.Or(h.Config.Consume, "all: orders, inventory, payment, logistics"))
	return nil
}

// openGateway opens the payment gateway, for a process that hosts payment.
func openGateway(ctx context.Context, h *process.Host, db *process.Database) (payment.Gateway, error) {
	if !Hosts(h.Config, Payment) {
		return nil, nil //nolint:nilnil // nobody asks it then
	}
	gateway, err := sandbox.Open(ctx, db.Gateway, db.Dialect(), sandbox.Options{})
	if err != nil {
		return nil, fmt.Errorf("opening the payment gateway: %w", err)
	}
	h.Group.Opened("payment gateway", func(context.Context) error { return gateway.Close() })
	return gateway, nil
}
