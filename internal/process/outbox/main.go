package outbox

import (
	"context"

	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/broker"
	"github.com/mainstay-io/mainstay/internal/obs"
	"github.com/mainstay-io/mainstay/internal/process"
	"github.com/mainstay-io/mainstay/internal/process/carrier"
)

// Program is the command line of the process.
func Program() app.Program {
	return app.Program{
		Process: app.Outbox,
		About: `Move the outbox of a database to the broker: number what was committed, and publish it in order. Any
number of outbox processes may share one database and one broker: one of them numbers, all of them publish
their share of the lanes, and another takes over within seconds when one is killed.

It stops on Ctrl-C or SIGTERM: its lanes go on in the others at once. A second signal ends it at once, and
that loses nothing either.`,
		Examples: `  outbox --database postgres://mainstay@db/mainstay --broker nats://nats:4222
  outbox --database postgres://mainstay@db/mainstay --broker database     (numbers, and publishes nothing)
  MAINSTAY_DATABASE=postgres://mainstay@db/mainstay outbox --config /etc/mainstay.yaml`,
		Serve: Main,
	}
}

// Main runs the process until ctx ends.
func Main(ctx context.Context, env app.Env, cfg app.Config) error {
	return Seams{}.Main(ctx, env, cfg)
}

// Seams are where tests put something of their own into a process that is whole otherwise. Each may be nil.
type Seams struct {
	// Publisher wraps the broker.
	Publisher func(broker.Publisher) broker.Publisher
}

// Main runs the process, with what the seams put in, until ctx ends.
func (s Seams) Main(ctx context.Context, env app.Env, cfg app.Config) error {
	return process.Main(ctx, app.Outbox, env, cfg, s.build)
}

func (s Seams) build(ctx context.Context, h *process.Host) error {
	db, err := h.OpenPostgres(ctx)
	if err != nil {
		return err
	}
	c, err := carrier.Host(ctx, h, db)
	if err != nil {
		return err
	}
	if s.Publisher != nil && c.Publisher != nil {
		c.Publisher = s.Publisher(c.Publisher)
	}
	holder, err := process.NewHolder(h.Config)
	if err != nil {
		return err
	}
	p := New(Config{
		Config: h.Config, DB: db, Publisher: c.Publisher, Keep: c.Keep, Owners: c.Owners, Holder: holder, Log: h.Log,
		Relay: obs.NewRelay(h.Registry), Sequencer: obs.NewSequencer(h.Registry),
		Retention: obs.NewRetention(h.Registry),
	})
	h.Add(p.Services()...)
	p.Checks(h.Health)
	obs.RegisterBacklog(h.Registry, db, h.Log)
	h.SayOps("ops")
	h.Say("database", "%s", db.Place)
	h.Say("broker", "%s", c.Place)
	return nil
}
