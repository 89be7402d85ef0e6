package obs

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/mainstay-io/mainstay/internal/clock"
)

// othersKey says of how many lines like this one nothing was said since the last.
const othersKey = "others_not_logged"

// maxCauses bounds how many different warnings are kept in mind; beyond that all are logged.
const maxCauses = 100

// Sparing logs each warning once in so long, by its message and whatever its attributes are, with the number of those
// that it stands for: while a database is away, everybody who waits for it has the same to say. Other levels pass.
func Sparing(log *slog.Logger, every time.Duration) *slog.Logger {
	return slog.New(&sparing{log.Handler(), &causes{every: every, said: map[string]*cause{}}})
}

type sparing struct {
	slog.Handler
	causes *causes
}

// causes is shared by a handler and those made of it.
type causes struct {
	every time.Duration

	mu   sync.Mutex
	said map[string]*cause
}

type cause struct {
	last   clock.Mono
	silent int
}

// due says whether to log a message now, and of how many like it nothing was said since the last time.
func (c *causes) due(message string) (silent int, due bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	known := c.said[message]
	switch {
	case known == nil && len(c.said) >= maxCauses:
		return 0, true
	case known == nil:
		c.said[message] = &cause{last: clock.Start()}
		return 0, true
	case known.last.Elapsed() < c.every:
		known.silent++
		return 0, false
	}
	silent = known.silent
	known.last, known.silent = clock.Start(), 0
	return silent, true
}

// Handle passes the record on, unless one like it was a short time ago.
func (s *sparing) Handle(ctx context.Context, r slog.Record) error {
	if r.Level != slog.LevelWarn {
		return s.Handler.Handle(ctx, r)
	}
	silent, due := s.causes.due(r.Message)
	if !due {
		return nil
	}
	if silent > 0 {
		r = r.Clone()
		r.AddAttrs(slog.Int(othersKey, silent))
	}
	return s.Handler.Handle(ctx, r)
}

// WithAttrs is slog.Handler's.
func (s *sparing) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &sparing{s.Handler.WithAttrs(attrs), s.causes}
}

// WithGroup is slog.Handler's.
func (s *sparing) WithGroup(name string) slog.Handler {
	return &sparing{s.Handler.WithGroup(name), s.causes}
}
