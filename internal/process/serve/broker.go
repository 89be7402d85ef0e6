package serve

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"

	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/broker"
	"github.com/mainstay-io/mainstay/internal/broker/logbroker"
	"github.com/mainstay-io/mainstay/internal/broker/membroker"
	"github.com/mainstay-io/mainstay/internal/broker/natsbroker"
	"github.com/mainstay-io/mainstay/internal/broker/natsembed"
)

// carrier is what carries messages: a broker, or the log itself.
type carrier struct {
	reader broker.Reader
	// publisher is nil when the log is read directly and nothing is published.
	publisher broker.Publisher
	ready     func(context.Context) error
	close     func(context.Context) error
	// place says in words what it is.
	place string
}

// openBroker opens the configured broker, and makes sure that it is a copy of this database's log and of no other.
func openBroker(ctx context.Context, cfg app.Config, db *database, log *slog.Logger) (*carrier, error) {
	c, err := connectBroker(ctx, cfg, db, log)
	if err != nil || c.publisher == nil {
		return c, err
	}
	strange, err := stranger(ctx, c.publisher, db)
	if err == nil && strange == "" {
		return c, nil
	}
	if err := errors.Join(err, c.close(ctx)); err != nil {
		return nil, err
	}
	if cfg.Broker != "" {
		return nil, app.Errorf(app.ExitConflict,
			"If the database was restored, delete the stream: it is filled again from the outbox. If the stream is another database's, name another broker.",
			"the broker %s has messages that this database never wrote: %s", app.Redact(cfg.Broker), strange)
	}
	aside, err := setAside(filepath.Join(cfg.Data, brokerDir))
	if err != nil {
		return nil, err
	}
	log.WarnContext(ctx, "the broker's store was not of this database, as after a restore: it was set aside, and is filled again from the outbox",
		"found", strange, "kept", aside)
	return openEmbedded(ctx, cfg, log)
}

func connectBroker(ctx context.Context, cfg app.Config, db *database, log *slog.Logger) (*carrier, error) {
	switch cfg.Broker {
	case "":
		return openEmbedded(ctx, cfg, log)
	case "memory":
		b := membroker.New(membroker.Options{})
		return &carrier{b, b, b.Ready, closing(b), "memory (lost at every stop, and filled again from the outbox)"}, nil
	case "database":
		b := logbroker.New(db, 0)
		return &carrier{reader: b, ready: b.Ready, place: "none: workers read the database's log"}, nil
	default:
		b, err := natsbroker.Open(ctx, natsbroker.Config{URL: cfg.Broker, Sync: natsbroker.SyncLazy, Logger: log})
		if err != nil {
			return nil, app.Errorf(app.ExitUnreachable, "Check that the server runs and that --broker names it.",
				"connecting to the broker %s: %w", app.Redact(cfg.Broker), err)
		}
		return &carrier{b, b, b.Ready, closing(b), app.Redact(cfg.Broker)}, nil
	}
}

func openEmbedded(ctx context.Context, cfg app.Config, log *slog.Logger) (*carrier, error) {
	lazy := cfg.NATSSync == "lazy"
	srv, err := natsembed.Start(ctx, natsembed.Config{Dir: filepath.Join(cfg.Data, brokerDir), Lazy: lazy, Logger: log})
	if err != nil {
		return nil, err
	}
	sync, words := natsbroker.SyncAlways, "synced before it acknowledges"
	if lazy {
		sync, words = natsbroker.SyncLazy, "synced lazily: a power cut may lose its tail, which is filled again from the outbox"
	}
	b, err := natsbroker.Open(ctx, natsbroker.Config{InProcess: srv, Sync: sync, Logger: log})
	if err != nil {
		return nil, errors.Join(err, srv.Shutdown(ctx))
	}
	closeBoth := func(ctx context.Context) error { return errors.Join(b.Close(), srv.Shutdown(ctx)) }
	return &carrier{b, b, b.Ready, closeBoth, "embedded NATS JetStream, " + words}, nil
}

func closing(c interface{ Close() error }) func(context.Context) error {
	return func(context.Context) error { return c.Close() }
}
