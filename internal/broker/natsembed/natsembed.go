// Package natsembed runs a NATS server with JetStream inside the process, for the all-in-one and for tests. It keeps
// its streams in files under one directory and listens on no network address unless asked to.
package natsembed

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// Defaults of Config.
const (
	DefaultMaxPayload = 1 << 20
	DefaultMaxStore   = 16 << 30
	DefaultMaxMemory  = 64 << 20
)

const (
	// startTimeout bounds the start when the caller's context does not.
	startTimeout = 10 * time.Second
	// readyStep is how often the start looks at its context.
	readyStep = 100 * time.Millisecond
)

// Config says how the server runs; only Dir is needed.
type Config struct {
	// Dir is where the streams are kept; it is created when missing. No other server may use it.
	Dir string
	// Lazy leaves the syncing of files to the operating system and a timer of minutes. By default a message is
	// acknowledged when it was synced.
	Lazy bool
	// Listen is a host:port for clients of other processes; empty means in-process connections only.
	Listen string
	// MaxPayload is the largest message in bytes, MaxStore the most bytes on disk; 0 means the defaults.
	MaxPayload int32
	MaxStore   int64
	// Logger gets the server's warnings and errors; nil means none.
	Logger *slog.Logger
}

// Server is a running server. It is safe for concurrent use.
type Server struct {
	cfg  Config
	log  *logger
	stop sync.Once
	quit chan struct{} // closed when it is to stop
	done chan struct{} // closed when it has

	mu  sync.Mutex // guards srv, which a restart replaces
	srv *server.Server
}

// Start starts a server and waits until it takes connections, at most until ctx ends.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	s := &Server{cfg: cfg, log: newLogger(cfg.Logger), quit: make(chan struct{}), done: make(chan struct{})}
	if err := s.launch(ctx); err != nil {
		return nil, err
	}
	if cfg.Listen != "" {
		s.cfg.Listen = s.current().Addr().String() // a port that was chosen once stays
	}
	go s.run()
	return s, nil
}

// launch starts a server and makes it the current one when it is ready.
func (s *Server) launch(ctx context.Context) error {
	opts, err := options(s.cfg)
	if err != nil {
		return err
	}
	srv, err := server.NewServer(opts)
	if err != nil {
		return fmt.Errorf("configuring the embedded NATS server: %w", err)
	}
	s.log.revive()
	srv.SetLoggerV2(s.log, false, false, false)
	srv.Start()
	if !ready(ctx, srv, s.log) {
		err := fmt.Errorf("starting the embedded NATS server in %s: %w", s.cfg.Dir, s.log.failure())
		srv.Shutdown()
		srv.WaitForShutdown()
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.srv = srv
	return nil
}

func (s *Server) current() *server.Server {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.srv
}

// ready waits until the server takes connections; false when it gave up or the time is over.
func ready(ctx context.Context, srv *server.Server, log *logger) bool {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for ctx.Err() == nil && !log.fatal() {
		if srv.ReadyForConnections(readyStep) {
			return srv.JetStreamEnabled()
		}
	}
	return false
}

func options(cfg Config) (*server.Options, error) {
	if cfg.Dir == "" {
		return nil, errors.New("the embedded NATS server needs a directory")
	}
	if cfg.MaxPayload == 0 {
		cfg.MaxPayload = DefaultMaxPayload
	}
	if cfg.MaxStore == 0 {
		cfg.MaxStore = DefaultMaxStore
	}
	opts := &server.Options{
		ServerName: "mainstay", DontListen: true, NoSigs: true, JetStream: true, StoreDir: cfg.Dir,
		SyncAlways: !cfg.Lazy, MaxPayload: cfg.MaxPayload, MaxPending: 64 << 20, NoSystemAccount: true,
		JetStreamMaxMemory: DefaultMaxMemory, JetStreamMaxStore: cfg.MaxStore,
	}
	if cfg.Listen == "" {
		return opts, nil
	}
	host, port, err := net.SplitHostPort(cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("reading the embedded NATS server's address %q: %w", cfg.Listen, err)
	}
	opts.DontListen, opts.Host = false, host
	if opts.Port, err = strconv.Atoi(port); err != nil {
		return nil, fmt.Errorf("reading the embedded NATS server's port %q: %w", port, err)
	}
	if opts.Port == 0 {
		opts.Port = server.RANDOM_PORT
	}
	return opts, nil
}

// InProcessConn gives a connection that crosses no network; nats.InProcessServer takes the server for it.
func (s *Server) InProcessConn() (net.Conn, error) { return s.current().InProcessConn() }

// URL is the address for other processes, when there is one.
func (s *Server) URL() string { return s.current().ClientURL() }

// Shutdown stops the server and waits until its files are closed, at most until ctx ends. It may be called twice.
func (s *Server) Shutdown(ctx context.Context) error {
	s.stop.Do(func() { close(s.quit) })
	select {
	case <-s.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stopping the embedded NATS server: %w", context.Cause(ctx))
	}
}
