// Package obs is how the backbone is seen from outside: log lines and metrics. Features declare the hooks that they
// call; the types here implement them on a registry that is passed in.
//
// Labels are bounded: consumers, topics, outcomes, never an id. Ages stand before depths, since an age tells whether
// somebody waits. docs/reference/metrics.md lists every metric and is held to the code by a test.
package obs

import (
	"io"
	"log/slog"
)

// Names of log attributes: one thing, one name.
const (
	OrderID   = "order_id"
	SagaID    = "saga_id"
	MessageID = "message_id"
	Consumer  = "consumer"
	Topic     = "topic"
	Lane      = "lane"
	Attempt   = "attempt"
	ErrorKey  = "err"
)

// Err is the attribute of an error.
func Err(err error) slog.Attr { return slog.Any(ErrorKey, err) }

// NewLogger writes lines to w that are at least of the level ("debug", "info", "warn" or "error"; anything else is
// info). The format is "text", "json", or "auto": text when w is a terminal, else JSON.
func NewLogger(w io.Writer, level, format string, terminal bool) *slog.Logger {
	opts := &slog.HandlerOptions{ReplaceAttr: readable}
	var least slog.Level
	if least.UnmarshalText([]byte(level)) == nil {
		opts.Level = least
	}
	if format == "text" || (format != "json" && terminal) {
		return slog.New(slog.NewTextHandler(w, opts))
	}
	return slog.New(slog.NewJSONHandler(w, opts))
}

// readable gives durations as people write them: JSON has them in nanoseconds otherwise.
func readable(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		a.Value = slog.StringValue(a.Value.Duration().String())
	}
	return a
}
