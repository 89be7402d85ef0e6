package ingest

import (
	"context"

	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/obs"
	"github.com/mainstay-io/mainstay/internal/process"
)

// Program is the command line of the process.
func Program() app.Program {
	return app.Program{
		Process: app.Ingest,
		About: `Take orders over HTTP into the database. Any number of ingest processes may share one database; none of
them needs a broker. The operator API is on the ops address.

It stops on Ctrl-C or SIGTERM: what is under way is answered first. A second signal ends it at once; a client
that got no answer sends the same again, with the same key.`,
		Examples: `  ingest --database postgres://mainstay@db/mainstay
  ingest --database postgres://mainstay@db/mainstay --http 127.0.0.1:9000 --ops 127.0.0.1:9001
  MAINSTAY_DATABASE=postgres://mainstay@db/mainstay ingest --config /etc/mainstay.yaml`,
		Serve: Main,
	}
}

// Main runs the process until ctx ends.
func Main(ctx context.Context, env app.Env, cfg app.Config) error {
	return process.Main(ctx, app.Ingest, env, cfg, build)
}

func build(ctx context.Context, h *process.Host) error {
	public, err := h.Listen(ctx, "http", h.Config.Ops)
	if err != nil {
		return err
	}
	db, err := h.OpenPostgres(ctx)
	if err != nil {
		return err
	}
	p, err := New(Config{
		Config: h.Config, DB: db, Log: h.Log, Hooks: obs.NewIngest(h.Registry), Sagas: obs.NewSagas(h.Registry),
	})
	if err != nil {
		return err
	}
	h.Add(p.Services()...)
	h.Add(p.API(public, h.Web.Server("ingest")))
	p.MountOperator(h.OpsRoutes)
	h.Say("orders", "%s/v1/orders   (docs: %s/docs)", public.URL(), public.URL())
	h.SayOps("operator")
	h.Say("database", "%s", db.Place)
	return nil
}
