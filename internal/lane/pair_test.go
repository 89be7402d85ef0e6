package lane_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/broker"
	"github.com/mainstay-io/mainstay/internal/broker/natsbroker"
	"github.com/mainstay-io/mainstay/internal/broker/natsembed"
	"github.com/mainstay-io/mainstay/internal/lane"
	"github.com/mainstay-io/mainstay/internal/migrate"
	"github.com/mainstay-io/mainstay/internal/relay"
	"github.com/mainstay-io/mainstay/internal/sequencer"
	"github.com/mainstay-io/mainstay/internal/store/postgres"
	"github.com/mainstay-io/mainstay/internal/testkit/pgtest"
)

// pairLanes is how many lanes both databases of a pair have, pairKeys how many keys are written.
const (
	pairLanes = 4
	pairKeys  = 24
)

// pair is two databases that share nothing but a broker: the topic things is written in a, and read in b.
type pair struct {
	t    *testing.T
	dir  string
	srv  *natsembed.Server
	js   jetstream.JetStream
	a, b *site
}

// site is a database and what runs on it: sequencer and relay, and in b a consumer.
type site struct {
	t     *testing.T
	url   string
	nats  string
	db    *sql.DB
	store *postgres.Store
	relay *relay.Relay
	// stop ends sequencer, relay and answers.
	stop func()
	// again counts the logs that the relay was asked to publish again.
	again atomic.Int64
}

// newPair starts everything but consumers. Payload is the largest message that the broker takes, 0 its default.
func newPair(t *testing.T, payload int32) *pair {
	t.Helper()
	return newPairOn(t, pgtest.New(t), pgtest.New(t), payload)
}

func newPairOn(t *testing.T, a, b string, payload int32) *pair {
	t.Helper()
	p := &pair{t: t, dir: t.TempDir()}
	p.serve("127.0.0.1:0", payload)
	t.Cleanup(p.halt)
	nc, err := nats.Connect(p.srv.URL(), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))
	noErr(t, err)
	t.Cleanup(nc.Close)
	p.js, err = jetstream.New(nc)
	noErr(t, err)
	p.a, p.b = newSite(t, a, p.srv.URL()), newSite(t, b, p.srv.URL())
	p.a.run()
	p.b.run()
	return p
}

func (p *pair) serve(addr string, payload int32) {
	p.t.Helper()
	var err error
	p.srv, err = natsembed.Start(context.Background(), natsembed.Config{Dir: p.dir, Lazy: true, Listen: addr, MaxPayload: payload})
	noErr(p.t, err)
}

func (p *pair) halt() {
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	noErr(p.t, p.srv.Shutdown(ctx))
}

// limit starts the broker anew with another largest message.
func (p *pair) limit(payload int32) {
	p.t.Helper()
	addr := p.srv.URL()[len("nats://"):]
	p.halt()
	p.serve(addr, payload)
}

func noErr(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newSite(t *testing.T, url, nats string) *site {
	t.Helper()
	s := &site{t: t, url: url, nats: nats}
	s.dial()
	_, err := migrate.Up(t.Context(), s.db, mainstay.Postgres, pairLanes)
	noErr(t, err)
	_, err = s.db.ExecContext(t.Context(), `create table effect (n bigint generated always as identity, consumer text, lane int, sequence bigint, incarnation bigint,
		key text, id text, primary key (consumer, id))`)
	noErr(t, err)
	return s
}

// dial makes the test's own connections, anew after a restore, which ends all sessions.
func (s *site) dial() {
	s.t.Helper()
	db, err := sql.Open("pgx", s.url)
	noErr(s.t, err)
	db.SetMaxOpenConns(4)
	s.t.Cleanup(func() { _ = db.Close() })
	s.db = db
}

func (s *site) connect() *natsbroker.Broker {
	s.t.Helper()
	b, err := natsbroker.Open(s.t.Context(), natsbroker.Config{
		URL: s.nats, Sync: natsbroker.SyncLazy, AckTimeout: 2 * time.Second, Origin: s.store.Origin(), Lanes: pairLanes,
	})
	noErr(s.t, err)
	s.t.Cleanup(func() { _ = b.Close() })
	return b
}

// run opens the store, and runs sequencer and relay until stop is called or the test ends.
func (s *site) run() {
	s.t.Helper()
	store, err := postgres.Open(s.t.Context(), postgres.Config{URL: s.url, MaxConns: 6})
	noErr(s.t, err)
	s.store = store
	b := s.connect()
	seq := sequencer.New(store, sequencer.Config{Holder: "seq", Force: true})
	s.relay = relay.New(relay.Config{
		Store: store, Leases: store, Broker: b, Origin: store.Origin(), Holder: "relay", Lanes: pairLanes, ForceLeases: true,
		Poll: 50 * time.Millisecond, Check: 200 * time.Millisecond, Call: 5 * time.Second, Logger: slog.New(slog.DiscardHandler),
	})
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() { _ = seq.Run(ctx) })
	all.Go(func() { _ = s.relay.Run(ctx) })
	all.Go(func() { _ = b.Answer(ctx, store.Origin(), s.answer) })
	s.stop = sync.OnceFunc(func() {
		cancel()
		all.Wait()
		_ = b.Close()
		_ = store.Close()
	})
	s.t.Cleanup(s.stop)
}

