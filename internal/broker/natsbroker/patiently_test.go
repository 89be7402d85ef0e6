package natsbroker

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
)

// TestPatiently_AsksAgain loses the first answer: whoever waited for it alone would have no time left.
func TestPatiently_AsksAgain(t *testing.T) {
	t.Parallel()
	lost := func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	}
	for name, c := range map[string]struct {
		denied error
		do     []func(context.Context) error // the last one answers from then on
		asked  int
		after  time.Duration
		want   error
	}{
		"lost once":  {nil, []func(context.Context) error{lost, func(context.Context) error { return nil }}, 2, answerPatience + electionTick, nil},
		"for ever":   {nil, []func(context.Context) error{lost}, 7, electionPatience, context.DeadlineExceeded},
		"forbidden":  {nats.ErrPermissionViolation, []func(context.Context) error{lost}, 1, answerPatience, context.DeadlineExceeded},
		"said no":    {nil, []func(context.Context) error{func(context.Context) error { return nats.ErrBadRequest }}, 1, 0, nats.ErrBadRequest},
		"at once":    {nil, []func(context.Context) error{func(context.Context) error { return nil }}, 1, 0, nil},
		"lost, then": {nil, []func(context.Context) error{lost, lost, func(context.Context) error { return nats.ErrBadRequest }}, 3, 2 * (answerPatience + electionTick), nats.ErrBadRequest},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d, asked, began := &denials{}, 0, time.Now()
				if c.denied != nil {
					d.note(c.denied)
				}
				err := patiently(t.Context(), d, func(ctx context.Context) error {
					asked++
					return c.do[min(asked, len(c.do))-1](ctx)
				})
				if took := time.Since(began); !errors.Is(err, c.want) || asked != c.asked || took > c.after+electionTick {
					t.Errorf("%v after %v, asked %d times; want %v after %v and %d times", err, took, asked, c.want, c.after, c.asked)
				}
			})
		})
	}
}
