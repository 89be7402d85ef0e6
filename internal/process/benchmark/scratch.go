package benchmark

import (
	"cmp"
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/bench"
	"github.com/mainstay-io/mainstay/internal/migrate"
	"github.com/mainstay-io/mainstay/internal/store/postgres"
)

// dropPatience bounds the removal of a scratch database.
const dropPatience = 30 * time.Second

func isPostgres(database string) bool { return strings.HasPrefix(database, "postgres") }

// scratch is a database of a measurement's own on a server.
type scratch struct {
	server, name string
	url          string
}

// newScratch makes a database next to the one that server names, with this program's schema; lanes 0 is the default.
func newScratch(ctx context.Context, server string, lanes int) (*scratch, error) {
	u, err := url.Parse(server)
	if err != nil || u.Host == "" {
		return nil, app.Errorf(app.ExitUsage, "A database URL is postgres://USER:PASSWORD@HOST/NAME.", "%s is not one", app.Redact(server))
	}
	s := &scratch{server: server, name: "mainstay_bench_" + strings.ToLower(rand.Text()[:12])}
	u.Path = "/" + s.name
	s.url = u.String()
	if err := execute(ctx, server, "create database "+s.name+" template template0"); err != nil {
		hint := "The role needs CREATEDB: the measurement runs in a database of its own, and drops it."
		if postgres.Unreachable(err) != nil {
			hint = "Check that the server runs, and that --database names a database which it has: the measurement makes its own beside it."
		}
		return nil, app.Errorf(app.ExitUnreachable, hint, "making a database on %s: %w", app.Redact(server), err)
	}
	if err := s.migrate(ctx, lanes); err != nil {
		return nil, errors.Join(err, s.drop())
	}
	return s, nil
}

func (s *scratch) migrate(ctx context.Context, lanes int) (err error) {
	db, err := sql.Open("pgx", s.url)
	if err != nil {
		return fmt.Errorf("opening %s: %w", app.Redact(s.url), err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if _, err := migrate.Up(ctx, db, mainstay.Postgres, cmp.Or(lanes, migrate.DefaultLanes)); err != nil {
		return fmt.Errorf("making the schema: %w", err)
	}
	return nil
}

// drop removes the database with its connections.
func (s *scratch) drop() error {
	ctx, cancel := context.WithTimeout(context.Background(), dropPatience)
	defer cancel()
	if err := execute(ctx, s.server, "drop database if exists "+s.name+" with (force)"); err != nil {
		return fmt.Errorf("dropping the database %s, which is to be dropped by hand now: %w", s.name, err)
	}
	return nil
}

// execute runs one statement on a connection of its own.
func execute(ctx context.Context, server, statement string) (err error) {
	db, err := sql.Open("pgx", server)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	_, err = db.ExecContext(ctx, statement)
	return err
}

// postgresSource reads what a server on this machine uses: all its backends together. There is none where the URL is
// not of PostgreSQL or nobody answers; done ends the connection that leads to it.
func postgresSource(ctx context.Context, url string) (_ []bench.Source, done func()) {
	if !isPostgres(url) {
		return nil, func() {}
	}
	db, err := sql.Open("pgx", url)
	if err != nil {
		return nil, func() {}
	}
	db.SetMaxOpenConns(1) // the backend stays
	var pid int
	if err := db.QueryRowContext(ctx, `/* bench.backend */ select pg_backend_pid()`).Scan(&pid); err != nil {
		return nil, func() { _ = db.Close() }
	}
	return []bench.Source{bench.Family("PostgreSQL", "postgres", pid)}, func() { _ = db.Close() }
}
