package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/uuid"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/bench"
	"github.com/mainstay-io/mainstay/internal/broker/natsbroker"
	"github.com/mainstay-io/mainstay/internal/broker/natsembed"
	"github.com/mainstay-io/mainstay/internal/clock"
	"github.com/mainstay-io/mainstay/internal/migrate"
	"github.com/mainstay-io/mainstay/internal/process/benchmark"
	"github.com/mainstay-io/mainstay/internal/process/ingest"
	"github.com/mainstay-io/mainstay/internal/process/serve"
)

// config is this module's, on the world's database.
func (w *world) config(broker string) app.Config {
	return app.Config{Database: w.pg.URL(), Broker: broker, NATSSync: w.sync()}
}

// sound gives the rate of a run in which all went well.
func sound(res bench.Result, err error) (float64, error) {
	if err == nil && !res.Sound() {
		err = fmt.Errorf("the run is not sound: %v", res.Faults)
	}
	return res.PerSecond, err
}

func (w *world) hopSide(name, broker string, single bool, n int) side {
	return side{"mainstay: " + name, "16 lanes, transactions of up to 256 messages", func(ctx context.Context) (float64, error) {
		return sound(benchmark.MeasureHop(ctx, benchmark.Options{
			Work: benchmark.Hop, Config: w.config(broker), Messages: n, Payload: payload, Keys: 1000, Single: single,
		}, nil))
	}}
}

func (w *world) relaySide(n int) side {
	return side{"mainstay: sequencer and relay to JetStream", "16 lanes, rounds of up to 1,000", func(ctx context.Context) (float64, error) {
		return sound(benchmark.MeasureRelay(ctx, benchmark.Options{
			Work: benchmark.Relay, Config: w.config(""), Messages: n, Payload: payload, Keys: 1000,
		}, nil))
	}}
}

// ingestSide takes orders over HTTP in an ingest process's own code, run here.
func (w *world) ingestSide(n int) side {
	return side{"mainstay: ingest, over HTTP", "64 clients; order, saga, 2 messages and idempotency each", func(ctx context.Context) (rate float64, err error) {
		pool, drop, err := w.database(ctx, 1)
		if err != nil {
			return 0, err
		}
		defer drop()
		vars := map[string]string{
			"MAINSTAY_DATABASE": pool.Config().ConnString(), "MAINSTAY_HTTP": "127.0.0.1:0", "MAINSTAY_OPS": "127.0.0.1:0", "MAINSTAY_LOG_LEVEL": "error",
		}
		out, said := io.Pipe()
		env := app.Env{Stdout: said, Stderr: os.Stderr, Getenv: func(k string) string { return vars[k] }, IsTerminal: func(io.Writer) bool { return false }}
		cfg, err := app.LoadConfigOf(app.Ingest, env, nil)
		if err != nil {
			return 0, err
		}
		if _, err := serve.MigrateUp(ctx, cfg, migrate.Runner{}); err != nil {
			return 0, err
		}
		own, stop := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() { ended <- errors.Join(ingest.Main(own, env, cfg), said.Close()) }()
		defer func() { stop(); err = errors.Join(err, <-ended) }()
		url := make(chan string, 1)
		go readURL(out, url)
		orders, err := bench.NewOrders(bench.OrderConfig{URL: <-url, SKUs: []string{"mug-red", "mug-blue", "shirt-m"}, Connections: clients})
		if err != nil {
			return 0, err
		}
		defer orders.Close()
		return sound(bench.Run(ctx, bench.Load{Clients: clients, Count: int64(n)}, orders, nil, nil), nil)
	}}
}

// readURL finds where the ingest API is in the process's greeting, and reads on to the end.
func readURL(from io.Reader, to chan<- string) {
	defer close(to)
	for lines := bufio.NewScanner(from); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), "  orders "); ok {
			url, _, _ := strings.Cut(strings.TrimSpace(rest), "/v1/orders")
			to <- url
		}
	}
}

// publishSide publishes as the relay does, rounds of 1,000 over 16 lanes, without the database.
func (w *world) publishSide(n int) side {
	const round, lanes = 1000, 16
	return side{"mainstay: the relay's publisher", "rounds of 1,000 over 16 lanes, each with its expected place", func(ctx context.Context) (rate float64, err error) {
		dir, err := os.MkdirTemp("", "mainstay-bench-")
		if err != nil {
			return 0, err
		}
		defer os.RemoveAll(dir)
		srv, err := natsembed.Start(ctx, natsembed.Config{Dir: filepath.Join(dir, "nats"), Lazy: w.lazy})
		if err != nil {
			return 0, err
		}
		defer func() { err = errors.Join(err, srv.Shutdown(context.WithoutCancel(ctx))) }()
		sync := map[bool]natsbroker.Sync{true: natsbroker.SyncLazy, false: natsbroker.SyncAlways}[w.lazy]
		b, err := natsbroker.Open(ctx, natsbroker.Config{InProcess: srv, Sync: sync})
		if err != nil {
			return 0, err
		}
		defer b.Close()
		rounds := makeRounds(n, round, lanes)
		expect, began := map[mainstay.TopicLane]int64{}, clock.Start()
		for _, ms := range rounds {
			last, err := b.Publish(ctx, ms, expect)
			if err != nil {
				return 0, err
			}
			expect = last
		}
		return perSecond(n/round*round, began.Elapsed()), nil
	}}
}

func makeRounds(n, round, lanes int) [][]*mainstay.Message {
	content := body()
	rounds := make([][]*mainstay.Message, n/round)
	sequences := make([]int64, lanes)
	for i := range rounds {
		for j := range round {
			lane := j % lanes
			sequences[lane]++
			rounds[i] = append(rounds[i], &mainstay.Message{
				ID: uuid.NewString(), Topic: "bench", Key: fmt.Sprint("key-", lane), Type: "bench.happened", Source: "bench", Payload: content,
				CreatedAt: clock.System(), Lane: lane, Incarnation: 1, Sequence: sequences[lane],
			})
		}
	}
	return rounds
}
