package ingest

import (
	"context"
	"errors"
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/problem"
)

// Problem is what an HTTP client is told of an error of ParseKey, Fingerprint or Accept. An error that is the
// server's own fault says nothing about its cause: log it.
func Problem(err error) *problem.Problem {
	var told *problem.Problem
	var rejected *mainstay.Rejection
	switch {
	case errors.As(err, &told):
		return told
	case errors.Is(err, ErrKeyMissing):
		return problem.New(problem.KeyMissing, "send an Idempotency-Key of 1 to 255 visible ASCII characters, fresh for every intention")
	case errors.Is(err, ErrKeyInvalid):
		return problem.New(problem.KeyInvalid, "an Idempotency-Key is 1 to 255 visible ASCII characters, bare or in quotes, sent once")
	case errors.Is(err, ErrKeyReused):
		return problem.New(problem.KeyReused, "nothing was changed; use a fresh key for another request")
	case errors.Is(err, ErrInFlight):
		return problem.New(problem.KeyInFlight, "ask again with the same key and body").After(time.Second)
	case errors.Is(err, ErrOverloaded):
		return problem.New(problem.Overloaded, "ask again with the same key and body").After(time.Second)
	case errors.Is(err, ErrClosed):
		return problem.New(problem.ShuttingDown, "ask again with the same key and body").After(time.Second)
	case errors.Is(err, ErrUnavailable), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return problem.New(problem.Unavailable, "the outcome is not known; ask again with the same key and body").After(time.Second)
	case errors.As(err, &rejected):
		return problem.New(problem.BadRequest, rejected.Error())
	default:
		return problem.New(problem.Internal, "nothing was accepted")
	}
}