// answer is the relay's, counted.
func (s *site) answer(ctx context.Context, q broker.Question) (broker.Answer, bool) {
	a, mine := s.relay.Answer(ctx, q)
	if mine {
		for _, w := range q.Logs {
			if w.Again {
				s.again.Add(1)
			}
		}
	}
	return a, mine
}

// consumer runs a consumer in the site, with a process of its own as it were, until stop is called or the test ends.
type consumer struct {
	s      *site
	name   string
	ready  func() error
	logged *logged
	stop   func()
}

// read starts a consumer of the topic, which writes what it handles to the table effect.
func (s *site) read(name string, change ...func(*lane.Consumer)) *consumer {
	s.t.Helper()
	c := lane.Consumer{Name: name, Topics: []string{"things"}, Elsewhere: []string{"things"}, Handler: batch(
		func(ctx context.Context, tx mainstay.Tx, ms []*mainstay.Message) ([]error, error) {
			for _, m := range ms {
				tx.Queue("insert into effect (consumer, lane, sequence, incarnation, key, id) values ($1, $2, $3, $4, $5, $6)",
					name, m.Lane, m.Sequence, m.Incarnation, m.Key, m.ID)
			}
			return nil, nil
		})}
	for _, f := range change {
		f(&c)
	}
	store, err := postgres.Open(s.t.Context(), postgres.Config{URL: s.url, MaxConns: 6})
	noErr(s.t, err)
	b := s.connect()
	out := &consumer{s: s, name: name, logged: &logged{}}
	e, err := lane.New(lane.Config{
		Store: store, Reader: b, Owners: b, Compared: true, Lanes: pairLanes, Holder: name, ForceLeases: true,
		LeaseTTL: 3 * time.Second, Sweep: 50 * time.Millisecond, Logger: slog.New(out.logged),
	}, c)
	noErr(s.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() { _ = e.Run(ctx) })
	out.ready = func() error { return e.Ready(ctx) }
	out.stop = sync.OnceFunc(func() {
		cancel()
		all.Wait()
		_ = b.Close()
		_ = store.Close()
	})
	s.t.Cleanup(out.stop)
	return out
}

// send writes a message of every key of its own, n times.
func (s *site) send(n int) {
	s.t.Helper()
	for range n {
		var ms []*mainstay.Message
		for k := range pairKeys {
			ms = append(ms, event("things", fmt.Sprint("k", k), "x"))
		}
		s.write(ms...)
	}
}

func (s *site) write(ms ...*mainstay.Message) {
	s.t.Helper()
	noErr(s.t, s.store.Run(context.Background(), func(_ context.Context, tx mainstay.Tx) error {
		tx.Send(ms...)
		return nil
	}))
}

// load writes until stop is called.
func (s *site) load() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	for range 2 {
		all.Go(func() {
			for tick := time.NewTicker(10 * time.Millisecond); ctx.Err() == nil; <-tick.C {
				s.send(1)
			}
		})
	}
	stop = sync.OnceFunc(func() { cancel(); all.Wait() })
	s.t.Cleanup(stop)
	return stop
}

// until waits for what commits and the broker bring about.
func (p *pair) until(what string, holds func() (bool, string)) {
	p.t.Helper()
	limit := time.NewTimer(2 * time.Minute)
	defer limit.Stop()
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for {
		ok, why := holds()
		if ok {
			return
		}
		select {
		case <-again.C:
		case <-limit.C:
			p.t.Fatalf("waited too long until %s: %s", what, why)
		}
	}
}

// lines gives the rows of a query of one text column.
func (s *site) lines(query string, args ...any) []string {
	s.t.Helper()
	rows, err := s.db.QueryContext(context.Background(), query, args...)
	noErr(s.t, err)
	defer rows.Close() // rows.Err tells
	var out []string
	for rows.Next() {
		var line string
		noErr(s.t, rows.Scan(&line))
		out = append(out, line)
	}
	noErr(s.t, rows.Err())
	return out
}

func (s *site) number(query string, args ...any) int64 {
	s.t.Helper()
	var n int64
	noErr(s.t, s.db.QueryRowContext(context.Background(), query, args...).Scan(&n))
	return n
}

const (
	// written are the messages of the topic in the order of its logs.
	written = `select l.lane || '/' || l.incarnation || '/' || l.first_sequence + p.n - 1 || ' ' || o.id || ' ' || o.key
from log l cross join lateral unnest(l.positions) with ordinality as p(position, n) join outbox o on o.position = p.position
where l.topic = 'things' and o.type <> 'unwanted' order by l.lane, l.first_sequence, p.n`
	// handled is what a consumer has done, lane by lane in the order in which it was done.
	handled = `select lane || '/' || incarnation || '/' || sequence || ' ' || id || ' ' || key from effect where consumer = $1 order by lane, n`
)

