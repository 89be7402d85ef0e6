package serve

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/migrate"
)

// Where things are kept: the embedded broker's store is in the data directory, and so is the SQLite database, unless
// it was given a path of its own. The gateway's books are beside the database, whose payments they answer for.
const (
	gatewayFile = "gateway.db"
	brokerDir   = "nats"
)

func isSQLite(cfg app.Config) bool {
	_, ok := cfg.SQLite()
	return ok
}

// sqlitePath is the file of the configured SQLite database.
func sqlitePath(cfg app.Config) string {
	f, _ := cfg.SQLite()
	return f.Path
}

// locks are the directories that this process has for itself.
type locks []*os.File

// release gives them back; so does the end of the process.
func (ls locks) release() {
	for _, f := range ls {
		unlockDir(f)
	}
}

// lockPlaces takes every directory that must have one process at a time: that of an embedded broker's store, and that
// of a SQLite database, which need not be the same.
func lockPlaces(cfg app.Config) (ls locks, err error) {
	var dirs []string
	if isSQLite(cfg) {
		dirs = append(dirs, filepath.Dir(sqlitePath(cfg)))
	}
	if cfg.Broker == "" {
		dirs = append(dirs, cfg.Data)
	}
	for i, dir := range dirs {
		if i > 0 && sameDir(dirs[0], dir) {
			continue
		}
		f, err := lockDir(dir)
		if err != nil {
			ls.release()
			return nil, err
		}
		ls = append(ls, f)
	}
	return ls, nil
}

func sameDir(a, b string) bool {
	one, err := os.Stat(a)
	other, otherErr := os.Stat(b)
	return err == nil && otherErr == nil && os.SameFile(one, other)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// reserve makes a SQLite file that is not there, for its owner's eyes only: it holds personal data, its directory may
// be anybody's, and SQLite gives what it makes beside it the same mode. What goes wrong SQLite tells when it opens it.
func reserve(path string) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err == nil {
		_ = f.Close() // nothing was written
	}
}

// nothingApplied lists the migrations as a SQLite database has them that is yet to be made.
func nothingApplied(ctx context.Context) (_ []migrate.Status, err error) {
	db, err := sql.Open("sqlite", ":memory:")
	if err != nil {
		return nil, fmt.Errorf("opening an empty database: %w", err)
	}
	db.SetMaxOpenConns(1)
	defer func() { err = errors.Join(err, db.Close()) }()
	return migrate.List(ctx, db, mainstay.SQLite)
}
