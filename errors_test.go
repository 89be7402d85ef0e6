package mainstay_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/mainstay-io/mainstay"
)

func TestKindOf(t *testing.T) {
	t.Parallel()
	cause := errors.New("connection refused")
	stopped, stop := context.WithCancelCause(t.Context())
	stop(mainstay.ErrShutdown)
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	running := t.Context()
	for name, tc := range map[string]struct {
		ctx  context.Context //nolint:containedctx // a case of the table
		err  error
		want mainstay.Kind
	}{
		"any error is tried again":                {running, cause, mainstay.KindRetryable},
		"no error has no kind":                    {running, nil, mainstay.KindRetryable},
		"also while the process stops":            {stopped, nil, mainstay.KindRetryable},
		"a time limit is tried again":             {running, context.DeadlineExceeded, mainstay.KindRetryable},
		"later":                                   {running, mainstay.RetryAfter(cause, time.Minute), mainstay.KindRetryable},
		"a panic is tried again":                  {running, &mainstay.PanicError{Value: "x"}, mainstay.KindRetryable},
		"a bug is not":                            {running, mainstay.Terminal(cause), mainstay.KindTerminal},
		"wrapped marks count":                     {running, fmt.Errorf("handling: %w", mainstay.Terminal(cause)), mainstay.KindTerminal},
		"a business answer":                       {running, mainstay.Reject("card_declined", ""), mainstay.KindBusiness},
		"a wrapped business answer":               {running, fmt.Errorf("authorising: %w", mainstay.Reject("card_declined", "")), mainstay.KindBusiness},
		"the outermost mark wins":                 {running, mainstay.Terminal(mainstay.RetryAfter(cause, 1)), mainstay.KindTerminal},
		"the outermost mark wins, the other way":  {running, mainstay.RetryAfter(mainstay.Terminal(cause), 1), mainstay.KindRetryable},
		"a mark on a business answer":             {running, mainstay.Terminal(mainstay.Reject("x", "")), mainstay.KindTerminal},
		"the process stops":                       {stopped, cause, mainstay.KindInterrupted},
		"the process stops, the error says so":    {running, fmt.Errorf("waiting: %w", mainstay.ErrShutdown), mainstay.KindInterrupted},
		"the process stops, the bug stays one":    {stopped, mainstay.Terminal(cause), mainstay.KindTerminal},
		"the process stops, the answer stays one": {stopped, mainstay.Reject("x", ""), mainstay.KindBusiness},
		"somebody else cancelled":                 {cancelled, context.Canceled, mainstay.KindRetryable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := mainstay.KindOf(tc.ctx, tc.err); got != tc.want {
				t.Fatalf("got %v, want %v", got, tc.want)
			}
		})
	}
}

func TestMarks(t *testing.T) {
	t.Parallel()
	cause := errors.New("connection refused")
	for _, err := range []error{mainstay.Terminal(cause), mainstay.RetryAfter(cause, time.Minute)} {
		if !errors.Is(err, cause) || err.Error() != cause.Error() {
			t.Errorf("%v hides its cause", err)
		}
	}
	if mainstay.Terminal(nil) != nil || mainstay.RetryAfter(nil, time.Minute) != nil {
		t.Error("a nil error was marked")
	}
	if d := mainstay.RetryDelay(fmt.Errorf("calling: %w", mainstay.RetryAfter(cause, time.Minute))); d != time.Minute {
		t.Errorf("delay %v", d)
	}
	if d := mainstay.RetryDelay(cause); d != 0 {
		t.Errorf("delay %v of an unmarked error", d)
	}
	kinds := map[mainstay.Kind]string{
		mainstay.KindRetryable: "retryable", mainstay.KindTerminal: "terminal",
		mainstay.KindBusiness: "business", mainstay.KindInterrupted: "interrupted", mainstay.KindCrash: "crash",
	}
	for kind, want := range kinds {
		if kind.String() != want {
			t.Errorf("%d is named %q, want %q", kind, kind, want)
		}
	}
}

// A rejection is an answer, not a failure: it is never tried again, and the saga compensates.
func ExampleReject() {
	err := fmt.Errorf("authorising: %w", mainstay.Reject("card_declined", "the bank said no"))
	var rejected *mainstay.Rejection
	if errors.As(err, &rejected) {
		fmt.Println(mainstay.KindOf(context.Background(), err), rejected.Code)
	}
	fmt.Println(err)
	// Output:
	// business card_declined
	// authorising: card_declined: the bank said no
}

// Errors need no mark to be tried again; a bug should say that trying is of no use.
func ExampleKindOf() {
	ctx := context.Background()
	fmt.Println(mainstay.KindOf(ctx, errors.New("connection refused")))
	fmt.Println(mainstay.KindOf(ctx, mainstay.Terminal(errors.New("unknown schema"))))
	fmt.Println(mainstay.KindOf(ctx, mainstay.ErrShutdown))
	// Output:
	// retryable
	// terminal
	// interrupted
}
