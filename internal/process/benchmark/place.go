package benchmark

import (
	"cmp"
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/broker"
	"github.com/mainstay-io/mainstay/internal/broker/logbroker"
	"github.com/mainstay-io/mainstay/internal/broker/membroker"
	"github.com/mainstay-io/mainstay/internal/broker/natsbroker"
	"github.com/mainstay-io/mainstay/internal/broker/natsembed"
	"github.com/mainstay-io/mainstay/internal/lane"
	"github.com/mainstay-io/mainstay/internal/migrate"
	"github.com/mainstay-io/mainstay/internal/process/carrier"
	"github.com/mainstay-io/mainstay/internal/relay"
	"github.com/mainstay-io/mainstay/internal/sequencer"
	"github.com/mainstay-io/mainstay/internal/store/postgres"
	"github.com/mainstay-io/mainstay/internal/store/sqlite"
	"github.com/mainstay-io/mainstay/outbox"
)

// store is a database as relay and worker use it.
type store interface {
	lane.Store
	relay.Store
	Run(ctx context.Context, fn func(ctx context.Context, tx mainstay.Tx) error) error
	Dialect() mainstay.Dialect
	Lanes() int
	Close() error
}

// place is a database and a broker of a measurement's own.
type place struct {
	dir     string
	dialect mainstay.Dialect
	// driver and source open the database beside the store.
	driver, source string
	scratch        *scratch // nil on SQLite

	store     store
	sequencer sequencer.Store // nil where sequences are given at append
	reader    broker.Reader
	publisher broker.Publisher // nil where the log itself is read
	closers   []func() error   // to be called from the last to the first
}

// newPlace makes the database, with its schema and nothing in it; nothing is open yet.
func newPlace(ctx context.Context, cfg app.Config) (_ *place, err error) {
	p := &place{}
	if p.dir, err = os.MkdirTemp("", "mainstay-bench-"); err != nil {
		return nil, fmt.Errorf("making a directory for the measurement: %w", err)
	}
	p.closers = append(p.closers, func() error { return os.RemoveAll(p.dir) })
	if isPostgres(cfg.Database) {
		if p.scratch, err = newScratch(ctx, cfg.Database, cfg.Lanes); err != nil {
			return nil, errors.Join(err, p.close())
		}
		p.closers = append(p.closers, p.scratch.drop)
		p.dialect, p.driver, p.source = mainstay.Postgres, "pgx", p.scratch.url
		return p, nil
	}
	p.dialect, p.driver, p.source = mainstay.SQLite, "sqlite", sqlite.DSN(filepath.Join(p.dir, "mainstay.db"), "FULL", false)
	err = p.with(func(db *sql.DB) error {
		_, err := migrate.Up(ctx, db, p.dialect, cmp.Or(cfg.Lanes, migrate.DefaultServerLanes))
		return err
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("making the database: %w", err), p.close())
	}
	return p, nil
}

// with opens the database beside the store for as long as do takes.
func (p *place) with(do func(*sql.DB) error) (err error) {
	db, err := sql.Open(p.driver, p.source)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if p.dialect == mainstay.SQLite {
		db.SetMaxOpenConns(1)
	}
	return do(db)
}

// fillAtATime is how many messages one transaction appends while the outbox is filled.
const fillAtATime = 2000

// fill appends messages to a topic, of so many keys in turn.
func (p *place) fill(ctx context.Context, topic string, messages, keys, payload int) error {
	return p.with(func(db *sql.DB) error {
		box, err := outbox.Open(ctx, db, p.dialect)
		if err != nil {
			return err
		}
		body := []byte(`"` + strings.Repeat("x", max(payload-2, 0)) + `"`)
		for from := 0; from < messages; from += fillAtATime {
			ms := make([]*mainstay.Message, min(fillAtATime, messages-from))
			for i := range ms {
				ms[i] = &mainstay.Message{
					Topic: topic, Key: fmt.Sprint("key-", (from+i)%keys), Type: "bench.happened", Source: "bench", Payload: body,
				}
			}
			if err := appendAll(ctx, db, box, ms); err != nil {
				return fmt.Errorf("filling the outbox: %w", err)
			}
		}
		return nil
	})
}

func appendAll(ctx context.Context, db *sql.DB, box *outbox.Outbox, ms []*mainstay.Message) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if err := box.Append(ctx, tx, ms...); err != nil {
		return err
	}
	return tx.Commit()
}

// open opens store and broker.
func (p *place) open(ctx context.Context, cfg app.Config, log *slog.Logger) error {
	if err := p.openStore(ctx, log); err != nil {
		return err
	}
	p.closers = append(p.closers, p.store.Close)
	return p.openBroker(ctx, cfg, log)
}

func (p *place) openStore(ctx context.Context, log *slog.Logger) error {
	if p.dialect == mainstay.SQLite {
		st, err := sqlite.Open(ctx, sqlite.Config{Path: filepath.Join(p.dir, "mainstay.db"), Logger: log})
		p.store = st
		return err
	}
	st, err := postgres.Open(ctx, postgres.Config{URL: p.source, Logger: log})
	p.store, p.sequencer = st, st
	return err
}

func (p *place) openBroker(ctx context.Context, cfg app.Config, log *slog.Logger) error {
	switch cfg.Broker {
	case "database":
		p.reader = logbroker.New(p.store, 0)
		return nil
	case "memory":
		b := membroker.New(membroker.Options{})
		p.reader, p.publisher = b, b
		p.closers = append(p.closers, b.Close)
		return nil
	}
	connect := natsbroker.Config{
		URL: cfg.Broker, Access: carrier.Access(cfg), Sync: natsbroker.SyncLazy, Logger: log,
		Prefix: "mainstay-bench-" + strings.ToLower(rand.Text()[:8]),
	}
	if cfg.Broker == "" {
		lazy := cfg.NATSSync == "lazy"
		srv, err := natsembed.Start(ctx, natsembed.Config{Dir: filepath.Join(p.dir, "nats"), Lazy: lazy, Logger: log})
		if err != nil {
			return err
		}
		p.closers = append(p.closers, func() error { return srv.Shutdown(context.WithoutCancel(ctx)) })
		connect.InProcess = srv
		if !lazy {
			connect.Sync = natsbroker.SyncAlways
		}
	}
	b, err := natsbroker.Open(ctx, connect)
	if err != nil {
		return carrier.Explain(err, cfg.Broker)
	}
	p.reader, p.publisher = b, b
	p.closers = append(p.closers, b.Close, func() error { return b.Drop(context.WithoutCancel(ctx)) })
	return nil
}

// close removes everything that was made.
func (p *place) close() error {
	var err error
	for i := len(p.closers) - 1; i >= 0; i-- {
		err = errors.Join(err, p.closers[i]())
	}
	return err
}
