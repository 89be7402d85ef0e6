package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/client"
	"github.com/mainstay-io/mainstay/internal/clock"
	"github.com/mainstay-io/mainstay/internal/process"
	invariants "github.com/mainstay-io/mainstay/internal/verify"
)

// runVerify opens the configured database for reading, makes all checks and prints what was found.
func runVerify(ctx context.Context, env app.Env, cfg app.Config, o verifyOptions) (err error) {
	options, err := openChecked(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, options.DB.Close()) }()
	for _, url := range o.Others {
		if options.Dialect != mainstay.Postgres {
			return app.Errorf(app.ExitUsage, "Several databases are checked together on PostgreSQL only.", "--database is given several times")
		}
		further := cfg
		further.Database = url
		other, err := openChecked(ctx, further)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, other.DB.Close()) }()
		options.Others = append(options.Others, other.DB)
	}
	if o.Journal != "" {
		f, err := os.Open(o.Journal)
		if err != nil {
			return app.Errorf(app.ExitNotFound, "--journal names a file of JSON lines with key, status and order_id.", "opening the journal: %w", err)
		}
		defer func() { _ = f.Close() }()
		options.Journal, options.JournalComplete = f, o.JournalComplete
	}
	report, err := invariants.Run(ctx, options)
	var schema *invariants.SchemaError
	switch {
	case errors.As(err, &schema) && schema.Newer():
		return app.Errorf(app.ExitConflict, "Use a program at least as new as the one that made it; nothing was changed.", "%w", err)
	case errors.As(err, &schema):
		return app.Errorf(app.ExitConflict, "`mainstay migrate up "+placeOf(cfg)+"` brings it up to date.", "%w", err)
	case errors.Is(err, invariants.ErrNoSchema):
		return app.Errorf(app.ExitConflict, "`mainstay migrate up` makes it, and `mainstay serve` does for a directory.", "%w", err)
	case errors.Is(err, invariants.ErrJournal):
		return app.Errorf(app.ExitUsage, "The journal has one JSON object a line, with key, status and order_id.", "%w", err)
	case err != nil:
		return err
	}
	return printReport(env.Stdout, format(o.Output), report)
}

// placeOf is the flag that names the configured database, as somebody would type it.
func placeOf(cfg app.Config) string {
	if cfg.Database != "" {
		return "--database " + app.Redact(cfg.Database)
	}
	return "--data " + cfg.Data
}

// openChecked finds the database. Nothing is made that is not there.
func openChecked(ctx context.Context, cfg app.Config) (invariants.Options, error) {
	o := invariants.Options{Retention: cfg.IdempotencyRetention, Clock: clock.System}
	file, embedded := cfg.SQLite()
	path := file.Path
	if !embedded {
		db, err := sql.Open("pgx", cfg.Database)
		if err != nil {
			return o, app.Errorf(app.ExitUsage, "--database wants postgres://USER:PASSWORD@HOST/NAME.", "reading the database URL: %w", err)
		}
		o.DB, o.Dialect = db, mainstay.Postgres
		if err := db.PingContext(ctx); err != nil {
			return o, errors.Join(process.ExplainPostgres(err, cfg), db.Close())
		}
		return o, nil
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return o, app.Errorf(app.ExitNotFound, "--data names the directory that `mainstay serve` was given, ./mainstay-data by default.",
			"there is no database %s", path)
	} else if err != nil {
		return o, unreadable(path, err)
	}
	o.Dialect, o.GatewayFile = mainstay.SQLite, filepath.Join(filepath.Dir(path), "gateway.db")
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: path}).EscapedPath()+"?mode=ro&_pragma=busy_timeout(5000)")
	if err != nil {
		return o, err
	}
	o.DB = db
	if err := db.PingContext(ctx); err != nil {
		return o, errors.Join(unreadable(path, reasonOf(path, err)), db.Close())
	}
	return o, nil
}

