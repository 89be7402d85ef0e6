package relay_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/broker"
	"github.com/mainstay-io/mainstay/internal/broker/brokertest"
	"github.com/mainstay-io/mainstay/internal/broker/natsbroker"
	"github.com/mainstay-io/mainstay/internal/broker/natsembed"
	"github.com/mainstay-io/mainstay/internal/relay"
)

// site is a relay between a database and a real server, with a reader behind it.
type site struct {
	db   *database
	dir  string
	addr string // where the server listens, the same after a restart
	srv  *natsembed.Server
	js   jetstream.JetStream
	r    *relay.Relay

	mu    sync.Mutex
	place map[mainstay.TopicLane]int64 // of the reader, who waits at every gap
	moved chan struct{}
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{
		db: newDatabase(), dir: t.TempDir(), addr: "127.0.0.1:0", place: map[mainstay.TopicLane]int64{}, moved: make(chan struct{}, 1),
	}
	s.launch(t)
	s.addr = s.srv.URL()[len("nats://"):]
	t.Cleanup(func() { s.halt(t) })
	nc, err := nats.Connect(s.srv.URL(), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	if s.js, err = jetstream.New(nc); err != nil {
		t.Fatal(err)
	}
	s.read(t)
	s.relay(t)
	return s
}

func (s *site) launch(t *testing.T) {
	t.Helper()
	var err error
	if s.srv, err = natsembed.Start(context.Background(), natsembed.Config{Dir: s.dir, Lazy: true, Listen: s.addr}); err != nil {
		t.Fatal(err)
	}
}

func (s *site) halt(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	if err := s.srv.Shutdown(ctx); err != nil {
		t.Error(err)
	}
}

func (s *site) connect(t *testing.T) *natsbroker.Broker {
	t.Helper()
	b, err := natsbroker.Open(t.Context(), natsbroker.Config{URL: s.srv.URL(), Sync: natsbroker.SyncLazy, AckTimeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

// relay runs one relay until the test ends.
func (s *site) relay(t *testing.T) {
	t.Helper()
	s.r = relay.New(relay.Config{
		Store: s.db, Leases: s.db, Broker: s.connect(t), Holder: "a", Lanes: 4, Check: 100 * time.Millisecond, Batch: 50,
		Call: 2 * time.Second,
	})
	during(t, func(ctx context.Context) { _ = s.r.Run(ctx) })
}

// read follows the logs from their beginning until the test ends.
func (s *site) read(t *testing.T) {
	t.Helper()
	var from []broker.Start
	for lane := range 2 {
		from = append(from, broker.Start{TopicLane: brokertest.Log(lane), Incarnation: 1})
	}
	sub, err := s.connect(t).Subscribe(t.Context(), from)
	if err != nil {
		t.Fatal(err)
	}
	during(t, func(ctx context.Context) {
		for {
			ms, err := sub.Next(ctx)
			if err != nil {
				_ = sub.Close()
				return
			}
			s.take(ms)
		}
	})
}

func (s *site) take(ms []*mainstay.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range ms {
		if m.Sequence == s.place[m.TopicLane()]+1 {
			s.place[m.TopicLane()]++
		}
	}
	select {
	case s.moved <- struct{}{}:
	default:
	}
}

// arrives waits until the reader has everything of the log.
func (s *site) arrives(t *testing.T, log mainstay.TopicLane) {
	t.Helper()
	limit := time.NewTimer(90 * time.Second)
	defer limit.Stop()
	for {
		s.mu.Lock()
		at := s.place[log]
		s.mu.Unlock()
		s.db.mu.Lock()
		head := int64(len(s.db.logs[log]))
		s.db.mu.Unlock()
		if at == head {
			return
		}
		select {
		case <-s.moved:
		case <-limit.C:
			t.Fatalf("the reader of %v is at %d of %d", log, at, head)
		}
	}
}

// during runs something in the background until the test ends.
func during(t *testing.T, run func(context.Context)) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
}

// TestNATS spoils a real broker while messages go on. A reader who has been there from the beginning, who skips what
// he has and waits at every gap, gets everything; and so does one who reads the whole log afterwards.
func TestNATS(t *testing.T) {
	t.Parallel()
	log := brokertest.Log(0)
	foreign := func(t *testing.T, s *site, n int) {
		t.Helper()
		for range n {
			if _, err := s.js.Publish(t.Context(), "mainstay.orders.0", []byte("not one of ours")); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, spoil := range map[string]func(t *testing.T, s *site){
		"the stream is deleted": func(t *testing.T, s *site) {
			if err := s.js.DeleteStream(t.Context(), "MAINSTAY"); err != nil {
				t.Fatal(err)
			}
		},
		"the stream is purged": func(t *testing.T, s *site) {
			st, err := s.js.Stream(t.Context(), "MAINSTAY")
			if err != nil {
				t.Fatal(err)
			}
			if err := st.Purge(t.Context()); err != nil {
				t.Fatal(err)
			}
		},
		"the store is deleted": func(t *testing.T, s *site) {
			s.halt(t)
			if err := os.RemoveAll(filepath.Join(s.dir, "jetstream")); err != nil {
				t.Fatal(err)
			}
			s.launch(t)
		},
		"an older copy is restored": func(t *testing.T, s *site) {
			older := t.TempDir()
			s.halt(t)
			s.copyStore(t, s.dir, older)
			s.launch(t)
			s.db.grow(log, 200)
			s.arrives(t, log)
			s.halt(t)
			if err := os.RemoveAll(filepath.Join(s.dir, "jetstream")); err != nil {
				t.Fatal(err)
			}
			s.copyStore(t, older, s.dir)
			s.launch(t)
		},
		"a stranger writes into the log": func(t *testing.T, s *site) { foreign(t, s, 3) },
		"an older copy is restored, and a stranger takes the lost positions": func(t *testing.T, s *site) {
			older := t.TempDir()
			s.halt(t)
			s.copyStore(t, s.dir, older)
			s.launch(t)
			s.db.grow(log, 5)
			s.arrives(t, log)
			s.halt(t)
			if err := os.RemoveAll(filepath.Join(s.dir, "jetstream")); err != nil {
				t.Fatal(err)
			}
			s.copyStore(t, older, s.dir)
			s.launch(t)
			foreign(t, s, 5)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			s.db.grow(log, 300)
			s.db.grow(brokertest.Log(1), 10)
			s.arrives(t, log)
			spoil(t, s)
			s.db.grow(log, 120)
			s.db.grow(brokertest.Log(1), 10)
			s.arrives(t, log)
			s.arrives(t, brokertest.Log(1))
			late := &site{db: s.db, srv: s.srv, place: map[mainstay.TopicLane]int64{}, moved: make(chan struct{}, 1)}
			late.read(t)
			late.arrives(t, log)
			late.arrives(t, brokertest.Log(1))
		})
	}
}

// TestNATS_AFullStream: the relay says so by name, and goes on by itself when there is room.
func TestNATS_AFullStream(t *testing.T) {
	t.Parallel()
	s, log := newSite(t), brokertest.Log(0)
	s.db.grow(log, 10)
	s.arrives(t, log)
	limit := func(bytes int64) {
		st, err := s.js.Stream(t.Context(), "MAINSTAY")
		if err != nil {
			t.Fatal(err)
		}
		cfg := st.CachedInfo().Config
		cfg.MaxBytes = bytes
		if _, err := s.js.UpdateStream(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
	}
	limit(6 << 10)
	s.db.grow(log, 100)
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for !errors.Is(s.r.Ready(), broker.ErrFull) {
		select {
		case <-again.C:
		case <-t.Context().Done():
			t.Fatalf("ready says %v", s.r.Ready())
		}
	}
	if got := s.r.Ready().Error(); !strings.Contains(got, "orders/0") {
		t.Fatalf("ready says %q, which names no log", got)
	}
	limit(-1)
	s.arrives(t, log)
}

// copyStore copies the server's files.
func (s *site) copyStore(t *testing.T, from, to string) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(from, "jetstream"), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, name), 0o750)
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, name), content, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
}
