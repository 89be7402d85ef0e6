// Package benchmark wires what `mainstay bench` measures: a client of a running ingest API, a whole system that it
// starts and removes, or one part between a database and a broker of its own.
//
// What it starts keeps everything in a temporary directory. On a PostgreSQL server it makes a database and drops it at
// the end; on a NATS server, a stream. It writes nowhere else, but through an ingest API that it was given.
package benchmark

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/bench"
)

// Works that can be measured.
const (
	Ingest = "ingest" // durable accepted orders, over HTTP
	Relay  = "relay"  // a filled outbox through sequencer and relay to the broker
	Hop    = "hop"    // messages through a handler with an effect
	Order  = "order"  // orders from POST to their end, over HTTP
)

// Options say what is measured. Those of ingest and order are Load, URL, OpsURLs and SKUs; those of relay and hop are
// Messages, Warmup, Payload and what follows.
type Options struct {
	Work string
	Load bench.Load
	// URL is a running ingest API; "" starts a system. OpsURLs are the operators' addresses of its processes, for what
	// they use; PostgresURL is its database, for the same.
	URL         string
	OpsURLs     []string
	PostgresURL string
	SKUs        []string

	// Config is of the system that is started: database, broker, nats_sync, lanes, worker_concurrency.
	Config app.Config
	// Executable is the program whose `serve` is the system.
	Executable string

	// Messages are measured, after so many of Warmup, with payloads of so many bytes and so many keys.
	Messages, Warmup int
	Payload, Keys    int
	// Single runs a handler on one message at a time instead of one on a batch; Send makes it send a message for each.
	Single, Send bool

	JSON bool
}

// Run measures and prints the result. A run that was interrupted, or in which something failed or did not end, prints
// what it has as well, and is an error.
func Run(ctx context.Context, env app.Env, o Options) error {
	res, err := measure(ctx, o, bench.NewProgress(env))
	if err != nil {
		return err
	}
	write := res.WriteTable
	if o.JSON {
		write = res.WriteJSON
	}
	return errors.Join(write(env.Stdout), verdict(&res))
}

func measure(ctx context.Context, o Options, show *bench.Progress) (bench.Result, error) {
	var res bench.Result
	var err error
	switch o.Work {
	case Ingest, Order:
		res, err = overHTTP(ctx, o, show)
	case Relay:
		res, err = MeasureRelay(ctx, o, show)
	default:
		res, err = MeasureHop(ctx, o, show)
	}
	res.Work, res.Machine = o.Work, bench.ThisMachine()
	return res, err
}

// verdict is the error of a run that tells nothing good.
func verdict(res *bench.Result) error {
	switch {
	case res.Bad() > 0:
		return app.Errorf(app.ExitPartial, "The line of errors has their kinds. The figures are of what ended well, and not to be trusted.",
			"%d of %d %s did not end well", res.Bad(), res.Begun, res.Unit)
	case res.Interrupted:
		return app.Errorf(app.ExitInterrupted, "", "a signal ended the measurement before its time")
	case res.Operations == 0:
		return app.Errorf(app.ExitPartial, "Measure more, with a longer --duration or more --messages, or with a smaller --warmup.", "nothing ended while it was measured")
	}
	return nil
}

// overHTTP measures a system through its ingest API.
func overHTTP(ctx context.Context, o Options, show *bench.Progress) (_ bench.Result, err error) {
	at := &target{url: o.URL, ops: o.OpsURLs, postgres: o.PostgresURL, config: map[string]string{"url": app.Redact(o.URL)}}
	if o.URL == "" {
		var sys *system
		if sys, err = startSystem(ctx, o); err != nil {
			return bench.Result{}, err
		}
		defer func() { err = errors.Join(err, sys.close()) }()
		at = &sys.target
	}
	orders, err := bench.NewOrders(bench.OrderConfig{
		URL: at.url, SKUs: o.SKUs, Follow: o.Work == Order, Patience: cmp.Or(o.Load.Patience, bench.DefaultPatience),
		Connections: 2*max(o.Load.Clients, bench.DefaultClients) + max(o.Load.Unfinished, bench.DefaultUnfinished),
	})
	if err != nil {
		return bench.Result{}, err
	}
	defer orders.Close()
	meter, done := at.meter(ctx)
	defer done()
	res := bench.Run(ctx, o.Load, orders, meter, show)
	res.Unit, res.LatencyOf, res.Config = "orders", "accepted", at.config
	if o.Work == Order {
		res.LatencyOf = "ended"
	}
	maps.Copy(res.Config, loadConfig(o.Load))
	return res, nil
}

// loadConfig is how the load was offered, as settings.
func loadConfig(l bench.Load) map[string]string {
	c := map[string]string{"warmup": bench.Seconds(l.Warmup), "duration": bench.Seconds(l.Duration)}
	if l.Count > 0 {
		delete(c, "duration")
		c["count"] = fmt.Sprint(l.Count)
	}
	return c
}

// target is a system that answers, and what is known of its processes.
type target struct {
	url      string
	ops      []string
	postgres string
	config   map[string]string
}

// meter reads this process, those whose operator's addresses are known, and PostgreSQL where it is on this machine.
func (t *target) meter(ctx context.Context) (*bench.Meter, func()) {
	m := &bench.Meter{Sources: []bench.Source{bench.ThisProcess("this client")}}
	for _, ops := range t.ops {
		m.Sources = append(m.Sources, bench.Metrics("server "+ops, ops))
	}
	pg, done := postgresSource(ctx, t.postgres)
	m.Sources = append(m.Sources, pg...)
	return m, done
}
