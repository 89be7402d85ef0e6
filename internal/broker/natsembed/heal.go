package natsembed

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

const (
	// healEvery is how often a server with a failed store is looked at.
	healEvery = time.Second
	// probeSize is how much the disk must take before a server is started on it again.
	probeSize = 1 << 20
)

// run looks after the server until it is to stop, and then stops it. It sleeps as long as the server does not speak
// of an error.
func (s *Server) run() {
	defer close(s.done)
	defer func() {
		srv := s.current()
		srv.Shutdown()
		srv.WaitForShutdown()
	}()
	for {
		select {
		case <-s.quit:
			return
		case <-s.log.trouble:
		}
		for s.failed() {
			timer := time.NewTimer(healEvery)
			select {
			case <-s.quit:
				timer.Stop()
				return
			case <-timer.C:
				s.heal()
			}
		}
	}
}

// failed says whether the store refuses writes, or the server has no store any more.
func (s *Server) failed() bool {
	srv := s.current()
	return !srv.Running() || srv.Healthz(&server.HealthzOptions{}).Status != "ok"
}

// heal starts the server anew if its directory can be written. A server that cannot be started is tried again.
func (s *Server) heal() {
	if err := s.probe(); err != nil {
		return // it has said so, and nothing has changed
	}
	s.warn("the embedded broker's store had failed and can be written again: starting it anew", nil)
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	go func() {
		select {
		case <-s.quit:
			cancel()
		case <-ctx.Done():
		}
	}()
	srv := s.current()
	srv.Shutdown()
	srv.WaitForShutdown()
	if err := s.launch(ctx); err != nil {
		s.warn("the embedded broker cannot be started", err)
	}
}

func (s *Server) warn(text string, err error) {
	if s.log.log == nil {
		return
	}
	attrs := []any{slog.String("dir", s.cfg.Dir)}
	if err != nil {
		attrs = append(attrs, slog.Any("err", err))
	}
	s.log.log.Warn(text, attrs...) //nolint:sloglint // the callers' texts are constants
}

// probe writes to the server's directory, down to the disk.
func (s *Server) probe() (err error) {
	path := filepath.Join(s.cfg.Dir, "probe")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("probing the broker's directory: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(path)) }()
	if _, err := f.Write(make([]byte, probeSize)); err != nil {
		return fmt.Errorf("probing the broker's directory: %w", err)
	}
	return f.Sync()
}