// reasonOf is why a file cannot be opened in the operating system's words, or else in SQLite's.
func reasonOf(path string, err error) error {
	f, refused := os.Open(path)
	if refused != nil {
		return refused
	}
	return errors.Join(err, f.Close())
}

func unreadable(path string, err error) error {
	hint := "--data names the directory that `mainstay serve` was given."
	if errors.Is(err, fs.ErrPermission) {
		hint = "Run it as the user that runs serve."
	}
	return app.Errorf(app.ExitError, hint, "opening the database %s: %w", path, err)
}

// printReport prints a line for each check, the violations below it, and what it comes to. Violations are an error.
func printReport(w io.Writer, form format, r invariants.Report) error {
	found := r.Found()
	if form == "json" {
		if err := form.print(w, r, nil, nil); err != nil {
			return err
		}
	} else if _, err := io.WriteString(w, reportText(r)); err != nil {
		return err
	}
	if found == 0 {
		return nil
	}
	return app.Errorf(app.ExitPartial, hintOf(r), "%d %s", found, plural(found, "violation", "violations"))
}

// hintOf says where to look first: half of a system looks as if the other half were lost.
func hintOf(r invariants.Report) string {
	hint := "Keep the database as it is; the ids above say where to look."
	if r.Elsewhere {
		hint += " Consumers here read what another database writes: give that with --database, too, the orders' first."
	}
	return hint
}

func reportText(r invariants.Report) string {
	var b strings.Builder
	for _, c := range r.Checks {
		mark := "ok"
		switch {
		case c.Found > 0:
			mark = "BROKEN"
		case c.Skipped != "":
			mark = "skipped"
		}
		fmt.Fprintf(&b, "%-8s %s: %s\n", mark, c.Name, c.Summary)
		for _, v := range c.Violations {
			fmt.Fprintf(&b, "         %s: %s (%s)\n", v.ID, v.Detail, v.Rule)
		}
		if more := c.Found - int64(len(c.Violations)); more > 0 {
			fmt.Fprintf(&b, "         and %d more\n", more)
		}
	}
	needsYou(&b, r)
	n := r.Counts
	fmt.Fprintf(&b, "\n%d accepted: %d confirmed, %d cancelled, %d %s an operator, %d pending; %d open %s", n.Accepted, n.Confirmed,
		n.Cancelled, n.NeedsOperator, plural(n.NeedsOperator, "needs", "need"), n.Pending, n.OpenDeadLetters, plural(n.OpenDeadLetters, "dead letter", "dead letters"))
	for _, a := range n.Owed {
		b.WriteString("; owed: void " + client.Money(a.Amount, a.Currency))
	}
	if found := r.Found(); found > 0 {
		fmt.Fprintf(&b, "; %d %s\n", found, plural(found, "violation", "violations"))
	} else {
		b.WriteString("; nothing lost, nothing twice\n")
	}
	return b.String()
}

// needsYou names the orders that need an operator, a line each, with what is owed and which steps are stuck.
func needsYou(b *strings.Builder, r invariants.Report) {
	for _, o := range r.Open {
		var says []string
		if o.Owed > 0 {
			says = append(says, "void is owed ("+client.Money(o.Owed, o.Currency)+")")
		}
		for _, s := range o.Steps {
			says = append(says, fmt.Sprintf("%s of step %s failed: %s, %q", doing(s.Op), s.Step, s.Code, s.Detail))
		}
		if o.DeadLetterSince != nil {
			says = append(says, "dead letter since "+o.DeadLetterSince.Format(time.RFC3339))
		}
		fmt.Fprintf(b, "needs you: %s  %s\n", o.OrderID, strings.Join(says, "; "))
	}
	if more := r.Counts.NeedsOperator - int64(len(r.Open)); more > 0 {
		fmt.Fprintf(b, "needs you: and %d more\n", more)
	}
}

func doing(op string) string {
	if op == "undo" {
		return "compensation"
	}
	return "action"
}

func plural(n int64, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}
