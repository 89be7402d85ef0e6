// Package natsbroker keeps the logs in one JetStream stream: the log of a topic's lane is the subject
// "<prefix>.<topic>.<lane>", the position of a record its sequence in the stream, and a record a CloudEvent in
// binary mode. It needs server 2.15 or later, embedded or remote.
//
// A publish is exact: what is stored of a log is always a prefix of what was to be stored. Small rounds go as a
// window of single messages, chained by expected sequences so that none lands behind a lost one; large ones as an
// atomic batch (see publish.go).
package natsbroker

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/broker"
)

// Sync says when the server acknowledges, which decides how rounds are sent fastest.
type Sync int

// Values of Sync.
const (
	// SyncAlways: the server syncs its files before it acknowledges.
	SyncAlways Sync = iota
	// SyncLazy: it acknowledges first.
	SyncLazy
)

// Defaults of Config.
const (
	DefaultPrefix     = "mainstay"
	DefaultMaxAge     = 24 * time.Hour
	DefaultAckTimeout = 5 * time.Second
)

// Config says which stream is used and how; the zero value but URL or InProcess is good.
type Config struct {
	// URL is the server's address; InProcess, when not nil, is an embedded server and is used instead.
	URL       string
	InProcess interface{ InProcessConn() (net.Conn, error) }
	// Access is what the connection needs beside the URL.
	Access Access
	// Prefix is the first token of every subject, "mainstay" when empty; Stream the stream's name, the prefix in
	// upper case when empty.
	Prefix string
	Stream string
	// MaxAge and Replicas are for a stream that does not exist yet; 24 h and 1 when zero. One that exists with fewer
	// replicas is warned about.
	MaxAge   time.Duration
	Replicas int
	// Outbox is for how long the outbox keeps messages: a stream that keeps them longer is refused. 0 is not known.
	Outbox time.Duration
	// Sync must say how the server is configured; it is not the promise that depends on it but the speed.
	Sync Sync
	// Origin names the database in every record that is published, unless it is empty.
	Origin string
	// Lanes is how many the database has. All databases of one stream have as many; 0 does not check it.
	Lanes int
	// AckTimeout bounds the wait for the acknowledgement of one round, 5 s when zero.
	AckTimeout time.Duration
	// Logger gets what healed itself; nil means none.
	Logger *slog.Logger
}

// Broker is a broker.Broker over one connection, for any number of goroutines.
type Broker struct {
	cfg    Config
	nc     *nats.Conn
	js     jetstream.JetStream
	log    *slog.Logger
	denied *denials

	publishing chan struct{} // holds one token; publishes come one at a time
	// The following are guarded by publishing.
	chain   chain
	records encoder
	known   map[mainstay.TopicLane]string // subjects
	name    string                        // begins the names of batches
	batches int64

	skipped atomic.Int64
	stop    context.CancelFunc
	stopped context.Context //nolint:containedctx // ends subscriptions when the broker is closed
	subs    sync.WaitGroup

	mu      sync.Mutex
	stream  jetstream.Stream // a shared handle for reading records; nil when it must be looked up
	lookups int64            // how often it was looked up
	keep    time.Duration    // its max_age
	// maxMessage is its max_msg_size; nothing positive is no limit.
	maxMessage int64
	closed     bool
}

// Open connects, and creates the stream or checks the one that exists: settings that would break the promise are
// refused by name, those that weaken it are logged. It blocks on the network until ctx ends. An error is one of
// ErrAccess, ErrTLS, ErrForbidden, ErrServer and SettingsError where the reason is known.
func Open(ctx context.Context, cfg Config) (*Broker, error) {
	cfg = withDefaults(cfg)
	denied := &denials{}
	nc, err := connect(cfg, denied)
	if err != nil {
		return nil, fmt.Errorf("connecting to NATS: %w", err)
	}
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncTimeout(cfg.AckTimeout), jetstream.WithPublishAsyncMaxPending(4*maxRound))
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("opening JetStream: %w", err)
	}
	stopped, stop := context.WithCancel(context.Background())
	b := &Broker{
		cfg: cfg, nc: nc, js: js, log: cfg.Logger, denied: denied, stop: stop, stopped: stopped, publishing: make(chan struct{}, 1),
		known: map[mainstay.TopicLane]string{}, name: rand.Text()[:16],
	}
	err = patiently(ctx, denied, func(ctx context.Context) error {
		_, err := b.currentStream(ctx)
		return err
	})
	if err != nil {
		_ = b.Close()
		return nil, streamError(denied.explain(err))
	}
	return b, nil
}

