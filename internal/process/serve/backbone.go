package serve

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/broker/natsbroker"
	"github.com/mainstay-io/mainstay/internal/clock"
	"github.com/mainstay-io/mainstay/internal/ingest"
	"github.com/mainstay-io/mainstay/internal/inventory"
	"github.com/mainstay-io/mainstay/internal/lane"
	"github.com/mainstay-io/mainstay/internal/logistics"
	"github.com/mainstay-io/mainstay/internal/orchestrator"
	"github.com/mainstay-io/mainstay/internal/order"
	"github.com/mainstay-io/mainstay/internal/payment"
	"github.com/mainstay-io/mainstay/internal/payment/sandbox"
	"github.com/mainstay-io/mainstay/internal/relay"
	"github.com/mainstay-io/mainstay/internal/sequencer"
	"github.com/mainstay-io/mainstay/saga"
	"github.com/mainstay-io/mainstay/worker"
)

// Names of the consumers.
const (
	consumerOrders    = "orders"
	consumerInventory = "inventory"
	consumerPayment   = "payment"
	consumerLogistics = "logistics"
)

// backbone is everything but the servers: the database, the broker, and what works between them.
type backbone struct {
	cfg       app.Config
	log       *slog.Logger
	db        *database
	carrier   *carrier
	gateway   *sandbox.Gateway
	sequencer *sequencer.Sequencer // nil where sequences are given at append
	relay     *relay.Relay         // nil without a broker
	worker    *worker.Worker
	ingest    *ingest.Ingest
	intake    *order.Intake
	waiters   *order.Waiters
	reads     *order.Reads

	public, ops app.Observer // of the servers; nil for nobody
}

// open opens the database and the broker and wires what works between them; group closes what was opened.
func open(ctx context.Context, cfg app.Config, log *slog.Logger, group *app.Group, m hooks) (*backbone, error) {
	b := &backbone{cfg: cfg, log: log, public: m.public, ops: m.ops}
	var err error
	if b.db, err = openDatabase(ctx, cfg, log); err != nil {
		return nil, err
	}
	group.Opened("database", func(context.Context) error { return b.db.close() })
	if b.gateway, err = sandbox.Open(ctx, b.db.gateway, b.db.Dialect(), sandbox.Options{}); err != nil {
		return nil, explainSQLite(fmt.Errorf("opening the payment gateway: %w", err), filepath.Join(filepath.Dir(sqlitePath(cfg)), gatewayFile))
	}
	group.Opened("payment gateway", func(context.Context) error { return b.gateway.Close() })
	if b.carrier, err = openBroker(ctx, cfg, b.db, log); err != nil {
		return nil, err
	}
	if b.carrier.close != nil {
		group.Opened("broker", b.carrier.close)
	}
	if m.carry != nil {
		m.carry(b.carrier)
	}
	return b, b.wire(m)
}

func (db *database) close() error {
	if db.gateway != db.reads {
		return errors.Join(db.store.Close(), db.gateway.Close())
	}
	return db.store.Close()
}

// hooks is where the parts report what they do.
type hooks struct {
	ingest    ingest.Hooks
	relay     relay.Hooks
	lane      lane.Hooks
	saga      orchestrator.Hooks
	sequencer sequencer.Observer
	// public and ops observe the servers; nil for nobody.
	public, ops app.Observer

	// carry and register are nil but in tests: one puts something between the backbone and its broker, the other
	// adds consumers.
	carry    func(*carrier)
	register func(*worker.Worker)
}

