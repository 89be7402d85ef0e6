// Package pgproxy stands between a program and PostgreSQL and breaks connections where it hurts most: at COMMIT.
//
// It understands as much of the protocol as it takes to see a COMMIT, whether it comes as a simple query, or as a
// prepared statement that is executed alone or in a pipeline, and the statements that are a transaction by themselves.
// Cut and CutAlone say which of them are cut, and how; Cuts tells how many were. Everything else passes through
// unchanged.
package pgproxy

import (
	"errors"
	"net"
	"net/url"
	"sync"
	"testing"
)

// Fault is what happens to a COMMIT.
type Fault int

// None lets it pass. Before drops the connection instead of forwarding it, so that the server rolls back. Amid
// forwards it and drops the client at once, while the server may still be at it. After drops the client when the
// server has answered, so that the transaction is committed, unless it could not be, and the client does not know.
const (
	None Fault = iota
	Before
	Amid
	After
)

// Commit is a COMMIT that has arrived.
type Commit struct {
	// N counts commits of all connections, from 1.
	N int
	// Statements are the texts of what the transaction has executed, from what began it on, without this COMMIT.
	Statements []string
}

// Proxy forwards connections to a server. Its methods may be called from any goroutine.
type Proxy struct {
	url      string
	server   string
	listener net.Listener
	all      sync.WaitGroup

	mu      sync.Mutex
	choose  func(Commit) Fault
	single  func(statement string) Fault
	commits int
	cuts    map[Fault]int
	resumed chan struct{} // closed unless the proxy is stalled
	conns   map[net.Conn]bool
	closed  bool
	ended   chan struct{} // closed with the proxy
}

// Start makes a proxy in front of the server that a postgres:// URL of a TCP address names. It ends with the test.
func Start(t testing.TB, server string) *Proxy {
	t.Helper()
	u, err := url.Parse(server)
	if err != nil {
		t.Fatalf("reading the server's URL: %v", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0") // it does not block
	if err != nil {
		t.Fatalf("listening: %v", err)
	}
	p := &Proxy{server: u.Host, listener: l, cuts: map[Fault]int{}, conns: map[net.Conn]bool{}, resumed: make(chan struct{}), ended: make(chan struct{})}
	close(p.resumed)
	u.Host = l.Addr().String()
	p.url = u.String()
	p.all.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

// URL is the server's URL with the proxy's address.
func (p *Proxy) URL() string { return p.url }

// Cut asks choose about each COMMIT from now on; nil cuts none. It is called by one goroutine at a time.
func (p *Proxy) Cut(choose func(Commit) Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.choose = choose
}

// CutAlone asks choose about each statement outside a transaction from now on, which is one by itself; nil cuts none. It
// is called by one goroutine at a time.
func (p *Proxy) CutAlone(choose func(statement string) Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.single = choose
}

// Every chooses each n-th COMMIT, for the faults in turn.
func Every(n int, faults ...Fault) func(Commit) Fault {
	return func(c Commit) Fault {
		if c.N%n != 0 {
			return None
		}
		return faults[c.N/n%len(faults)]
	}
}

// Cuts is how many commits, and statements alone, had the fault.
func (p *Proxy) Cuts(f Fault) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cuts[f]
}

// Commits is how many commits have arrived.
func (p *Proxy) Commits() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.commits
}

// Stall keeps back whatever comes from either side, until resume is called.
func (p *Proxy) Stall() (resume func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	stalled := make(chan struct{})
	p.resumed = stalled
	return sync.OnceFunc(func() { close(stalled) })
}

// pass blocks while the proxy is stalled.
func (p *Proxy) pass() {
	p.mu.Lock()
	resumed := p.resumed
	p.mu.Unlock()
	select {
	case <-resumed:
	case <-p.ended:
	}
}

// commit decides on a COMMIT.
func (p *Proxy) commit(statements []string) Fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.commits++
	if p.choose == nil {
		return None
	}
	return p.count(p.choose(Commit{N: p.commits, Statements: statements}))
}

// alone decides on a statement that is a transaction by itself.
func (p *Proxy) alone(statement string) Fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.single == nil {
		return None
	}
	return p.count(p.single(statement))
}

// count counts a fault; p.mu is held.
func (p *Proxy) count(f Fault) Fault {
	if f != None {
		p.cuts[f]++
	}
	return f
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.server) // the address is this machine's
		if err != nil {
			_ = client.Close() // as if the server had not listened
			continue
		}
		s := &session{p: p, client: client, server: server, statements: map[string]string{}, portals: map[string]string{}}
		if !p.track(client, server) {
			return
		}
		p.all.Go(s.requests)
		p.all.Go(s.answers)
	}
}

// track notes connections that are closed with the proxy; false when it is closed already.
func (p *Proxy) track(conns ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		p.conns[c] = true
		if p.closed {
			_ = c.Close() // nobody is served any more
		}
	}
	return !p.closed
}

func (p *Proxy) drop(conns ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		_ = c.Close() // it may be closed already
		delete(p.conns, c)
	}
}

func (p *Proxy) close() {
	_ = p.listener.Close() // nothing is lost with it
	p.mu.Lock()
	p.closed = true
	close(p.ended)
	for c := range p.conns {
		_ = c.Close() // the test is over
	}
	p.mu.Unlock()
	p.all.Wait()
}

// errCut ends the forwarding of requests after a fault.
var errCut = errors.New("cut")
