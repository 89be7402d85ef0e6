package verify

import (
	"context"
	"fmt"

	"github.com/mainstay-io/mainstay/migrations"
)

// SchemaError means that the database's schema is another one than the checks were written for: what they would find
// or not find in it says nothing.
type SchemaError struct {
	// Have is the schema's version, Want the one that this program knows.
	Have, Want int64
}

// Newer says that a newer program has made the schema.
func (e *SchemaError) Newer() bool { return e.Have > e.Want }

// Error says which is the newer one.
func (e *SchemaError) Error() string {
	if e.Newer() {
		return fmt.Sprintf("the database's schema has version %d, newer than the %d that this program knows", e.Have, e.Want)
	}
	return fmt.Sprintf("the database's schema has version %d, this program checks version %d", e.Have, e.Want)
}

const schemaVersion = `/* verify.version */ select coalesce(max(version_id), 0) from goose_db_version where is_applied`

// checkSchema answers with ErrNoSchema or a *SchemaError where there is nothing to check.
func (s *session) checkSchema(ctx context.Context) error {
	table := "goose_db_version"
	if s.sqlite() {
		table = "main." + table
	}
	tracked, err := s.exists(ctx, table)
	switch {
	case err != nil:
		return err
	case !tracked:
		return ErrNoSchema
	}
	var have int64
	if err := s.conn.QueryRowContext(ctx, schemaVersion).Scan(&have); err != nil {
		return fmt.Errorf("reading the schema's version: %w", err)
	}
	if have == 0 {
		return ErrNoSchema
	}
	return s.fits(ctx, have)
}

const oldestProgram = `/* verify.oldest */ select oldest from compatibility`

// fits says whether the checks know a schema of this version. A server's may be ahead of what this program needs, or
// behind what it knows, while programs are being replaced.
func (s *session) fits(ctx context.Context, have int64) error {
	latest := migrations.Latest(s.o.Dialect)
	switch {
	case have == latest:
		return nil
	case s.sqlite():
		return &SchemaError{Have: have, Want: latest}
	case have < migrations.Needed(s.o.Dialect):
		return &SchemaError{Have: have, Want: migrations.Needed(s.o.Dialect)}
	}
	var oldest int64
	if err := s.conn.QueryRowContext(ctx, oldestProgram).Scan(&oldest); err != nil {
		return fmt.Errorf("reading which programs the schema is for: %w", err)
	}
	if oldest > latest {
		return &SchemaError{Have: have, Want: latest}
	}
	return nil
}
