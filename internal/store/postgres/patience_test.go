package postgres

import (
	"context"
	"errors"
	"io"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/lane"
)

// hole is a proxy that can stop passing anything on, as a network does whose cable is cut.
type hole struct {
	listener net.Listener
	to       string
	cut      chan struct{} // closed when it is

	mu    sync.Mutex
	conns []net.Conn
	done  sync.WaitGroup
}

// newHole puts a hole before the server of the URL, and gives the URL through it.
func newHole(t *testing.T, database string) (*hole, string) {
	t.Helper()
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &hole{listener: l, to: u.Host, cut: make(chan struct{})}
	u.Host = l.Addr().String()
	h.done.Go(func() { h.accept(t) })
	t.Cleanup(h.close)
	return h, u.String()
}

func (h *hole) accept(t *testing.T) {
	for {
		near, err := h.listener.Accept()
		if err != nil {
			return
		}
		far, err := new(net.Dialer).DialContext(t.Context(), "tcp", h.to)
		if err != nil {
			_ = near.Close()
			continue
		}
		h.mu.Lock()
		h.conns = append(h.conns, near, far)
		h.mu.Unlock()
		h.done.Go(func() { h.pass(near, far) })
		h.done.Go(func() { h.pass(far, near) })
	}
}

func (h *hole) pass(to io.WriteCloser, from io.Reader) {
	b := make([]byte, 32<<10)
	for {
		n, err := from.Read(b)
		select {
		case <-h.cut:
			if err != nil {
				return
			}
			continue // swallowed
		default:
		}
		if err != nil {
			_ = to.Close()
			return
		}
		if _, err := to.Write(b[:n]); err != nil {
			return
		}
	}
}

func (h *hole) close() {
	_ = h.listener.Close()
	h.mu.Lock()
	for _, c := range h.conns {
		_ = c.Close()
	}
	h.mu.Unlock()
	h.done.Wait()
}

func TestStore_GivesUpAServerThatSaysNothing(t *testing.T) {
	t.Parallel()
	h, through := newHole(t, newDatabase(t))
	s := openStore(t, through, func(c *Config) { c.StatementTimeout = 100 * time.Millisecond })
	work := func(context.Context, mainstay.Tx) error { return nil }
	if err := s.Run(t.Context(), work); err != nil {
		t.Fatal(err)
	}
	close(h.cut)
	failed := make(chan error, 1)
	go func() { failed <- s.Run(t.Context(), work) }()
	select {
	case err := <-failed:
		if !errors.Is(err, lane.ErrTransient) {
			t.Fatalf("got %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("it waits for a server that is not there")
	}
}
