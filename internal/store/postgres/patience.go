package postgres

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mainstay-io/mainstay/internal/clock"
)

// patient makes connections on which nobody waits longer than limit for the server's next word. The server ends a
// statement by itself long before (see Config.StatementTimeout); one that says nothing at all is not there any more,
// or the network between is not, and TCP alone would take a quarter of an hour to notice.
func patient(cfg *pgx.ConnConfig, limit time.Duration) {
	dial := cfg.DialFunc
	cfg.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &patientConn{Conn: conn, limit: limit}, nil
	}
}

type patientConn struct {
	net.Conn
	limit time.Duration

	mu    sync.Mutex
	given time.Time // the driver's own deadline for reads; zero when there is none
}

// Read waits until the driver's deadline, if it has one, else for the limit.
func (c *patientConn) Read(b []byte) (int, error) {
	if err := c.wait(); err != nil {
		return 0, err
	}
	return c.Conn.Read(b)
}

func (c *patientConn) wait() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.given.IsZero() {
		return nil
	}
	return c.Conn.SetReadDeadline(clock.System().Add(c.limit))
}

func (c *patientConn) SetDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.given = t
	return c.Conn.SetDeadline(t)
}

func (c *patientConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.given = t
	return c.Conn.SetReadDeadline(t)
}
