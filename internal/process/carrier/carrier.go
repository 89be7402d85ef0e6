// Package carrier opens what carries messages between processes: a broker, or the log of the database itself.
package carrier

import (
	"context"
	"log/slog"
	"time"

	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/broker"
	"github.com/mainstay-io/mainstay/internal/broker/logbroker"
	"github.com/mainstay-io/mainstay/internal/broker/natsbroker"
	"github.com/mainstay-io/mainstay/internal/process"
)

// Database is the value of the setting broker for none at all.
const Database = "database"

// Carrier is what carries messages. Whoever opened it closes it.
type Carrier struct {
	Reader broker.Reader
	// Publisher is nil when the log is read directly and nothing is published.
	Publisher broker.Publisher
	// Owners is how databases that share the broker ask each other; nil where there is one.
	Owners broker.Owners
	// Ready and Close may be nil.
	Ready func(context.Context) error
	Close func(context.Context) error
	// Keep is for how long it keeps a message; 0 is for ever.
	Keep time.Duration
	// Place says in words what it is.
	Place string
}

// Of makes a carrier of a broker, which it owns.
func Of(b broker.Broker, place string) *Carrier {
	return &Carrier{
		Reader: b, Publisher: b, Ready: b.Ready, Close: func(context.Context) error { return b.Close() },
		Keep: natsbroker.DefaultMaxAge, Place: place,
	}
}

// Log reads the log of the database.
func Log(db *process.Database) *Carrier {
	b := logbroker.New(db, db.PollEvery)
	return &Carrier{Reader: b, Ready: b.Ready, Place: "none: workers read the database's log"}
}

// Open opens the configured broker that is a server's, or the database's log. Whether a broker is a copy of this
// database's log the relay finds out. Errors are for operators, with the exit code that they stand for.
func Open(ctx context.Context, cfg app.Config, db *process.Database, log *slog.Logger) (*Carrier, error) {
	if cfg.Broker == Database {
		return Log(db), nil
	}
	b, err := natsbroker.Open(ctx, server(cfg, db, log))
	if err != nil {
		return nil, Explain(err, cfg.Broker)
	}
	c := Of(b, app.Redact(cfg.Broker))
	c.Keep = b.Keep()
	c.Owners = b
	return c, nil
}

// server is the configured NATS server or cluster, for the database.
func server(cfg app.Config, db *process.Database, log *slog.Logger) natsbroker.Config {
	c := natsbroker.Config{
		URL: cfg.Broker, Sync: natsbroker.SyncLazy, Replicas: cfg.NATSReplicas, Origin: db.Origin(), Lanes: db.Lanes(), Logger: log,
		Access: Access(cfg),
	}
	if cfg.Takes("outbox_retention") {
		c.Outbox = cfg.OutboxRetention
	}
	return c
}

// Access is how a process shows a NATS server who it is, and trusts it, beside what the URL says.
func Access(cfg app.Config) natsbroker.Access {
	return natsbroker.Access{
		Creds: cfg.NATSCreds, NKey: cfg.NATSNKey, CA: cfg.NATSTLSCA, Cert: cfg.NATSTLSCert, Key: cfg.NATSTLSKey,
	}
}

// Host opens the configured carrier for the life of a process, as a dependency of its readiness.
func Host(ctx context.Context, h *process.Host, db *process.Database) (*Carrier, error) {
	c, err := Open(ctx, h.Config, db, h.Log)
	if err != nil {
		return nil, err
	}
	if c.Close != nil {
		h.Group.Opened("broker", c.Close)
	}
	if c.Ready != nil {
		h.Health.Check("broker", c.Ready)
	}
	return c, nil
}
