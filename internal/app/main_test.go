package app_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/problem"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is an environment for tests; what the command prints is in out and errs.
func world(vars map[string]string, args ...string) (env app.Env, out, errs *strings.Builder) {
	out, errs = new(strings.Builder), new(strings.Builder)
	return app.Env{
		Args: args, Getenv: func(k string) string { return vars[k] },
		Stdin: strings.NewReader(""), Stdout: out, Stderr: errs,
		IsTerminal: func(io.Writer) bool { return false },
	}, out, errs
}

func TestMain_MapsErrorsToExitCodes(t *testing.T) {
	t.Parallel()
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for name, tt := range map[string]struct {
		ctx    context.Context
		err    error
		code   int
		stderr string
	}{
		"success":                   {t.Context(), nil, app.ExitOK, ""},
		"a plain error":             {t.Context(), errors.New("disk full"), app.ExitError, "error: disk full\n"},
		"a coded error":             {t.Context(), app.Errorf(app.ExitNotFound, "List them.", "no order %s", "x"), app.ExitNotFound, "error: no order x\nhint: List them.\n"},
		"wrapped":                   {t.Context(), fmt.Errorf("getting: %w", app.Errorf(app.ExitUnreachable, "", "refused")), app.ExitUnreachable, "error: getting: refused\n"},
		"a hint below another":      {t.Context(), &app.Error{Code: 5, Err: app.Errorf(2, "Do this.", "x")}, app.ExitConflict, "error: x\nhint: Do this.\n"},
		"an error without a code":   {t.Context(), &app.Error{Err: errors.New("x")}, app.ExitError, "error: x\n"},
		"interrupted":               {cancelled, fmt.Errorf("waiting: %w", context.Canceled), app.ExitInterrupted, "error: waiting: context canceled\n"},
		"cancelled without signal":  {t.Context(), context.Canceled, app.ExitError, "error: context canceled\n"},
		"interrupted but something": {cancelled, errors.New("disk full"), app.ExitError, "error: disk full\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			env, _, stderr := world(nil)
			code := app.MainIn(tt.ctx, env, func(context.Context, app.Env) error { return tt.err })
			if code != tt.code || stderr.String() != tt.stderr {
				t.Errorf("got %d %q, want %d %q", code, stderr, tt.code, tt.stderr)
			}
		})
	}
}

func TestMain_PrintsProblemsInJSON(t *testing.T) {
	t.Parallel()
	served := fmt.Errorf("posting: %w", problem.New(problem.KeyReused, "another body"))
	for name, tt := range map[string]struct {
		err  error
		want map[string]any
	}{
		"of our own": {
			app.Errorf(app.ExitNotFound, "List them.", "no order <x>"),
			map[string]any{"type": "about:blank", "title": "not found", "code": "not_found", "detail": "no order <x>", "hint": "List them.", "exit_code": 3.0},
		},
		"of a server": {
			served,
			map[string]any{"type": problem.KeyReused.Type(), "title": problem.KeyReused.Title(), "code": "idempotency_key_reused", "status": 422.0, "detail": served.Error(), "exit_code": 1.0},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			env, out, stderr := world(nil)
			app.MainIn(t.Context(), env, func(context.Context, app.Env) error { return app.InJSON(tt.err) })
			var got map[string]any
			if err := json.Unmarshal([]byte(stderr.String()), &got); err != nil {
				t.Fatalf("not JSON: %v: %s", err, stderr)
			}
			if out.Len() > 0 {
				t.Errorf("standard output has %q", out)
			}
			for k, v := range tt.want {
				if got[k] != v {
					t.Errorf("%s is %v, want %v", k, got[k], v)
				}
			}
		})
	}
	if app.InJSON(nil) != nil {
		t.Error("no error became one")
	}
}
