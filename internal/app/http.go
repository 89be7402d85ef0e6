package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/problem"
)

// MaxWait is the longest ?wait that a server grants.
const MaxWait = 60 * time.Second

// HTTP is how a Server serves. A zero limit is its default.
type HTTP struct {
	// Name is how errors and logs name the server.
	Name     string
	Listener net.Listener
	Handler  http.Handler
	Log      *slog.Logger
	// InFlight bounds requests at a time, and Waiters those with ?wait beside them; past it 503 with Retry-After.
	// 0 means no bound.
	InFlight, Waiters int
	// Observer is told of every request; nil for nobody.
	Observer Observer
	// ReadTimeout bounds the reading of a request, body included (15 s).
	ReadTimeout time.Duration
}

// Server is an HTTP server with limits on whatever a client decides, that stops without dropping a request.
type Server struct {
	name     string
	listener net.Listener
	http     *http.Server
	stop     context.CancelCauseFunc
	stopping chan struct{}
	once     sync.Once
}

// NewServer makes a server on a listener, which it owns from now on.
func NewServer(h HTTP) *Server {
	if h.ReadTimeout == 0 {
		h.ReadTimeout = 15 * time.Second
	}
	base, stop := context.WithCancelCause(context.Background())
	s := &Server{name: h.Name, listener: h.Listener, stop: stop, stopping: make(chan struct{})}
	handler := recoverPanics(h.Log, h.Handler)
	if h.InFlight > 0 {
		handler = bounded(handler, h.InFlight, h.Waiters)
	}
	if isLoopback(h.Listener.Addr().String()) {
		handler = byOwnName(handler)
	}
	if h.Observer != nil {
		handler = observed(handler, h.Observer)
	}
	s.http = &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       h.ReadTimeout,
		WriteTimeout:      MaxWait + 30*time.Second,
		IdleTimeout:       60 * time.Second,
		MaxHeaderBytes:    16 << 10,
		BaseContext:       func(net.Listener) context.Context { return base },
		ErrorLog:          slog.NewLogLogger(h.Log.Handler(), slog.LevelDebug),
	}
	return s
}

// Service is the server as a service of a stage.
func (s *Server) Service(stage Stage) Service {
	return Service{Name: s.name, Stage: stage, Run: s.Run, Drain: s.Drain}
}

// Stopping is closed when the server begins to drain: a request that waits for something answers now, with what is
// true now.
func (s *Server) Stopping() <-chan struct{} { return s.stopping }

// Run serves until ctx ends. Requests that are still served then have their contexts cancelled with ctx's cause.
func (s *Server) Run(ctx context.Context) error {
	unhook := context.AfterFunc(ctx, func() {
		s.stop(context.Cause(ctx))
		s.beginStop()
		_ = s.http.Close() // connections are gone, whatever it says
	})
	defer unhook()
	err := s.http.Serve(s.listener)
	if !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving %s: %w", s.listener.Addr(), err)
	}
	<-ctx.Done() // a drained server has nothing to do, but was not told to end yet
	return nil
}

// Drain takes no new connection and blocks until the requests that are served have been answered, or ctx ends.
func (s *Server) Drain(ctx context.Context) error {
	s.beginStop()
	return s.http.Shutdown(ctx)
}

func (s *Server) beginStop() { s.once.Do(func() { close(s.stopping) }) }

// byOwnName refuses requests to a loopback address under a name that is not its own. A page of another site can have
// its name resolve to this machine; the browser then takes the server for that site, and does here what the page says.
func byOwnName(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if name, _, err := net.SplitHostPort(host); err == nil {
			host = name
		}
		host = strings.ToLower(strings.Trim(host, "[]"))
		if host != "" && host != "localhost" && !strings.HasSuffix(host, ".localhost") && net.ParseIP(host) == nil {
			problem.Write(w, r, problem.New(problem.BadRequest, "this server answers on this machine only: call it by its address, or as localhost"))
			return
		}
		next.ServeHTTP(w, r)
	})
}

func waits(r *http.Request) bool { return r.URL.Query().Has("wait") }

// bounded lets inFlight requests through at a time, and waiters of those that wait, and refuses the rest at once.
func bounded(next http.Handler, inFlight, waiters int) http.Handler {
	short, long := make(chan struct{}, inFlight), make(chan struct{}, max(waiters, 1))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		slots := short
		if waits(r) {
			slots = long
		}
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
			next.ServeHTTP(w, r)
		default:
			problem.Write(w, r, problem.New(problem.Overloaded, "too many requests at a time; send the same request again").After(time.Second))
		}
	})
}

// recoverPanics answers a request whose handler panics with 500, and logs where it was.
func recoverPanics(log *slog.Logger, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sent := &sentinel{ResponseWriter: w}
		defer func() {
			v := recover()
			if v == nil {
				return
			}
			if v == any(http.ErrAbortHandler) {
				panic(v)
			}
			err := &mainstay.PanicError{Value: v, Stack: debug.Stack()}
			log.ErrorContext(r.Context(), "request panicked", "method", r.Method, "route", r.Pattern, "err", err, "stack", string(err.Stack))
			if sent.begun {
				panic(http.ErrAbortHandler) // half an answer must not look like a whole one
			}
			problem.Write(w, r, problem.New(problem.Internal, "the request ran into a bug; it was logged"))
		}()
		next.ServeHTTP(sent, r)
	})
}

// sentinel notices whether an answer has begun.
type sentinel struct {
	http.ResponseWriter
	begun bool
}

func (s *sentinel) WriteHeader(status int) {
	s.begun = s.begun || status >= http.StatusOK
	s.ResponseWriter.WriteHeader(status)
}

func (s *sentinel) Write(b []byte) (int, error) {
	s.begun = true
	return s.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the connection.
func (s *sentinel) Unwrap() http.ResponseWriter { return s.ResponseWriter }
