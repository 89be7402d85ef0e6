// Package carrier opens what carries messages between processes: a broker, or the log of the database itself.
package carrier

import (
	"context"
	"log/slog"

	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/broker"
	"github.com/mainstay-io/mainstay/internal/broker/logbroker"
	"github.com/mainstay-io/mainstay/internal/broker/natsbroker"
	"github.com/mainstay-io/mainstay/internal/process"
)

// Database is the value of the setting broker for none at all.
const Database = "database"

// Keep is for how long a broker keeps messages.
const Keep = natsbroker.DefaultMaxAge

// Carrier is what carries messages. Whoever opened it closes it.
type Carrier struct {
	Reader broker.Reader
	// Publisher is nil when the log is read directly and nothing is published.
	Publisher broker.Publisher
	// Ready and Close may be nil.
	Ready func(context.Context) error
	Close func(context.Context) error
	// Place says in words what it is.
	Place string
}

// Of makes a carrier of a broker, which it owns.
func Of(b broker.Broker, place string) *Carrier {
	return &Carrier{Reader: b, Publisher: b, Ready: b.Ready, Close: func(context.Context) error { return b.Close() }, Place: place}
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
	b, err := natsbroker.Open(ctx, natsbroker.Config{URL: cfg.Broker, Sync: natsbroker.SyncLazy, Origin: db.Origin(), Logger: log})
	if err != nil {
		return nil, app.Errorf(app.ExitUnreachable, "Check that the server runs and that --broker names it.",
			"connecting to the broker %s: %w", app.Redact(cfg.Broker), err)
	}
	return Of(b, app.Redact(cfg.Broker)), nil
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
