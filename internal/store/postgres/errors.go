package postgres

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/mainstay-io/mainstay/internal/lane"
	"github.com/mainstay-io/mainstay/internal/lease"
)

// Codes of PostgreSQL that decide what happens next.
const (
	codeFence               = "MF001" // the schema's own: a compare-and-set found something else
	codeSerialization       = "40001"
	codeDeadlock            = "40P01"
	codeLockNotAvailable    = "55P03"
	codeIdleInTransaction   = "25P03"
	codeReadOnlyTransaction = "25006" // a primary that was demoted
	codeNoDatabase          = "3D000"
	codeUndefinedTable      = "42P01"
	codeUndefinedFunction   = "42883"
	classConnection         = "08"
	classResources          = "53" // connections, disk, memory
	classAccess             = "28" // an unknown user, a wrong password, a host that is not let in
	classOperator           = "57" // cancelled, shut down, starting up
	classSystem             = "58" // input and output
)

// errAmbiguous marks that the connection was lost while the transaction was being committed.
var errAmbiguous = errors.New("the outcome of the commit is not known")

// pgError gives the server's own error, nil for any other.
func pgError(err error) *pgconn.PgError {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg
	}
	return nil
}

// BadURL gives the part of err that says why a database URL cannot be read, nil when that is not what is wrong.
func BadURL(err error) error {
	var wrong *pgconn.ParseConfigError
	if errors.As(err, &wrong) {
		return wrong
	}
	return nil
}

// Unreachable gives the part of err that says why there is no connection to the server, nil when that is not what is
// wrong.
func Unreachable(err error) error {
	var down *pgconn.ConnectError
	if errors.As(err, &down) {
		return down
	}
	return nil
}

// NoDatabase tells that the server answers and has no database of that name.
func NoDatabase(err error) bool {
	pg := pgError(err)
	return pg != nil && pg.Code == codeNoDatabase
}

// NoAccess tells that the server answers and lets this user not in.
func NoAccess(err error) bool {
	pg := pgError(err)
	return pg != nil && pg.Code[:2] == classAccess
}

// transient tells that the database could not take the transaction now, and that nobody's work is to blame.
func transient(err error) bool {
	if pg := pgError(err); pg != nil {
		switch pg.Code {
		case codeSerialization, codeDeadlock, codeLockNotAvailable, codeIdleInTransaction,
			codeReadOnlyTransaction:
			return true
		}
		switch pg.Code[:2] {
		case classConnection, classResources, classOperator, classSystem:
			return true
		}
		return false
	}
	return lost(err)
}

// lost tells that the connection is gone, or was never there.
func lost(err error) bool {
	var dial *pgconn.ConnectError
	var network net.Error
	return errors.As(err, &dial) || errors.As(err, &network) || pgconn.SafeToRetry(err) ||
		slices.ContainsFunc([]error{errAmbiguous, io.EOF, io.ErrUnexpectedEOF, net.ErrClosed, driver.ErrBadConn},
			func(target error) bool { return errors.Is(err, target) })
}

// definite tells that the server itself said no: then a batch that ends in a commit has committed nothing.
func definite(err error) bool {
	pg := pgError(err)
	return pg != nil && pg.SeverityUnlocalized == "ERROR"
}

// translate marks an error of the store's own statements: lease.ErrFenced, lane.ErrTransient, or as it was.
func translate(ctx context.Context, err error) error {
	switch pg := pgError(err); {
	case err == nil:
		return nil
	case errors.Is(err, lease.ErrFenced), errors.Is(err, lane.ErrTransient):
		return err // it is marked
	case pg != nil && pg.Code == codeFence:
		return fmt.Errorf("%w: %w", lease.ErrFenced, err)
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		return err
	case transient(err):
		return fmt.Errorf("%w: %w", lane.ErrTransient, err)
	default:
		return err
	}
}

// translateWork marks an error of the work inside a transaction: transient if the server has said so, or if the
// connection is gone. A timeout or a lost connection of the work's own, to whatever it talks to, stays what it is.
func translateWork(err error, broken bool) error {
	if errors.Is(err, lane.ErrTransient) || errors.Is(err, lease.ErrFenced) {
		return err
	}
	if broken || (pgError(err) != nil && transient(err)) {
		return fmt.Errorf("%w: %w", lane.ErrTransient, err)
	}
	return err
}
