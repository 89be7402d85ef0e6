package natsembed

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
)

// logger gives the server's warnings and errors to slog. What it says for information is dropped: a healthy broker
// is silent.
type logger struct {
	log *slog.Logger
	// trouble has a value when there was an error since it was read last.
	trouble chan struct{}

	mu   sync.Mutex
	last string
	dead bool
}

func newLogger(log *slog.Logger) *logger { return &logger{log: log, trouble: make(chan struct{}, 1)} }

// revive forgets what an earlier server has said.
func (l *logger) revive() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last, l.dead = "", false
}

// fatal says whether the server has given up.
func (l *logger) fatal() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dead
}

// failure is the last error that the server spoke of.
func (l *logger) failure() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.last == "" {
		return errors.New("it does not take connections in time")
	}
	return errors.New(l.last)
}

func (l *logger) say(level slog.Level, format string, args []any) {
	text := fmt.Sprintf(format, args...)
	if level >= slog.LevelError {
		l.mu.Lock()
		l.last = text
		l.mu.Unlock()
		select {
		case l.trouble <- struct{}{}:
		default:
		}
	}
	if l.log != nil {
		l.log.Log(context.Background(), level, "embedded NATS server", slog.String("text", text))
	}
}

// Noticef implements the server's Logger.
func (l *logger) Noticef(string, ...any) {}

// Debugf implements the server's Logger.
func (l *logger) Debugf(string, ...any) {}

// Tracef implements the server's Logger.
func (l *logger) Tracef(string, ...any) {}

// Warnf implements the server's Logger.
func (l *logger) Warnf(format string, args ...any) {
	level := slog.LevelWarn
	if strings.Contains(format, "Recovering stream state from index") || strings.Contains(format, "Stream state outdated") {
		level = slog.LevelDebug // what a kill leaves behind; the server mends it, and the relay what it cannot
	}
	l.say(level, format, args)
}

// Errorf implements the server's Logger.
func (l *logger) Errorf(format string, args ...any) { l.say(slog.LevelError, format, args) }

// Fatalf implements the server's Logger; the server goes on, and is never ready.
func (l *logger) Fatalf(format string, args ...any) {
	l.say(slog.LevelError, format, args)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dead = true
}