func (b *backbone) wire(m hooks) error {
	holder, err := newHolder()
	if err != nil {
		return err
	}
	b.reads = order.NewReads(b.db.reads, b.db.Dialect())
	b.waiters = order.NewWaiters(b.reads.Ended, 250*time.Millisecond)
	o, err := b.orchestrator(m.saga)
	if err != nil {
		return err
	}
	b.intake = order.NewIntake(b.db.Dialect(), func(ctx context.Context, tx mainstay.Tx, starts []order.Start) error {
		begins := make([]orchestrator.Begin, len(starts))
		for i, s := range starts {
			begins[i] = orchestrator.Begin{ID: s.OrderID, CorrelationID: s.OrderID, Key: s.OrderID, Data: s.Data, Traceparent: s.Traceparent}
		}
		return o.Start(ctx, tx, begins)
	})
	b.ingest = ingest.New(b.db, writeOrders(b.intake), ingest.Config{
		MaxInFlight: b.cfg.InFlight, Retention: b.cfg.IdempotencyRetention, Committers: b.committers(),
	}, m.ingest)
	if b.db.sequencer != nil {
		// Whoever appends is in this process and says so; polling is for what was missed.
		b.sequencer = sequencer.New(b.db.sequencer, sequencer.Config{
			Holder: holder, Poll: 200 * time.Millisecond, Observer: m.sequencer, Logger: b.log,
		})
	}
	if b.carrier.publisher != nil {
		b.relay = relay.New(relay.Config{
			Store: b.db, Leases: b.db, Broker: b.carrier.publisher, Holder: holder, Lanes: b.db.Lanes(),
			ForceLeases: b.db.alone, Keep: natsbroker.DefaultMaxAge, Logger: b.log, Clock: clock.System, Hooks: m.relay,
		})
	}
	return b.work(holder, o, m)
}

func (b *backbone) orchestrator(h orchestrator.Hooks) (*orchestrator.Orchestrator, error) {
	return orchestrator.New(orchestrator.Config{
		Store:    b.db,
		Versions: []saga.Definition{order.Definition(order.Times{Deadline: b.cfg.OrderDeadline, Ask: b.cfg.StepTimeout})},
		Binding:  order.NewBinding(b.db.Dialect(), b.waiters.Poke),
		Lanes:    b.db.Lanes(), Source: order.Source, Logger: b.log, Hooks: h,
	})
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

// committers is how many groups ingest commits side by side: SQLite has one writer.
func (b *backbone) committers() int {
	if b.db.Dialect() == mainstay.SQLite {
		return 1
	}
	return 2
}

func (b *backbone) work(holder string, o *orchestrator.Orchestrator, m hooks) error {
	b.worker = worker.New(worker.Config{
		Store: b.db, Reader: b.carrier.reader, Lanes: b.db.Lanes(), Holder: holder, ForceLeases: b.db.alone,
		Calls: 8 * b.cfg.WorkerConcurrency, CallTimeout: b.cfg.CallTimeout,
		Retry: lane.Retry{Budget: b.cfg.RetryBudget}, Clock: clock.System, Logger: b.log, Hooks: m.lane,
	})
	pay := payment.New(b.db.Dialect(), b.gateway)
	var types []string
	for t := range pay.Remotes() {
		types = append(types, t)
	}
	b.worker.Participate(consumerInventory, inventory.Topic, inventory.New(b.db.Dialect()).Handlers())
	b.worker.ParticipateRemotely(consumerPayment, payment.Topic, types, pay)
	b.worker.Participate(consumerLogistics, logistics.Topic, logistics.New(b.db.Dialect()).Handlers())
	b.worker.Orchestrate(consumerOrders, o)
	if m.register != nil {
		m.register(b.worker)
	}
	return b.worker.Open()
}

// newHolder names this process in leases, unlike any other one, an earlier one of the same number included.
func newHolder() (string, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return "", fmt.Errorf("naming this process: %w", err)
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return fmt.Sprintf("%s/%d/%s", host, os.Getpid(), id), nil
}

// services are the parts that run, with the stage in which each is stopped.
func (b *backbone) services() []app.Service {
	ss := []app.Service{
		{Name: "ingest", Stage: app.Work, Run: b.ingest.Run},
		{Name: "waiters", Stage: app.Work, Run: b.waiters.Run},
		{Name: "worker", Stage: app.Work, Run: b.worker.Run},
	}
	if b.sequencer != nil {
		ss = append(ss, app.Service{Name: "sequencer", Stage: app.Output, Run: b.sequencer.Run})
	}
	if b.relay != nil {
		ss = append(ss, app.Service{Name: "relay", Stage: app.Output, Run: b.relay.Run})
	}
	return ss
}
