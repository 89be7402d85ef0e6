package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/mainstay-io/mainstay/internal/broker/natsembed"
	"github.com/mainstay-io/mainstay/internal/testkit/pgtest"
)

// world is what all sides share: a PostgreSQL server on the disk, with a fresh database for each round, and how NATS
// servers are to sync.
type world struct {
	host *host
	pg   *pgtest.Server
	lazy bool
}

// host stands in for the test that pgtest expects.
type host struct {
	testing.TB
	cleanups []func()
	failed   error
}

// errSkipped says that this machine has no PostgreSQL, and need not have one.
var errSkipped = errors.New("skipped")

func (h *host) Helper()                    {}
func (h *host) Failed() bool               { return h.failed != nil }
func (h *host) Cleanup(f func())           { h.cleanups = append(h.cleanups, f) }
func (h *host) Logf(f string, args ...any) { fmt.Fprintf(os.Stderr, f+"\n", args...) }
func (h *host) Skipf(f string, a ...any) {
	h.failed = fmt.Errorf("%w: %s", errSkipped, fmt.Sprintf(f, a...))
	panic(h.failed)
}
func (h *host) Fatalf(f string, a ...any) { h.failed = fmt.Errorf(f, a...); panic(h.failed) }

// try runs what may fail the host.
func (h *host) try(f func()) (err error) {
	defer func() {
		if p := recover(); p != nil {
			if h.failed == nil {
				panic(p)
			}
			err, h.failed = h.failed, nil
		}
	}()
	f()
	return nil
}

func newWorld(o options) (*world, error) {
	w := &world{host: &host{}, lazy: o.lazy}
	return w, w.host.try(func() { w.pg = pgtest.NewServer(w.host, "max_wal_size = '4GB'") })
}

func (w *world) close() {
	for i := len(w.host.cleanups) - 1; i >= 0; i-- {
		w.host.cleanups[i]()
	}
}

func (w *world) sync() string { return map[bool]string{true: "lazy", false: "always"}[w.lazy] }

func (w *world) postgresVersion() string {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, w.pg.URL())
	if err != nil {
		return err.Error()
	}
	defer conn.Close(ctx)
	var v string
	if err := conn.QueryRow(ctx, "show server_version").Scan(&v); err != nil {
		return err.Error()
	}
	return "PostgreSQL " + v
}

// database gives a pool on a fresh database, and what drops it.
func (w *world) database(ctx context.Context, conns int) (pool *pgxpool.Pool, drop func(), err error) {
	var url string
	if err := w.host.try(func() { url = w.pg.NewDatabase() }); err != nil {
		return nil, nil, err
	}
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, nil, err
	}
	cfg.MaxConns = int32(conns) //nolint:gosec // a few dozen
	if pool, err = pgxpool.NewWithConfig(ctx, cfg); err != nil {
		return nil, nil, err
	}
	return pool, func() { pool.Close(); w.drop(cfg.ConnConfig.Database) }, nil
}

func (w *world) drop(name string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, w.pg.URL())
	if err == nil {
		_, err = conn.Exec(ctx, "drop database "+name+" with (force)")
		err = errors.Join(err, conn.Close(ctx))
	}
	if err != nil {
		w.host.Logf("dropping %s: %v", name, err)
	}
}

// stream starts a NATS server with a stream like the product's, and connects to it inside the process.
func (w *world) stream(ctx context.Context) (js jetstream.JetStream, stop func(), err error) {
	dir, err := os.MkdirTemp("", "mainstay-bench-")
	if err != nil {
		return nil, nil, err
	}
	srv, err := natsembed.Start(ctx, natsembed.Config{Dir: dir, Lazy: w.lazy})
	if err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(dir))
	}
	stopServer := func() { _ = srv.Shutdown(context.WithoutCancel(ctx)); _ = os.RemoveAll(dir) }
	nc, err := nats.Connect("", nats.InProcessServer(srv))
	if err != nil {
		stopServer()
		return nil, nil, err
	}
	stop = func() { nc.Close(); stopServer() }
	if js, err = jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(asyncWindow)); err == nil {
		_, err = js.CreateStream(ctx, jetstream.StreamConfig{
			Name: "PEER", Subjects: []string{"peer.*"}, Storage: jetstream.FileStorage, AllowAtomicPublish: true, AllowDirect: true,
		})
	}
	if err != nil {
		stop()
		return nil, nil, err
	}
	return js, stop, nil
}

// body is the content of a message: a JSON text of the payload's size.
func body() []byte { return []byte(`"` + strings.Repeat("x", payload-2) + `"`) }

// perSecond is a rate.
func perSecond(n int, took time.Duration) float64 { return float64(n) / took.Seconds() }
