package main

import (
	"cmp"
	"context"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/bench"
	"github.com/mainstay-io/mainstay/internal/process/benchmark"
)

func newBench(env app.Env, p parts) *cobra.Command {
	cmd := group("bench", "Measure how fast it is, on this machine", `Measure one kind of work and print throughput, latencies, errors, and what CPU and memory it
took. Without --url it starts what it measures, in a temporary directory, and removes it.

Settings of the environment are left alone. With --database it makes a database of its own
on that server and drops it at the end, and with --broker a stream; nothing else there is touched.`)
	cmd.AddCommand(
		newBenchLoad(env, p, benchmark.Order, "Orders from POST to their end", `Place orders and wait for the end of each, which must be a confirmation. A client waits
for the end of its order before it places the next one; with --unfinished it posts on while no
more than so many are unfinished; with --rate orders are placed at that rate, and measured from
the instant at which each was to be placed.`),
		newBenchLoad(env, p, benchmark.Ingest, "Orders that are durably accepted", `Place orders and measure the answers, each given after the commit. Nobody waits for the ends;
in a system that it starts, the workers carry the orders on at the same time and take their
share of the machine. To measure ingest alone, name one with --url.`),
		newBenchDrain(env, p, benchmark.Relay, "Messages from the outbox to the broker", `Fill an outbox, then start sequencer and relay and measure how fast the messages reach the
broker. One counts when the broker has acknowledged it and that is recorded.`),
		newBenchDrain(env, p, benchmark.Hop, "Messages through a handler with an effect", `Fill an outbox and have it carried, then start a worker whose handler writes a row for each
message, and measure how fast they are handled. The place moves in the transaction of the rows,
and at the end there must be one row for each message.`),
	)
	return cmd
}

// benchCommand is what every kind of work has in common: a system to start, and a form of the result.
func benchCommand(env app.Env, p parts, o *benchmark.Options, short, long string, check func(*cobra.Command) error) *cobra.Command {
	cmd := &cobra.Command{
		Use: o.Work, Short: short, Long: long, Args: exactly(),
		Example: `  mainstay bench ` + o.Work + benchExamples()[o.Work],
		Annotations: documented(app.ExitOK, app.ExitError, app.ExitUsage, app.ExitConflict, app.ExitPartial, app.ExitUnreachable,
			app.ExitInterrupted),
	}
	app.AddFlagsOnly(cmd.Flags(), "database", "broker", "nats_sync", "nats_creds", "nats_nkey", "nats_tls_ca", "nats_tls_cert", "nats_tls_key", "lanes")
	for name, usage := range benchPlaces() {
		cmd.Flags().Lookup(name).Usage = usage
	}
	output := addOutput(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		alone := env
		alone.Getenv = func(string) string { return "" } // a running system's settings are not for this
		if o.Config, err = app.LoadConfig(alone, cmd.Flags()); err != nil {
			return err
		}
		if err := cmp.Or(checkPlaces(cmd, o.Config), check(cmd)); err != nil {
			return err
		}
		o.JSON = output.String() == "json"
		return p.bench(cmd.Context(), env, *o)
	}
	return cmd
}

// benchPlaces are the flags that mean less here than they do to a server.
func benchPlaces() map[string]string {
	return map[string]string{
		"database": "PostgreSQL server on which it makes a database, and drops it: postgres://USER:PASSWORD@HOST/NAME, of a role that may. Without it, SQLite in the temporary directory.",
		"broker":   "NATS server on which it makes a stream, and deletes it: nats://HOST:4222[,nats://HOST:4222]; or memory, or database (workers read the log, no broker at all). Without it, the embedded server.",
		"lanes":    "Ordered slices of a topic; 0 is 4 on SQLite, 16 on PostgreSQL.",
	}
}

// checkPlaces refuses a file, which may be somebody's: what is measured keeps what it writes in a place of its own.
func checkPlaces(cmd *cobra.Command, cfg app.Config) error {
	if _, isFile := cfg.SQLite(); isFile && cfg.Database != "" {
		return usageError(cmd, "--database names a server here, as postgres://USER:PASSWORD@HOST/NAME; without it, SQLite in a temporary directory is measured")
	}
	return nil
}

func benchExamples() map[string]string {
	return map[string]string{
		benchmark.Order: `
  mainstay bench order --unfinished 1000 --nats-sync lazy
  mainstay bench order --rate 50 --duration 30s
  mainstay bench order --url http://127.0.0.1:8080 --ops-url http://127.0.0.1:8081 -o json`,
		benchmark.Ingest: `
  mainstay bench ingest --url http://127.0.0.1:8080 --rate 800`,
		benchmark.Relay: `
  mainstay bench relay --database postgres://postgres@127.0.0.1/postgres --messages 200000`,
		benchmark.Hop: `
  mainstay bench hop --database postgres://postgres@127.0.0.1/postgres --broker database --send`,
	}
}

