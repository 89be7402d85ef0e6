// Package outbox is the process that moves the outbox: the sequencer, which numbers what was committed, the relay,
// which publishes it, and the cleaner, which removes what nobody needs any more.
package outbox

import (
	"cmp"
	"context"
	"log/slog"
	"time"

	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/broker"
	"github.com/mainstay-io/mainstay/internal/clock"
	"github.com/mainstay-io/mainstay/internal/order"
	"github.com/mainstay-io/mainstay/internal/process"
	"github.com/mainstay-io/mainstay/internal/relay"
	"github.com/mainstay-io/mainstay/internal/retention"
	"github.com/mainstay-io/mainstay/internal/sequencer"
)

// Config is what a Part needs.
type Config struct {
	// Config has the limits of retention.
	Config app.Config
	DB     *process.Database
	// Publisher is nil where nothing is published.
	Publisher broker.Publisher
	// Keep is for how long the broker keeps a message; 0 is for ever.
	Keep time.Duration
	// Owners is how other databases ask for what their consumers lack; it may be nil.
	Owners broker.Owners
	// Holder names the process in leases.
	Holder    string
	Log       *slog.Logger
	Relay     relay.Hooks
	Sequencer sequencer.Observer
	Retention retention.Hooks
}

// Part moves the outbox of a database.
type Part struct {
	// Sequencer is nil where sequences are given at append, Relay where nothing is published.
	Sequencer *sequencer.Sequencer
	Relay     *relay.Relay
	Cleaner   *retention.Cleaner

	owners broker.Owners
	origin string
}

// sequencerPoll is how long the sequencer waits for what nobody told it of, where it is told.
const sequencerPoll = 200 * time.Millisecond

// New puts the part together; its Services are to be run.
func New(cfg Config) *Part {
	p := &Part{Cleaner: NewCleaner(cfg), owners: cfg.Owners, origin: cfg.DB.Origin()}
	if cfg.DB.Sequencer != nil {
		p.Sequencer = sequencer.New(cfg.DB.Sequencer, sequencer.Config{
			Holder: cfg.Holder, Poll: cmp.Or(cfg.DB.PollEvery, sequencerPoll), Observer: cfg.Sequencer, Logger: cfg.Log,
		})
	}
	if cfg.Publisher != nil {
		p.Relay = relay.New(relay.Config{
			Store: cfg.DB, Leases: cfg.DB, Broker: cfg.Publisher, Origin: cfg.DB.Origin(), Holder: cfg.Holder, Lanes: cfg.DB.Lanes(),
			ForceLeases: cfg.DB.Alone, Poll: cfg.DB.PollEvery, Keep: cfg.Keep, Logger: cfg.Log, Clock: clock.System, Hooks: cfg.Relay,
		})
	}
	return p
}

// NewCleaner puts the part's cleaner together.
func NewCleaner(cfg Config) *retention.Cleaner {
	return retention.New(retention.Config{
		Store: cfg.DB, Holder: cfg.Holder, Force: cfg.DB.Alone, Hooks: cfg.Retention, Logger: cfg.Log, Clock: clock.System,
		Limits: retention.Limits{
			Outbox: cfg.Config.OutboxRetention, History: cfg.Config.HistoryRetention, Barrier: cfg.Config.BarrierRetention,
			Published: cfg.Publisher != nil,
		},
		Tasks: []retention.Task{private(cfg.DB, cfg.Config.PrivateRetention)},
	})
}

// private is the task of erasing the personal data of orders that ended long ago; there is none without a limit.
func private(db *process.Database, keep time.Duration) retention.Task {
	return retention.Task{Name: "order_private", Every: eraseEvery, Clean: func(ctx context.Context, s retention.Step) (retention.Result, error) {
		if keep <= 0 || s.DryRun {
			return retention.Result{}, nil
		}
		erased, last, err := order.Erase(ctx, db, db.Dialect(), clock.System().Add(-keep), s.Cursor, s.Rows)
		return retention.Result{Removed: map[string]int64{"order_private": erased}, More: last != "", Cursor: last}, err
	}}
}

// eraseEvery is how often orders are walked for personal data that is to go.
const eraseEvery = 6 * time.Hour

// Services are what runs, with the stage in which each is stopped.
func (p *Part) Services() []app.Service {
	services := []app.Service{{Name: "cleaner", Stage: app.Output, Run: p.Cleaner.Run}}
	if p.Sequencer != nil {
		services = append(services, app.Service{Name: "sequencer", Stage: app.Output, Run: p.Sequencer.Run})
	}
	if p.Relay != nil {
		services = append(services, app.Service{Name: "relay", Stage: app.Output, Run: p.Relay.Run})
	}
	if p.Relay != nil && p.owners != nil {
		services = append(services, app.Service{Name: "answers", Stage: app.Output, Run: func(ctx context.Context) error {
			return p.owners.Answer(ctx, p.origin, p.Relay.Answer)
		}})
	}
	return services
}

// Checks are what readiness depends on, by name.
func (p *Part) Checks(h *app.Health) {
	h.Check("outbox room", func(context.Context) error { return p.Cleaner.Ready() })
	if p.Relay != nil {
		h.Check("relay", func(context.Context) error { return p.Relay.Ready() })
	}
}
