package serve

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/clock"
	"github.com/mainstay-io/mainstay/internal/migrate"
	"github.com/mainstay-io/mainstay/internal/testkit/pgtest"
)

// BenchmarkOrder takes orders from POST to their end, over real HTTP, in one process with its clients. An operation is
// one order that was confirmed.
//
//	closed:    64 clients that each wait for the end of theirs
//	pipelined: 64 clients that post on, with at most 1,000 orders unfinished
//	paced:     50 orders a second; p50 and p99 are from POST to the end, as a client sees it
//	paced-200: 200 orders a second
//	alone:     one client that waits for each: what an order takes when nothing else happens
//
// 300 orders before the first one that counts let every session plan its statements.
func BenchmarkOrder(b *testing.B) {
	for _, c := range []struct{ name, database, broker, sync string }{
		{"sqlite/nats-always", "", "", "always"},
		{"sqlite/nats-lazy", "", "", "lazy"},
		{"sqlite/log", "", "database", "always"},
		{"postgres/nats-lazy", "postgres", "", "lazy"},
		{"postgres/log", "postgres", "database", "always"},
	} {
		b.Run(c.name, func(b *testing.B) {
			cfg, err := app.LoadConfig(app.Env{Getenv: func(string) string { return "" }}, nil)
			if err != nil {
				b.Fatal(err)
			}
			cfg.Data, cfg.Broker, cfg.NATSSync = b.TempDir(), c.broker, c.sync
			cfg.HTTP, cfg.Ops = "127.0.0.1:0", "127.0.0.1:0"
			if c.database != "" {
				cfg.Database, cfg.Lanes = pgtest.New(b), migrate.DefaultServerLanes
				if _, err := MigrateUp(b.Context(), cfg, migrate.Runner{}); err != nil {
					b.Fatal(err)
				}
			}
			base := startServe(b, cfg)
			clients(b, base, 16, 300)
			b.Run("closed", func(b *testing.B) { closed(b, base) })
			b.Run("pipelined", func(b *testing.B) { pipelined(b, base) })
			b.Run("paced", func(b *testing.B) { paced(b, base, 50) })
			b.Run("paced-200", func(b *testing.B) { paced(b, base, 200) })
			b.Run("alone", func(b *testing.B) { alone(b, base) })
		})
	}
}

// startServe runs Main until the benchmark ends and gives the address of the ingest API.
func startServe(b *testing.B, cfg app.Config) string {
	b.Helper()
	ctx, stop := context.WithCancel(context.Background())
	r, w := io.Pipe()
	env := app.Env{Stdout: w, Stderr: io.Discard, Getenv: func(string) string { return "" }, IsTerminal: func(io.Writer) bool { return false }}
	ended := make(chan error, 1)
	go func() { ended <- Main(ctx, env, cfg) }()
	b.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			b.Error(err)
		}
	})
	text := make([]byte, 4096)
	n, err := r.Read(text)
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text[:n]), "orders    ")
	base, _, _ := strings.Cut(rest, " ")
	return base
}

const orderBody = `{"customer_id":"c-1","currency":"EUR","lines":[{"sku":"%s","quantity":1,"unit_price":1250}],"payment":{"token":"tok_ok"},"shipping":{"name":"Ada","line1":"1 Main St","city":"Paris","postal_code":"75001","country":"FR"}}`

var benchClient = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1200}} //nolint:gochecknoglobals // shared connections

// post places an order and gives its path.
func post(b *testing.B, base string, n int64) string {
	sku := [...]string{"mug-red", "mug-blue", "shirt-m"}[n%3]
	req, err := http.NewRequest(http.MethodPost, base, strings.NewReader(fmt.Sprintf(orderBody, sku))) // bounded by the server
	if err != nil {
		b.Error(err)
		return ""
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Idempotency-Key", uuid.NewString())
	resp, err := benchClient.Do(req)
	if err != nil {
		b.Error(err)
		return ""
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	if resp.StatusCode != http.StatusAccepted {
		b.Errorf("status %d", resp.StatusCode)
	}
	return resp.Header.Get("Location")
}

// await waits for the end of an order.
func await(b *testing.B, base, path string) {
	resp, err := benchClient.Get(strings.TrimSuffix(base, "/v1/orders") + path + "?wait=30s") // bounded by the server
	if err != nil {
		b.Error(err)
		return
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	if !strings.Contains(string(body), `"status":"confirmed"`) {
		b.Errorf("order did not end well: %s", body)
	}
}

func closed(b *testing.B, base string) {
	began := clock.Start()
	clients(b, base, 64, b.N)
	b.ReportMetric(float64(b.N)/began.Elapsed().Seconds(), "orders/s")
}

// clients place so many orders, each client one after the other.
func clients(b *testing.B, base string, clients, orders int) {
	var n atomic.Int64
	var all sync.WaitGroup
	for range clients {
		all.Go(func() {
			for i := n.Add(1); i <= int64(orders); i = n.Add(1) {
				await(b, base, post(b, base, i))
			}
		})
	}
	all.Wait()
}

func pipelined(b *testing.B, base string) {
	var n atomic.Int64
	var all sync.WaitGroup
	unfinished := make(chan struct{}, 1000)
	began := clock.Start()
	for range 64 {
		all.Go(func() {
			for i := n.Add(1); i <= int64(b.N); i = n.Add(1) {
				unfinished <- struct{}{}
				path := post(b, base, i)
				all.Go(func() {
					await(b, base, path)
					<-unfinished
				})
			}
		})
	}
	all.Wait()
	b.ReportMetric(float64(b.N)/began.Elapsed().Seconds(), "orders/s")
}

func paced(b *testing.B, base string, rate int) {
	took := make([]time.Duration, b.N)
	var all sync.WaitGroup
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	for i := range b.N {
		<-tick.C
		all.Go(func() { took[i] = one(b, base, int64(i)) })
	}
	all.Wait()
	reportTimes(b, took)
}

func alone(b *testing.B, base string) {
	took := make([]time.Duration, b.N)
	for i := range b.N {
		took[i] = one(b, base, int64(i))
	}
	reportTimes(b, took)
}

// one takes an order from POST to its end.
func one(b *testing.B, base string, n int64) time.Duration {
	began := clock.Start()
	await(b, base, post(b, base, n))
	return began.Elapsed()
}

func reportTimes(b *testing.B, took []time.Duration) {
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
}
