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
	switch want := migrations.Latest(s.o.Dialect); have {
	case want:
		return nil
	case 0:
		return ErrNoSchema
	default:
		return &SchemaError{Have: have, Want: want}
	}
}