// wantAll waits until the consumer has handled what the topic's logs have from the given messages on, each once and in
// order, and nothing else.
func (p *pair) wantAll(c *consumer, from ...string) {
	p.t.Helper()
	p.numbered()
	want := p.a.lines(written)
	if len(from) > 0 {
		want = from
	}
	p.until(c.name+" has handled everything", func() (bool, string) {
		n := c.s.number("select count(*) from effect where consumer = $1", c.name)
		return n >= int64(len(want)), fmt.Sprintf("%d of %d; ready: %v; places %v, heads %v", n, len(want), c.ready(),
			c.s.lines("select lane || ': ' || incarnation || '/' || sequence from place where consumer = $1 order by lane", c.name),
			p.a.lines("select lane || ': ' || last_sequence from log_head where topic = 'things' order by lane"))
	})
	if got := c.s.lines(handled, c.name); !slices.Equal(want, got) {
		p.t.Fatalf("handled %d messages, not the %d that were written, or in another order: %v", len(got), len(want), firstDifference(want, got))
	}
}

func firstDifference(want, got []string) error {
	for i := range min(len(want), len(got)) {
		if want[i] != got[i] {
			return fmt.Errorf("at %d: %q, want %q", i, got[i], want[i])
		}
	}
	return errors.New("one is longer")
}

// behind fails the test unless there are messages that the consumer has not handled: a loss that meets none shows
// nothing.
func (p *pair) behind(c *consumer, fault string) {
	p.t.Helper()
	n := p.a.number("select count(*) from outbox where topic = 'things'") - c.s.number("select count(*) from effect where consumer = $1", c.name)
	if n == 0 {
		p.t.Errorf("inconclusive: the consumer had everything at this fault: %s", fault)
	}
}

// numbered waits until the log has all of the topic.
func (p *pair) numbered() {
	p.t.Helper()
	p.until("everything is numbered", func() (bool, string) {
		n := p.a.number(`select count(*) from outbox where topic = 'things'`) - p.a.number(`select coalesce(sum(last_sequence), 0)::bigint from log_head where topic = 'things'`)
		return n == 0, fmt.Sprintf("%d are missing", n)
	})
}

// published waits until the broker has all of the topic.
func (p *pair) published() {
	p.t.Helper()
	p.until("everything is published", func() (bool, string) {
		n := p.a.number(`select count(*) from outbox where topic = 'things'`) - p.a.number(`select coalesce(sum(sequence), 0)::bigint from relay_progress where topic = 'things'`)
		return n == 0, fmt.Sprintf("%d are missing; the relay: %v", n, p.a.relay.Ready())
	})
}

func (p *pair) stream() jetstream.Stream {
	p.t.Helper()
	st, err := p.js.Stream(context.Background(), "MAINSTAY")
	noErr(p.t, err)
	return st
}

// keepLast lets the broker forget everything of the topic's logs but their last records, as its retention does.
func (p *pair) keepLast(n uint64) {
	p.t.Helper()
	for l := range pairLanes {
		noErr(p.t, p.stream().Purge(context.Background(), jetstream.WithPurgeSubject(fmt.Sprintf("mainstay.things.%d", l)), jetstream.WithPurgeKeep(n)))
	}
}

// loseNext waits until more has come to the broker than there is, and deletes a part of it: of every log, more follows.
func (p *pair) loseNext() {
	p.t.Helper()
	const part = 5 * pairKeys
	at := p.stream().CachedInfo().State.LastSeq
	p.until("more is published", func() (bool, string) {
		last := p.stream().CachedInfo().State.LastSeq
		return last >= at+3*part, fmt.Sprintf("%d of %d", last-at, 3*part)
	})
	st := p.stream()
	for next := at + part; next < at+2*part; next++ {
		if err := st.DeleteMsg(context.Background(), next); !errors.Is(err, jetstream.ErrMsgNotFound) { // a marker made way
			noErr(p.t, err)
		}
	}
}

// logged keeps what is logged.
type logged struct {
	mu    sync.Mutex
	lines []string
}

func (l *logged) Enabled(context.Context, slog.Level) bool { return true }
func (l *logged) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l *logged) WithGroup(string) slog.Handler            { return l }

// count is how often a line with these words was logged.
func (l *logged) count(words string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.lines {
		if strings.Contains(line, words) {
			n++
		}
	}
	return n
}

// Handle keeps the message with its attributes.
func (l *logged) Handle(_ context.Context, r slog.Record) error {
	line := r.Message
	r.Attrs(func(a slog.Attr) bool { line += " " + a.String(); return true })
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, line)
	return nil
}
