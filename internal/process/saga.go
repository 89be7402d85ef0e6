package process

import (
	"log/slog"

	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/orchestrator"
	"github.com/mainstay-io/mainstay/internal/order"
	"github.com/mainstay-io/mainstay/saga"
)

// Orders makes the orchestrator of orders: ingest begins sagas with it, workers carry them on. Ended is told of the
// orders that have ended in this process, after the commit; it may be nil.
func Orders(cfg app.Config, db *Database, log *slog.Logger, hooks orchestrator.Hooks, ended func(ids []string)) (*orchestrator.Orchestrator, error) {
	return orchestrator.New(orchestrator.Config{
		Store:    db,
		Versions: []saga.Definition{order.Definition(order.Times{Deadline: cfg.OrderDeadline, Ask: cfg.StepTimeout})},
		Binding:  order.NewBinding(db.Dialect(), ended),
		Lanes:    db.Lanes(), Source: order.Source, Logger: log, Hooks: hooks,
	})
}
