package mainstay

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Kind says what happens next after an error.
type Kind int

// Kinds of error.
const (
	// KindRetryable, the default: the same message again, later; its budget spent, a dead letter.
	KindRetryable Kind = iota
	// KindTerminal: no repetition can help (a bug, a bad schema); a dead letter at once.
	KindTerminal
	// KindBusiness: a business answer, as "card declined"; the saga compensates.
	KindBusiness
	// KindInterrupted: the process is stopping; not a failure, no attempt is counted.
	KindInterrupted
	// KindCrash: processes ended while they handled the message, and nobody was left to say why; a dead letter. No
	// error has this kind.
	KindCrash
)

// String names the kind as logs, metrics and rows have it.
func (k Kind) String() string {
	switch k {
	case KindTerminal:
		return "terminal"
	case KindBusiness:
		return "business"
	case KindInterrupted:
		return "interrupted"
	case KindCrash:
		return "crash"
	default:
		return "retryable"
	}
}

// ErrShutdown is the cause with which contexts of handlers are cancelled when the process stops.
var ErrShutdown = errors.New("shutting down")

// Terminal marks err as one that no repetition can mend. A nil err stays nil.
func Terminal(err error) error {
	if err == nil {
		return nil
	}
	return &kindError{kind: KindTerminal, err: err}
}

// RetryAfter marks err as retryable, not before d has passed. A nil err stays nil.
func RetryAfter(err error, d time.Duration) error {
	if err == nil {
		return nil
	}
	return &kindError{kind: KindRetryable, err: err, after: d}
}

// Reject is a participant's business answer: the effect did not happen and will not. The code is stable and fit
// for machines ("card_declined"), the detail is for people and must hold no personal data.
func Reject(code, detail string) error { return &Rejection{Code: code, Detail: detail} }

// Rejection is the error that Reject makes.
type Rejection struct{ Code, Detail string }

// Error gives code and detail.
func (r *Rejection) Error() string {
	if r.Detail == "" {
		return r.Code
	}
	return r.Code + ": " + r.Detail
}

// PanicError is a recovered panic of a handler; it is retryable.
type PanicError struct {
	Value any
	Stack []byte
}

// Error gives the value; the stack is for logs.
func (e *PanicError) Error() string { return fmt.Sprintf("handler panicked: %v", e.Value) }

type kindError struct {
	kind  Kind
	err   error
	after time.Duration
}

func (e *kindError) Error() string { return e.err.Error() }
func (e *kindError) Unwrap() error { return e.err }

// KindOf classifies err: the one place where it is decided. The outermost mark wins; a context that ended because
// of ErrShutdown makes any unmarked error an interruption, and so does ErrShutdown in the chain. A nil error has
// no kind; KindOf answers KindRetryable for it.
func KindOf(ctx context.Context, err error) Kind {
	var marked *kindError
	var rejected *Rejection
	switch {
	case err == nil:
		return KindRetryable
	case errors.Is(err, ErrShutdown):
		return KindInterrupted
	case errors.As(err, &marked):
		return marked.kind
	case errors.As(err, &rejected):
		return KindBusiness
	case ctx.Err() != nil && errors.Is(context.Cause(ctx), ErrShutdown):
		return KindInterrupted
	default:
		return KindRetryable
	}
}

// RetryDelay is the delay that RetryAfter put into the chain of err, or 0.
func RetryDelay(err error) time.Duration {
	var marked *kindError
	if errors.As(err, &marked) {
		return marked.after
	}
	return 0
}
