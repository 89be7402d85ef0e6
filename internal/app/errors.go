package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/mainstay-io/mainstay/internal/problem"
)

// Exit codes of every command. They are stable; docs/reference/exit-codes.md is generated from ExitCodes.
const (
	ExitOK          = 0
	ExitError       = 1
	ExitUsage       = 2
	ExitNotFound    = 3
	ExitConflict    = 5
	ExitPartial     = 6
	ExitUnreachable = 7
	ExitPending     = 8
	ExitInterrupted = 130
)

// ExitMeaning documents one exit code.
type ExitMeaning struct {
	Code          int
	Name, Meaning string
}

// ExitCodes lists what each exit code means, by number.
func ExitCodes() []ExitMeaning {
	return []ExitMeaning{
		{ExitOK, "ok", "The command did what it was asked, or ended on a signal as it should."},
		{ExitError, "error", "Something went wrong that no other code describes."},
		{ExitUsage, "usage", "The command line or the configuration is wrong; nothing was done."},
		{ExitNotFound, "not found", "What was named does not exist."},
		{ExitConflict, "conflict", "Something is in the way: a directory or an address in use, a schema too old or too new, a request that is refused."},
		{ExitPartial, "partial", "It ran, and the result is not all good: `verify` found violations, or of what `bench` began something did not end well."},
		{ExitUnreachable, "unreachable", "The server, the database or the broker cannot be reached, or is too busy to answer."},
		{ExitPending, "pending", "The time given ran out before what was waited for had happened."},
		{ExitInterrupted, "interrupted", "A signal ended the command before its work was done."},
	}
}

// Error is an error with what an operator needs to go on: an exit code and a hint.
type Error struct {
	// Code is the exit code; 0 counts as ExitError.
	Code int
	// Err is what went wrong.
	Err error
	// Hint says what to do next, as a sentence; it may be empty.
	Hint string
}

// Error gives what went wrong, without the hint.
func (e *Error) Error() string { return e.Err.Error() }

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// Errorf makes an Error with a code and a hint; the rest is as with fmt.Errorf.
func Errorf(code int, hint, format string, args ...any) error {
	return &Error{Code: code, Hint: hint, Err: fmt.Errorf(format, args...)}
}

// ExitCode maps the result of a command to its exit code. An error without a code of its own is ExitInterrupted when
// it comes from the cancellation of ctx, else ExitError.
func ExitCode(ctx context.Context, err error) int {
	var coded *Error
	switch {
	case err == nil:
		return ExitOK
	case errors.As(err, &coded) && coded.Code != 0:
		return coded.Code
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		return ExitInterrupted
	default:
		return ExitError
	}
}

// HintOf is the hint of the first error in err's chain that has one, or "".
func HintOf(err error) string {
	for coded := new(*Error); errors.As(err, coded); err = (*coded).Err {
		if (*coded).Hint != "" {
			return (*coded).Hint
		}
	}
	return ""
}

// InJSON makes Main print err as a problem document instead of a line. A nil err stays nil.
func InJSON(err error) error {
	if err == nil {
		return nil
	}
	return &jsonError{err}
}

type jsonError struct{ error }

func (e *jsonError) Unwrap() error { return e.error }

// document is how an error looks in JSON: RFC 9457, with the hint and the exit code as extensions. Where the answer
// of a server is the reason, it is that answer.
type document struct {
	problem.Problem
	Status   int    `json:"status,omitempty"` // instead of the problem's, which is always written
	Hint     string `json:"hint,omitempty"`
	ExitCode int    `json:"exit_code"`
}

func newDocument(err error, code int) document {
	d := document{Hint: HintOf(err), ExitCode: code}
	var origin *problem.Problem
	if errors.As(err, &origin) {
		d.Problem, d.Status = *origin, origin.Status
	} else {
		d.Type, d.Title, d.Code = "about:blank", meaning(code).Name, problem.Code(strings.ReplaceAll(meaning(code).Name, " ", "_"))
	}
	d.Detail = err.Error()
	return d
}

func meaning(code int) ExitMeaning {
	for _, m := range ExitCodes() {
		if m.Code == code {
			return m
		}
	}
	return meaning(ExitError)
}

// printError writes err to w. An error of writing is dropped: there is nowhere left to tell it.
func printError(w io.Writer, err error, code int) {
	var inJSON *jsonError
	if errors.As(err, &inJSON) {
		enc := json.NewEncoder(w)
		enc.SetEscapeHTML(false)
		_ = enc.Encode(newDocument(err, code))
		return
	}
	_, _ = fmt.Fprintf(w, "error: %v\n", err)
	if hint := HintOf(err); hint != "" {
		_, _ = fmt.Fprintf(w, "hint: %s\n", hint)
	}
}
