package benchmark

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/bench"
	"github.com/mainstay-io/mainstay/internal/broker/natsbroker"
	"github.com/mainstay-io/mainstay/internal/relay"
	"github.com/mainstay-io/mainstay/internal/sequencer"
)

// topic is what the measured messages are of.
const topic = "bench"

// holder names this process in leases; nobody else knows the database.
const holder = "bench"

// MeasureRelay fills an outbox and measures how sequencer and relay carry it to the broker: a message counts when the
// broker has acknowledged it and that is recorded.
func MeasureRelay(ctx context.Context, o Options, show *bench.Progress) (_ bench.Result, err error) {
	if o.Config.Broker == "database" {
		return bench.Result{}, app.Errorf(app.ExitUsage, "Leave --broker out for the embedded one.", "there is no relay without a broker")
	}
	p, err := newPlace(ctx, o.Config)
	if err != nil {
		return bench.Result{}, err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	if err := p.fill(ctx, topic, o.Warmup+o.Messages, o.Keys, o.Payload); err != nil {
		return bench.Result{}, err
	}
	if err := p.open(ctx, o.Config, slog.New(slog.DiscardHandler)); err != nil {
		return bench.Result{}, err
	}
	d := newDrain(o.Warmup, o.Messages)
	m, done := p.meter(ctx)
	defer done()
	res, err := d.measure(ctx, m, show, p.carry(relayHooks{d})...)
	res.Unit, res.LatencyOf, res.Load, res.Config = "messages", "a round", "a filled outbox", drainConfig(o)
	return res, err
}

// carry gives the services that bring the outbox to the broker: none where sequences are given at append and there
// is no broker.
func (p *place) carry(h relay.Hooks) (services []service) {
	if p.sequencer != nil {
		services = append(services, sequencer.New(p.sequencer, sequencer.Config{Holder: holder, Poll: 200 * time.Millisecond}).Run)
	}
	if p.publisher != nil {
		services = append(services, relay.New(relay.Config{
			Store: p.store, Leases: p.store, Broker: p.publisher, Holder: holder, Lanes: p.store.Lanes(), ForceLeases: true,
			Keep: natsbroker.DefaultMaxAge, Hooks: h,
		}).Run)
	}
	return services
}

// meter reads this process, which does the work, and PostgreSQL where it is on this machine.
func (p *place) meter(ctx context.Context) (*bench.Meter, func()) {
	pg, done := postgresSource(ctx, p.source)
	return &bench.Meter{Sources: append([]bench.Source{bench.ThisProcess("this process")}, pg...)}, done
}

// relayHooks counts what a relay does.
type relayHooks struct{ d *drain }

func (h relayHooks) Published(n int)                 { h.d.add(n) }
func (h relayHooks) Refilled(int)                    {}
func (h relayHooks) Round(took time.Duration)        { h.d.note(took) }
func (h relayHooks) OldestUnpublished(time.Duration) {}
func (h relayHooks) Lanes(int)                       {}
