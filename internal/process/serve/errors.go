package serve

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/migrations"
)

// Primary result codes of SQLite that an operator can do something about.
const (
	sqliteReadOnly  = 8
	sqliteIOErr     = 10
	sqliteCorrupt   = 11
	sqliteFull      = 13
	sqliteCantOpen  = 14
	sqliteNotADB    = 26
	sqliteCodeShown = 0xff // the primary code is the lowest byte
)

// explainSQLite tells an operator what to do about an error of opening the SQLite file at path.
func explainSQLite(err error, path string) error {
	var code interface{ Code() int }
	if err == nil || !errors.As(err, &code) {
		return err
	}
	switch code.Code() & sqliteCodeShown {
	case sqliteNotADB, sqliteCorrupt:
		return app.Errorf(app.ExitConflict, "The file is damaged, or belongs to another program. Keep a copy, then put a backup in its place; or give another directory with --data.",
			"the database file %s cannot be read: %w", path, err)
	case sqliteFull:
		return app.Errorf(app.ExitError, "Make space on the disk; what was accepted is kept, and goes on after the next start.",
			"the disk of %s is full: %w", path, err)
	case sqliteReadOnly, sqliteCantOpen, sqliteIOErr:
		return app.Errorf(app.ExitError, "Check that the file and its directory can be read and written, or give another directory with --data.",
			"opening %s: %w", path, err)
	default:
		return err
	}
}

// explainFailure tells an operator what to do about a disk that has failed in a commit.
func explainFailure(err error, path string) error {
	if err == nil {
		return nil
	}
	return app.Errorf(app.ExitError, "Check the disk, then start again: that finds out. Clients that send the same again with the same key get one order.",
		"nobody knows whether the last transaction is written to %s: %w", path, err)
}

// refuseNewer refuses a SQLite schema that a newer program has made: nobody knows what this one would break in it.
func refuseNewer(ctx context.Context, db *sql.DB, path string) error {
	var tracked bool
	var have int64
	err := db.QueryRowContext(ctx, `/* serve.tracked */ select exists (select 1 from sqlite_master where name = 'goose_db_version')`).Scan(&tracked)
	if err == nil && tracked {
		err = db.QueryRowContext(ctx, `/* serve.version */ select coalesce(max(version_id), 0) from goose_db_version where is_applied`).Scan(&have)
	}
	switch want := migrations.Latest(mainstay.SQLite); {
	case err != nil:
		return fmt.Errorf("reading the version of the schema of %s: %w", path, err)
	case have > want:
		return app.Errorf(app.ExitConflict, "Use a program at least as new as the one that wrote it; nothing was changed.",
			"the schema of %s has version %d, newer than the %d that this program knows", path, have, want)
	default:
		return nil
	}
}
