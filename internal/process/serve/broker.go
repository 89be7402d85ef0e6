package serve

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/broker/membroker"
	"github.com/mainstay-io/mainstay/internal/broker/natsbroker"
	"github.com/mainstay-io/mainstay/internal/broker/natsembed"
	"github.com/mainstay-io/mainstay/internal/clock"
	"github.com/mainstay-io/mainstay/internal/process"
	"github.com/mainstay-io/mainstay/internal/process/carrier"
)

// openBroker opens the configured broker.
func openBroker(ctx context.Context, cfg app.Config, db *process.Database, log *slog.Logger) (*carrier.Carrier, error) {
	switch cfg.Broker {
	case "":
		return openOwn(ctx, cfg, db, log)
	case "memory":
		return carrier.Of(membroker.New(membroker.Options{}), "memory (lost at every stop, and filled again from the outbox)"), nil
	default:
		return carrier.Open(ctx, cfg, db, log)
	}
}

// openOwn opens the embedded server. A store that is not of the database is set aside.
func openOwn(ctx context.Context, cfg app.Config, db *process.Database, log *slog.Logger) (*carrier.Carrier, error) {
	c, err := openEmbedded(ctx, cfg, db, log)
	if err != nil {
		return nil, err
	}
	strange, err := carrier.Stranger(ctx, c.Publisher, db)
	if err == nil && strange == "" {
		return c, nil
	}
	if err := errors.Join(err, c.Close(ctx)); err != nil {
		return nil, err
	}
	aside, err := setAside(filepath.Join(cfg.Data, brokerDir))
	if err != nil {
		return nil, err
	}
	log.WarnContext(ctx, "the broker's store was not of this database, as after a restore: it was set aside, and is filled again from the outbox",
		"found", strange, "kept", aside)
	return openEmbedded(ctx, cfg, db, log)
}

func openEmbedded(ctx context.Context, cfg app.Config, db *process.Database, log *slog.Logger) (*carrier.Carrier, error) {
	lazy := cfg.NATSSync == "lazy"
	srv, err := natsembed.Start(ctx, natsembed.Config{Dir: filepath.Join(cfg.Data, brokerDir), Lazy: lazy, Logger: log})
	if err != nil {
		return nil, err
	}
	sync, words := natsbroker.SyncAlways, "synced before it acknowledges"
	if lazy {
		sync, words = natsbroker.SyncLazy, "synced lazily: a power cut may lose its tail, which is filled again from the outbox"
	}
	b, err := natsbroker.Open(ctx, natsbroker.Config{InProcess: srv, Sync: sync, Origin: db.Origin(), Logger: log})
	if err != nil {
		return nil, errors.Join(err, srv.Shutdown(ctx))
	}
	c := carrier.Of(b, "embedded NATS JetStream, "+words)
	c.Close = func(ctx context.Context) error { return errors.Join(b.Close(), srv.Shutdown(ctx)) }
	return c, nil
}

// setAside renames a directory, and answers with its new name.
func setAside(dir string) (string, error) {
	aside := dir + "-aside-" + clock.System().Format("20060102T150405.000000")
	if err := os.Rename(dir, aside); err != nil {
		return "", fmt.Errorf("setting the broker's store aside: %w", err)
	}
	return aside, nil
}
