// Package natstest gives tests real NATS servers, as processes: to be stopped, killed, paused and started again, with
// their stores emptied or put back in between.
//
// The binary is built from the module that the embedded server comes from. A server ends with its test at the latest.
package natstest

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mainstay-io/mainstay/internal/testkit/proc"
)

// startTimeout bounds a start.
const startTimeout = 30 * time.Second

// Server is a NATS server with JetStream. Its methods fail the test when the server does not do what it is told, and
// may be called from one goroutine at a time.
type Server struct {
	*proc.Process // the running one, or the last that ran

	t      testing.TB
	dir    string
	name   string
	config string
	addr   string
	bin    string
}

// New starts a server that ends with the test. Settings are further lines of its configuration.
func New(t testing.TB, settings ...string) *Server {
	t.Helper()
	s := prepare(t, "nats", settings...)
	s.Start()
	return s
}

// NewWithoutJetStream starts a server that keeps nothing.
func NewWithoutJetStream(t testing.TB) *Server {
	t.Helper()
	s := prepare(t, "nats")
	s.config = fmt.Sprintf("server_name: nats\nlisten: %q\n", s.addr)
	s.Start()
	return s
}

// prepare makes a server that does not run yet.
func prepare(t testing.TB, name string, settings ...string) *Server {
	t.Helper()
	s := &Server{
		t: t, dir: t.TempDir(), addr: proc.FreeAddr(t),
		bin: proc.BuildPlain(t, "github.com/nats-io/nats-server/v2"),
	}
	s.name = name
	s.Configure(settings...)
	return s
}

// Configure sets the further lines of a stopped server's configuration. One of them may be "max_file: SIZE", which
// bounds the store.
func (s *Server) Configure(settings ...string) {
	file := "max_file: 4G"
	settings = slices.DeleteFunc(slices.Clone(settings), func(line string) bool {
		if strings.HasPrefix(line, "max_file:") {
			file = line
			return true
		}
		return false
	})
	s.config = fmt.Sprintf("server_name: %s\nlisten: %q\njetstream { store_dir: %q, max_mem: 64M, %s }\n%s\n",
		s.name, s.addr, s.StoreDir(), file, strings.Join(settings, "\n"))
}

// NewCluster starts servers that form a cluster.
func NewCluster(t testing.TB, size int, settings ...string) []*Server {
	t.Helper()
	var routes []string
	for range size {
		routes = append(routes, proc.FreeAddr(t))
	}
	servers := make([]*Server, size)
	for i := range servers {
		cluster := fmt.Sprintf("cluster { name: test, listen: %q, routes: [\"nats://%s\"] }", routes[i], strings.Join(routes, "\", \"nats://"))
		servers[i] = prepare(t, fmt.Sprintf("nats-%d", i+1), append([]string{cluster}, settings...)...)
		servers[i].launch()
	}
	for _, s := range servers {
		s.wait()
	}
	return servers
}

// URL is where the server is; it stays the same over restarts.
func (s *Server) URL() string { return "nats://" + s.addr }

// URLs are where servers are, as one setting names them.
func URLs(servers []*Server) string {
	urls := make([]string, len(servers))
	for i, s := range servers {
		urls[i] = s.URL()
	}
	return strings.Join(urls, ",")
}

// Addr is the host and port of URL.
func (s *Server) Addr() string { return s.addr }

// StoreDir is where the server keeps its streams: to be copied, emptied or put back while it is stopped.
func (s *Server) StoreDir() string { return filepath.Join(s.dir, "store") }

// Start starts a stopped or killed server and returns when it takes connections.
func (s *Server) Start() {
	s.t.Helper()
	s.launch()
	s.wait()
}

func (s *Server) launch() {
	s.t.Helper()
	file := filepath.Join(s.dir, "nats.conf")
	if err := os.WriteFile(file, []byte(s.config), 0o600); err != nil {
		s.t.Fatal(err)
	}
	s.Process = proc.Start(s.t, s.bin, "--config", file, "--log", filepath.Join(s.dir, "log"))
}

// wait blocks until the server takes connections.
func (s *Server) wait() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", s.addr)
		if err == nil && readyLine.MatchString(s.log()) {
			_ = conn.Close() // it was only tried
			return
		}
		if err == nil {
			_ = conn.Close()
		}
		select {
		case <-tick.C:
		case <-s.Done():
			s.t.Fatalf("the NATS server has ended:\n%s", s.log())
		case <-ctx.Done():
			s.t.Fatalf("the NATS server does not take connections:\n%s", s.log())
		}
	}
}

var readyLine = regexp.MustCompile(`Server is ready`)

func (s *Server) log() string {
	text, err := os.ReadFile(filepath.Join(s.dir, "log"))
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// Stop ends the server in order and returns when it is gone.
func (s *Server) Stop() {
	s.t.Helper()
	if err := s.Term(); err != nil {
		s.t.Fatalf("stopping NATS: %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	if _, err := s.Wait(ctx); err != nil {
		s.t.Fatalf("stopping NATS: %v", err)
	}
}

// Pause stops the server in its tracks; Resume lets it go on.
func (s *Server) Pause() { s.signal(syscall.SIGSTOP) }

// Resume lets a paused server go on.
func (s *Server) Resume() { s.signal(syscall.SIGCONT) }

func (s *Server) signal(sig syscall.Signal) {
	s.t.Helper()
	if err := s.Signal(sig); err != nil {
		s.t.Fatalf("sending %v to NATS: %v", sig, err)
	}
}

// Empty deletes the store of a stopped server.
func (s *Server) Empty() {
	s.t.Helper()
	if err := os.RemoveAll(s.StoreDir()); err != nil {
		s.t.Fatal(err)
	}
}
