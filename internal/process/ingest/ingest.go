// Package ingest is the process that takes orders: the ingest API, and the operator API beside it. It needs the
// database and no broker.
package ingest

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/api"
	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/clock"
	"github.com/mainstay-io/mainstay/internal/ingest"
	"github.com/mainstay-io/mainstay/internal/inventory"
	"github.com/mainstay-io/mainstay/internal/logistics"
	"github.com/mainstay-io/mainstay/internal/operator"
	"github.com/mainstay-io/mainstay/internal/orchestrator"
	"github.com/mainstay-io/mainstay/internal/order"
	"github.com/mainstay-io/mainstay/internal/problem"
	"github.com/mainstay-io/mainstay/internal/process"
)

// Config is what a Part needs.
type Config struct {
	Config app.Config
	DB     *process.Database
	Log    *slog.Logger
	Hooks  ingest.Hooks
	Sagas  orchestrator.Hooks
}

// Part takes orders into the database.
type Part struct {
	Ingest  *ingest.Ingest
	Intake  *order.Intake
	Waiters *order.Waiters
	Reads   *order.Reads

	cfg Config
}

// waitersPoll is how often is asked which of the orders that somebody waits for have ended, where it is told.
const waitersPoll = 250 * time.Millisecond

// New puts the part together; its Services are to be run.
func New(cfg Config) (*Part, error) {
	p := &Part{cfg: cfg, Reads: order.NewReads(cfg.DB.Query, cfg.DB.Dialect())}
	p.Waiters = order.NewWaiters(p.Reads.Ended, cmp.Or(cfg.DB.PollEvery, waitersPoll))
	sagas, err := process.Orders(cfg.Config, cfg.DB, cfg.Log, cfg.Sagas, nil)
	if err != nil {
		return nil, err
	}
	p.Intake = order.NewIntake(cfg.DB.Dialect(), begin(sagas))
	p.Ingest = ingest.New(cfg.DB, writeOrders(p.Intake), ingest.Config{
		MaxInFlight: cfg.Config.InFlight, Retention: cfg.Config.IdempotencyRetention, Committers: committers(cfg.DB.Dialect()),
	}, cfg.Hooks)
	return p, nil
}

// begin starts the sagas of new orders.
func begin(sagas *orchestrator.Orchestrator) func(context.Context, mainstay.Tx, []order.Start) error {
	return func(ctx context.Context, tx mainstay.Tx, starts []order.Start) error {
		begins := make([]orchestrator.Begin, len(starts))
		for i, s := range starts {
			begins[i] = orchestrator.Begin{ID: s.OrderID, CorrelationID: s.OrderID, Key: s.OrderID, Data: s.Data, Traceparent: s.Traceparent}
		}
		return sagas.Start(ctx, tx, begins)
	}
}

// writeOrders stores what ingest has accepted.
func writeOrders(intake *order.Intake) ingest.WriteFunc {
	return func(ctx context.Context, tx mainstay.Tx, winners []*ingest.Request) error {
		orders := make([]*order.Order, len(winners))
		for i, r := range winners {
			o, ok := r.Item.(*order.Order)
			if !ok {
				return fmt.Errorf("ingest was given a %T, which nobody stores", r.Item)
			}
			orders[i] = o
		}
		return intake.Write(ctx, tx, orders)
	}
}

// committers is how many groups are committed side by side: SQLite has one writer.
func committers(d mainstay.Dialect) int {
	if d == mainstay.SQLite {
		return 1
	}
	return 2
}

// Services are what runs, with the stage in which each is stopped.
func (p *Part) Services() []app.Service {
	return []app.Service{
		{Name: "ingest", Stage: app.Work, Run: p.Ingest.Run},
		{Name: "waiters", Stage: app.Work, Run: p.wait},
	}
}

// wait runs the waiters, which ask at once when orders have ended elsewhere.
func (p *Part) wait(ctx context.Context) error {
	if p.cfg.DB.News == nil {
		return p.Waiters.Run(ctx, nil)
	}
	ended, stop := p.cfg.DB.News.Ended()
	defer stop()
	return p.Waiters.Run(ctx, ended)
}

// API is the service of the ingest API; when it begins to drain, it answers those who wait for an order with what is
// true.
func (p *Part) API(l app.Bound, observer app.Observer) app.Service {
	mux := http.NewServeMux()
	orders := &order.HTTP{Accepter: Accepter{In: p.Ingest}, Reader: p.Reads, Waiter: p.Waiters, Clock: clock.System, Log: p.cfg.Log}
	orders.Mount(mux)
	api.Mount(mux)
	problem.MountFallback(mux)
	server := app.NewServer(app.HTTP{
		Name: "ingest API", Listener: l, Handler: mux, Log: p.cfg.Log, Observer: observer,
		InFlight: p.cfg.Config.InFlight, Waiters: p.cfg.Config.Waiters,
	})
	s := server.Service(app.Intake)
	s.Drain = func(ctx context.Context) error {
		p.Waiters.Close()
		return server.Drain(ctx)
	}
	return s
}

// MountOperator adds the operator API's routes.
func (p *Part) MountOperator(mux *http.ServeMux) {
	db := p.cfg.DB
	desk := &operator.HTTP{
		Inventory: stock{inventory.NewDesk(db.Dialect(), db, db.Reads)},
		Carriers:  carriers{logistics.NewDesk(db.Dialect(), db, db.Reads)}, Log: p.cfg.Log,
	}
	desk.Mount(mux)
}