func withDefaults(cfg Config) Config {
	if cfg.Prefix == "" {
		cfg.Prefix = DefaultPrefix
	}
	if cfg.Stream == "" {
		cfg.Stream = strings.ToUpper(cfg.Prefix)
	}
	if cfg.MaxAge == 0 {
		cfg.MaxAge = DefaultMaxAge
	}
	if cfg.Replicas == 0 {
		cfg.Replicas = 1
	}
	if cfg.AckTimeout == 0 {
		cfg.AckTimeout = DefaultAckTimeout
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return cfg
}

// Skipped counts the records that were not readable and were stepped over.
func (b *Broker) Skipped() int64 { return b.skipped.Load() }

// Generation implements broker.Publisher: it counts reconnections, and looking the stream up anew.
func (b *Broker) Generation() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.lookups + int64(b.nc.Stats().Reconnects) //nolint:gosec // far below 2^63
}

// Keep is for how long the stream keeps a message; 0 is for ever.
func (b *Broker) Keep() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.keep
}

// Ready implements broker.Broker. A stream whose settings were changed since so that they would break the promise is
// not ready, either.
func (b *Broker) Ready(ctx context.Context) error {
	if err := b.usable(); err != nil {
		return err
	}
	st, err := b.freshStream(ctx)
	if err != nil {
		return b.denied.explain(err)
	}
	_, wrong := b.check(st.CachedInfo().Config)
	return wrong
}

// Close implements broker.Broker. It ends all subscriptions and waits for them.
func (b *Broker) Close() error {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.stop()
	b.subs.Wait()
	// This ends the publisher, too. To clean that up before would leave its goroutine behind, where it has not run yet.
	b.nc.Close()
	return nil
}

func (b *Broker) isClosed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.closed
}

// usable answers at once what every call would find out by a timeout.
func (b *Broker) usable() error {
	if b.isClosed() {
		return broker.ErrClosed
	}
	if b.nc.IsConnected() {
		return nil
	}
	err := fmt.Errorf("NATS is not reachable (%s)", strings.ToLower(b.nc.Status().String()))
	if last := b.nc.LastError(); last != nil {
		err = fmt.Errorf("%w: %w", err, connectError(last))
	}
	return err
}

// Tail implements broker.Publisher.
func (b *Broker) Tail(ctx context.Context, log mainstay.TopicLane) (broker.Tail, error) {
	return b.look(ctx, log, func(st jetstream.Stream) (*jetstream.RawStreamMsg, error) {
		return st.GetLastMsgForSubject(ctx, b.subject(log))
	})
}

// At implements broker.Publisher.
func (b *Broker) At(ctx context.Context, log mainstay.TopicLane, position int64) (broker.Tail, error) {
	if position < 1 {
		return broker.Tail{}, nil
	}
	return b.look(ctx, log, func(st jetstream.Stream) (*jetstream.RawStreamMsg, error) {
		return st.GetMsg(ctx, uint64(position)) //nolint:gosec // above zero
	})
}

// look reads what a record of the log says of itself.
func (b *Broker) look(ctx context.Context, log mainstay.TopicLane, get func(jetstream.Stream) (*jetstream.RawStreamMsg, error)) (broker.Tail, error) {
	if err := b.usable(); err != nil {
		return broker.Tail{}, err
	}
	st, err := b.currentStream(ctx)
	if err != nil {
		return broker.Tail{}, err
	}
	raw, err := get(st)
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return broker.Tail{}, nil
	case streamIsGone(err):
		b.forgetStream()
		_, err = b.currentStream(ctx)
		return broker.Tail{}, err
	case err != nil:
		return broker.Tail{}, fmt.Errorf("looking at a record of %s/%d: %w", log.Topic, log.Lane, err)
	case raw.Subject != b.subject(log):
		return broker.Tail{}, nil
	}
	r := b.record(log, raw)
	return broker.Tail{Incarnation: r.incarnation, Sequence: r.sequence, MessageID: r.id, Position: r.position, Origin: r.origin}, nil
}

var topicForm = regexp.MustCompile(`^[a-z0-9-]{1,64}$`)

func (b *Broker) subject(log mainstay.TopicLane) string {
	return b.cfg.Prefix + "." + log.Topic + "." + strconv.Itoa(log.Lane)
}

// skip counts and reports a record that is not readable: the first one, and then ever more rarely.
func (b *Broker) skip(ctx context.Context, subject string, position uint64, err error) {
	if n := b.skipped.Add(1); n&(n-1) == 0 {
		b.log.WarnContext(ctx, "stepped over a record that is not one of ours", slog.String("subject", subject),
			slog.Uint64("position", position), slog.Int64("skipped", n), slog.Any("err", err))
	}
}
