// Package outbox is the process that moves the outbox: the sequencer, which numbers what was committed, and the
// relay, which publishes it.
package outbox

import (
	"context"
	"log/slog"
	"time"

	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/broker"
	"github.com/mainstay-io/mainstay/internal/clock"
	"github.com/mainstay-io/mainstay/internal/process"
	"github.com/mainstay-io/mainstay/internal/process/carrier"
	"github.com/mainstay-io/mainstay/internal/relay"
	"github.com/mainstay-io/mainstay/internal/sequencer"
)

// Config is what a Part needs.
type Config struct {
	DB *process.Database
	// Publisher is nil where nothing is published.
	Publisher broker.Publisher
	// Holder names the process in leases.
	Holder    string
	Log       *slog.Logger
	Relay     relay.Hooks
	Sequencer sequencer.Observer
	// Poll is how long the sequencer waits for what nobody told it about; 0 is the default.
	Poll time.Duration
}

// Part moves the outbox of a database.
type Part struct {
	// Sequencer is nil where sequences are given at append, Relay where nothing is published.
	Sequencer *sequencer.Sequencer
	Relay     *relay.Relay
}

// New puts the part together; its Services are to be run.
func New(cfg Config) *Part {
	p := &Part{}
	if cfg.DB.Sequencer != nil {
		p.Sequencer = sequencer.New(cfg.DB.Sequencer, sequencer.Config{
			Holder: cfg.Holder, Poll: cfg.Poll, Observer: cfg.Sequencer, Logger: cfg.Log,
		})
	}
	if cfg.Publisher != nil {
		p.Relay = relay.New(relay.Config{
			Store: cfg.DB, Leases: cfg.DB, Broker: cfg.Publisher, Holder: cfg.Holder, Lanes: cfg.DB.Lanes(),
			ForceLeases: cfg.DB.Alone, Keep: carrier.Keep, Logger: cfg.Log, Clock: clock.System, Hooks: cfg.Relay,
		})
	}
	return p
}

// Services are what runs, with the stage in which each is stopped.
func (p *Part) Services() []app.Service {
	var services []app.Service
	if p.Sequencer != nil {
		services = append(services, app.Service{Name: "sequencer", Stage: app.Output, Run: p.Sequencer.Run})
	}
	if p.Relay != nil {
		services = append(services, app.Service{Name: "relay", Stage: app.Output, Run: p.Relay.Run})
	}
	return services
}

// Checks are what readiness depends on, by name.
func (p *Part) Checks(h *app.Health) {
	if p.Relay != nil {
		h.Check("relay", func(context.Context) error { return p.Relay.Ready() })
	}
}