func newBenchLoad(env app.Env, p parts, work, short, long string) *cobra.Command {
	o := &benchmark.Options{Work: work}
	cmd := benchCommand(env, p, o, short, long, func(cmd *cobra.Command) error { return checkLoad(cmd, o) })
	f := cmd.Flags()
	f.StringVar(&o.URL, "url", "", "ingest API of a running system (`URL`); its orders stay there")
	f.StringArrayVar(&o.OpsURLs, "ops-url", nil, "operator's address of a process of that system (`URL`), to read what it uses; may be repeated")
	f.StringSliceVar(&o.SKUs, "sku", []string{"mug-red", "mug-blue", "shirt-m"}, "articles to order, in turn; there must be enough in stock")
	f.Float64Var(&o.Load.Rate, "rate", 0, "orders `each second`, whether or not earlier ones have ended; 0 leaves it to the clients")
	f.IntVar(&o.Load.Clients, "clients", bench.DefaultClients, "clients that place orders side by side")
	f.IntVar(&o.Load.Unfinished, "unfinished", 0, "clients post on while no more than so many orders are unfinished; 0 makes each wait; with --rate a bound, 1000 by default")
	f.DurationVar(&o.Load.Warmup, "warmup", 2*time.Second, "time before it is measured")
	f.DurationVar(&o.Load.Duration, "duration", 10*time.Second, "time that is measured")
	f.Int64Var(&o.Load.Count, "count", 0, "measure so many orders, however long that takes, instead of a duration")
	f.DurationVar(&o.Load.Patience, "patience", bench.DefaultPatience, "how long the last orders may take to end")
	return cmd
}

// checkLoad refuses loads that cannot be offered, and flags that speak of another system.
func checkLoad(cmd *cobra.Command, o *benchmark.Options) error {
	l, flags := o.Load, cmd.Flags()
	switch {
	case l.Rate < 0 || l.Rate > 1e6:
		return usageError(cmd, "--rate must be between 0 and 1000000")
	case l.Clients < 1 || l.Clients > 10_000:
		return usageError(cmd, "--clients must be between 1 and 10000")
	case l.Rate > 0 && flags.Changed("clients"):
		return usageError(cmd, "--rate and --clients are two kinds of load: give one of them")
	case l.Unfinished < 0 || l.Unfinished > 10_000:
		return usageError(cmd, "--unfinished must be between 0 and 10000")
	case l.Warmup < 0 || l.Duration <= 0 || l.Patience <= 0 || l.Count < 0:
		return usageError(cmd, "--duration and --patience must be above 0, --warmup and --count not below")
	case l.Count > 0 && flags.Changed("duration"):
		return usageError(cmd, "--count and --duration both say when to end: give one of them")
	case len(o.SKUs) == 0:
		return usageError(cmd, "--sku needs an article")
	}
	if o.URL == "" && len(o.OpsURLs) > 0 {
		return usageError(cmd, "--ops-url is about a running system, so it goes with --url")
	}
	if o.URL == "" {
		return nil
	}
	for _, name := range []string{"broker", "nats-sync", "lanes"} {
		if flags.Changed(name) {
			return usageError(cmd, "--%s is about a system that is started, and --url names one that runs", name)
		}
	}
	o.PostgresURL = o.Config.Database
	return nil
}

func newBenchDrain(env app.Env, p parts, work, short, long string) *cobra.Command {
	o := &benchmark.Options{Work: work}
	cmd := benchCommand(env, p, o, short, long, func(cmd *cobra.Command) error { return checkDrain(cmd, o) })
	f := cmd.Flags()
	f.IntVar(&o.Messages, "messages", 50_000, "messages that are measured")
	f.IntVar(&o.Warmup, "warmup", 5_000, "messages before them, which are not")
	f.IntVar(&o.Payload, "payload", 300, "bytes of each message's content")
	f.IntVar(&o.Keys, "keys", 1000, "keys that the messages are of, in turn")
	if work == benchmark.Hop {
		f.BoolVar(&o.Single, "single", false, "a handler of one message at a time, instead of one of a batch")
		f.BoolVar(&o.Send, "send", false, "the handler sends a message for each that it handles")
	}
	return cmd
}

// checkDrain refuses what cannot be filled.
func checkDrain(cmd *cobra.Command, o *benchmark.Options) error {
	switch {
	case o.Messages < 1 || o.Messages > 100_000_000 || o.Warmup < 0 || o.Warmup > 100_000_000:
		return usageError(cmd, "--messages must be between 1 and 100000000, --warmup not below 0")
	case o.Payload < 2 || o.Payload > 512<<10:
		return usageError(cmd, "--payload must be between 2 and 524288")
	case o.Keys < 1:
		return usageError(cmd, "--keys must be above 0")
	case o.Work == benchmark.Relay && o.Config.Broker == "database":
		return usageError(cmd, "--broker database is no broker, so that there is nothing to relay")
	}
	return nil
}

// runBench measures with this program as the system.
func runBench(ctx context.Context, env app.Env, o benchmark.Options) (err error) {
	if o.Executable, err = os.Executable(); err != nil {
		return app.Errorf(app.ExitError, "Name a running system with --url.", "looking for this program, which is the measured system as well: %w", err)
	}
	return benchmark.Run(ctx, env, o)
}
