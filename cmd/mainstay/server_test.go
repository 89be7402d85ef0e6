package main

import (
	"context"
	"regexp"
	"testing"
	"time"

	"github.com/mainstay-io/mainstay/internal/client"
	"github.com/mainstay-io/mainstay/internal/testkit/proc"
)

// server is a running `mainstay serve`.
type server struct {
	*proc.Process
	*client.Client
	URL, OpsURL string
}

var (
	ordersLine   = regexp.MustCompile(`^  orders +(http://\S+)/v1/orders`)
	operatorLine = regexp.MustCompile(`^  operator +(http://\S+)`)
)

// startServer starts the binary and waits until it has said where it is. Ports are the system's choice unless args
// name them.
func startServer(t testing.TB, bin string, args ...string) *server {
	t.Helper()
	args = append([]string{"serve", "--http", "127.0.0.1:0", "--ops", "127.0.0.1:0"}, args...)
	return waitServer(t, proc.Start(t, bin, args...))
}

func waitServer(t testing.TB, p *proc.Process) *server {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s := &server{Process: p}
	s.URL = wantLine(ctx, t, p, ordersLine)
	s.OpsURL = wantLine(ctx, t, p, operatorLine)
	c, err := client.New(client.Config{URL: s.URL, OpsURL: s.OpsURL})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	s.Client = c
	return s
}

func wantLine(ctx context.Context, t testing.TB, p *proc.Process, re *regexp.Regexp) string {
	t.Helper()
	match, err := p.WaitLine(ctx, re)
	if err != nil {
		t.Fatal(err)
	}
	return match[1]
}

// place posts an order under a fresh key.
func (s *server) place(ctx context.Context, t testing.TB, o client.NewOrder) client.Placed {
	t.Helper()
	placed, err := s.PlaceOrder(ctx, client.NewKey(), o)
	if err != nil {
		t.Fatal(err)
	}
	return placed
}

// wantEnd waits for the order's end and checks it: the status, and the code of the reason if there is one.
func (s *server) wantEnd(ctx context.Context, t testing.TB, id, want string) {
	t.Helper()
	o, err := s.Await(ctx, id, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	got := o.Status
	if o.Reason != nil {
		got += " " + o.Reason.Code
	}
	if got != want {
		t.Errorf("order %s: got %q, want %q", id, got, want)
	}
}

// verify runs `mainstay verify` and wants no violation.
func verify(t testing.TB, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	p := proc.Start(t, proc.BuildPlain(t, "./cmd/mainstay"), append([]string{"verify"}, args...)...)
	code, err := p.Wait(ctx)
	if err != nil || code != 0 {
		t.Errorf("verify: exit code %d, error %v\n%s%s", code, err, p.Stdout(), p.Stderr())
	}
	return p.Stdout()
}
