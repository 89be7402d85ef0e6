package serve

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"time"

	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/ingest"
	"github.com/mainstay-io/mainstay/internal/inventory"
	"github.com/mainstay-io/mainstay/internal/lane"
	"github.com/mainstay-io/mainstay/internal/orchestrator"
	"github.com/mainstay-io/mainstay/internal/payment/sandbox"
	"github.com/mainstay-io/mainstay/internal/process"
	"github.com/mainstay-io/mainstay/internal/process/carrier"
	ingestpart "github.com/mainstay-io/mainstay/internal/process/ingest"
	outboxpart "github.com/mainstay-io/mainstay/internal/process/outbox"
	workerpart "github.com/mainstay-io/mainstay/internal/process/worker"
	"github.com/mainstay-io/mainstay/internal/relay"
	"github.com/mainstay-io/mainstay/internal/retention"
	"github.com/mainstay-io/mainstay/internal/sequencer"
	"github.com/mainstay-io/mainstay/worker"
)

// backbone is everything but the servers: the database, the broker, and the parts that work between them.
type backbone struct {
	cfg     app.Config
	log     *slog.Logger
	db      *process.Database
	carrier *carrier.Carrier
	intake  *ingestpart.Part
	outbox  *outboxpart.Part
	worker  *workerpart.Part
}

// hooks is where the parts report what they do.
type hooks struct {
	ingest    ingest.Hooks
	relay     relay.Hooks
	lane      lane.Hooks
	saga      orchestrator.Hooks
	sequencer sequencer.Observer
	retention retention.Hooks

	// carry and register are nil but in tests: one puts something between the backbone and its broker, past which no
	// message goes then, the other adds consumers.
	carry    func(*carrier.Carrier)
	register func(*worker.Worker)
	// latency is how long the gateway takes beside its work; zero but in tests.
	latency time.Duration
}

// open opens the database and the broker and wires what works between them; group closes what was opened.
func open(ctx context.Context, cfg app.Config, log *slog.Logger, group *app.Group, m hooks) (*backbone, error) {
	b := &backbone{cfg: cfg, log: log}
	var err error
	if b.db, err = openDatabase(ctx, cfg, log); err != nil {
		return nil, err
	}
	group.Opened("database", func(context.Context) error { return closeDatabase(b.db) })
	gateway, err := sandbox.Open(ctx, b.db.Gateway, b.db.Dialect(), sandbox.Options{Latency: m.latency})
	if err != nil {
		return nil, explainSQLite(fmt.Errorf("opening the payment gateway: %w", err), filepath.Join(filepath.Dir(sqlitePath(cfg)), gatewayFile))
	}
	group.Opened("payment gateway", func(context.Context) error { return gateway.Close() })
	if b.carrier, err = openBroker(ctx, cfg, b.db, log); err != nil {
		return nil, err
	}
	if b.carrier.Close != nil {
		group.Opened("broker", b.carrier.Close)
	}
	if m.carry != nil {
		m.carry(b.carrier)
	}
	return b, b.wire(gateway, m)
}

func closeDatabase(db *process.Database) error {
	if db.Gateway != db.Reads {
		return errors.Join(db.Close(), db.Gateway.Close())
	}
	return db.Close()
}

func (b *backbone) wire(gateway *sandbox.Gateway, m hooks) error {
	holder, err := process.NewHolder(b.cfg)
	if err != nil {
		return err
	}
	b.intake, err = ingestpart.New(ingestpart.Config{
		Config: b.cfg, DB: b.db, Log: b.log, Hooks: m.ingest, Sagas: m.saga,
	})
	if err != nil {
		return err
	}
	b.outbox = outboxpart.New(outboxpart.Config{
		Config: b.cfg, DB: b.db, Publisher: b.carrier.Publisher, Keep: b.carrier.Keep, Holder: holder, Log: b.log,
		Relay: m.relay, Sequencer: m.sequencer, Retention: m.retention,
	})
	follow := b.db.Follow
	if m.carry != nil {
		follow = nil
	}
	b.worker, err = workerpart.New(workerpart.Config{
		Config: b.cfg, DB: b.db, Reader: b.carrier.Reader, Follow: follow, Compared: b.carrier.Publisher != nil, Gateway: gateway, Holder: holder, Log: b.log,
		Lanes: m.lane, Sagas: m.saga, Ended: b.intake.Waiters.Poke, Register: m.register,
	})
	return err
}

func (b *backbone) desk() *inventory.Desk { return inventory.NewDesk(b.db.Dialect(), b.db, b.db.Reads) }

// services are the parts that run, with the stage in which each is stopped.
func (b *backbone) services() []app.Service {
	all := slices.Concat(b.intake.Services(), b.worker.Services(), b.outbox.Services())
	if b.db.Watch != nil {
		all = append(all, app.Service{Name: "database", Stage: app.Output, Run: b.db.Watch})
	}
	return all
}

// checks are what readiness depends on, by name.
func (b *backbone) checks(h *app.Health) {
	h.Check("database", b.db.Reads.PingContext)
	if b.carrier.Ready != nil {
		h.Check("broker", b.carrier.Ready)
	}
	b.worker.Checks(h)
	b.outbox.Checks(h)
}
