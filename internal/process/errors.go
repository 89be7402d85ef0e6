package process

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/store/postgres"
)

// ExplainPostgres tells an operator what to do about an error of opening the configured PostgreSQL database.
func ExplainPostgres(err error, cfg app.Config) error {
	url, named := cfg.Database, cmp.Or(cfg.Origin("database").Name, "--database")
	var (
		schema *postgres.SchemaError
		unsafe *postgres.UnsafeError
	)
	switch {
	case errors.As(err, &schema) && schema.Newer():
		return app.Errorf(app.ExitConflict, "Use a program at least as new as the one that migrated it; nothing was changed.",
			"the database %s: %w", app.Redact(url), err)
	case errors.As(err, &schema):
		return app.Errorf(app.ExitConflict, "A server's schema is only changed when asked for: `mainstay migrate up"+sameDatabase(cfg)+" does it, and `mainstay migrate status` lists what is missing.",
			"the database %s: %w", app.Redact(url), err)
	case errors.As(err, &unsafe):
		return app.Errorf(app.ExitConflict, "Turn "+unsafe.Setting+" on, for the server, the database and the role; --allow-unsafe-durability runs without it.",
			"the database %s: %w", app.Redact(url), err)
	case postgres.BadURL(err) != nil:
		return app.Errorf(app.ExitUsage, "A database URL is postgres://USER:PASSWORD@HOST/NAME.",
			"reading the database URL %s: %w", app.Redact(url), oneLine(postgres.BadURL(err)))
	case postgres.NoDatabase(err):
		return app.Errorf(app.ExitNotFound, "Create it with `createdb`, then `mainstay migrate up"+sameDatabase(cfg)+" makes its schema.",
			"connecting to the database %s: %w", app.Redact(url), oneLine(cmp.Or(postgres.Unreachable(err), err)))
	case postgres.NoAccess(err):
		return app.Errorf(app.ExitUnreachable, "Check the user and the password in "+named+", and the server's pg_hba.conf.",
			"connecting to the database %s: %w", app.Redact(url), oneLine(cmp.Or(postgres.Unreachable(err), err)))
	case postgres.Unreachable(err) != nil:
		return app.Errorf(app.ExitUnreachable, "Check that the server runs and that "+named+" names it.",
			"connecting to the database %s: %w", app.Redact(url), oneLine(postgres.Unreachable(err)))
	default:
		return fmt.Errorf("opening the database %s: %w", app.Redact(url), err)
	}
}

// sameDatabase ends a command, and the quotation of it, so that it means the database that cfg means, named in the
// same way.
func sameDatabase(cfg app.Config) string {
	switch o := cfg.Origin("database"); o.Kind {
	case "environment":
		return "` with the same " + o.Name
	case "file":
		return " --config " + o.Name + "`"
	default:
		return " --database '" + app.Redact(cfg.Database) + "'`"
	}
}

// oneLine is err with its lines joined: a driver puts every address that it tried on a line of its own.
func oneLine(err error) error {
	var parts []string
	for line := range strings.Lines(err.Error()) {
		if line = strings.TrimSpace(line); !slices.Contains(parts, line) {
			parts = append(parts, line)
		}
	}
	return &joined{text: strings.Join(parts, " "), err: err}
}

type joined struct {
	text string
	err  error
}

func (j *joined) Error() string { return j.text }
func (j *joined) Unwrap() error { return j.err }
