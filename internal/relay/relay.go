// Package relay moves the log to the broker: it reads what was numbered, publishes it in order, and records how far
// it came. The lanes are shared between relay processes by leases.
//
// A relay that was paused past its leases can only repeat what is in the log: its publishes are refused by the
// expected position, or are duplicates, and its progress is fenced. The broker's copy may lose messages; the relay
// compares it with its record (at the start, after every failure, every few seconds) and publishes again from where the
// two agree, by a second cursor that takes turns with new messages.
package relay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/broker"
	"github.com/mainstay-io/mainstay/internal/clock"
	"github.com/mainstay-io/mainstay/internal/history"
	"github.com/mainstay-io/mainstay/internal/lease"
)

// leaseName is the name of the relay's leases.
const leaseName = "relay"

// Defaults of Config.
const (
	DefaultTTL   = 10 * time.Second
	DefaultPoll  = time.Second
	DefaultCheck = 3 * time.Second
	DefaultBatch = 1000
	DefaultCall  = 10 * time.Second
	// DefaultRecord bounds how much a relay that was killed leaves to its successor to find out.
	DefaultRecord = 100 * time.Millisecond
)

// Backoff after a failure, of the relay or of one log.
const (
	minBackoff = 20 * time.Millisecond
	maxBackoff = 5 * time.Second
)

// Config is what a relay needs; zero durations and sizes mean the defaults.
type Config struct {
	Store  Store
	Leases lease.Sharing
	Broker broker.Publisher
	// Holder names this process among those that share the lanes; Lanes is how many there are.
	Holder string
	Lanes  int
	// Origin names the database in what it publishes; empty means that nobody is to be told apart.
	Origin string
	// ForceLeases takes every lane at once: for a process that knows that it is alone.
	ForceLeases bool
	// TTL is how long a lease lives without being renewed; Poll how often the log is looked at without a wake-up;
	// Check how often the tails of idle logs are; Call the timeout of every call outside.
	// Record is for how long what was published may wait to be recorded; a successor learns of it from the broker's tail.
	TTL, Poll, Check, Call, Record time.Duration
	// Keep is for how long the broker keeps a message; 0 is for ever. A log whose last message is older may be empty.
	Keep time.Duration
	// Batch is the most messages of one round.
	Batch  int
	Logger *slog.Logger
	Clock  clock.Clock
	Hooks  Hooks
}

// Hooks are told what the relay does, for metrics. Calls come from one goroutine and must not block.
type Hooks interface {
	// Published: n messages were acknowledged and recorded.
	Published(n int)
	// Refilled: n of them had been published before.
	Refilled(n int)
	// Round: reading, publishing and recording took so long.
	Round(took time.Duration)
	// OldestUnpublished is the age of the oldest message that the broker does not have yet; 0 when it has all.
	OldestUnpublished(age time.Duration)
	// Lanes is how many lanes this relay holds.
	Lanes(n int)
}

// Relay is one relay process; New makes it and Run runs it once.
type Relay struct {
	cfg     Config
	leases  map[int]lease.Lease
	member  *lease.Member
	shared  clock.Mono // since the last turn of the member
	checked clock.Mono
	// past is the database's history, as of seamed; sure says that nothing has failed since.
	past   history.Seam
	seamed clock.Mono
	sure   bool
	// generation is the broker's at the last look.
	generation int64
	logs       map[mainstay.TopicLane]*cursor
	// refused are the ids that get a marker in their place.
	refused map[string]bool
	// unrecorded is what was published and is not saved yet, the oldest of it since unrecordedSince.
	unrecorded      map[mainstay.TopicLane]Progress
	unrecordedSince clock.Mono
	// ahead is the next round, which is read while this one is published; nil when there is none.
	ahead *ahead
	// hopeless says of logs what no incarnation explains.
	hopeless map[mainstay.TopicLane]string
	// asked says that somebody has asked for a refill.
	asked atomic.Bool

	mu      sync.Mutex
	problem error
}

// cursor is where the relay stands in one log.
type cursor struct {
	// compared says that after and position were taken from the broker's tail; else the log is compared first.
	compared bool
	// after is the highest sequence that was published, of an incarnation.
	after, incarnation int64
	// position is where the broker keeps its last record of the log, id the message in it.
	position int64
	id       string
	// second is nil when nothing is published again.
	second *second
	// apart: the log is published alone, until that has succeeded once.
	apart bool
	// failures counts those in a row; after the last, at failed, the log waits for pause.
	failures int
	failed   clock.Mono
	pause    time.Duration
	// behind is since when there is something to publish; zero when there is nothing.
	behind time.Time
	err    error
}

// New makes a relay.
func New(cfg Config) *Relay {
	cfg.TTL = cmp.Or(cfg.TTL, DefaultTTL)
	cfg.Poll = cmp.Or(cfg.Poll, DefaultPoll)
	cfg.Check = cmp.Or(cfg.Check, DefaultCheck)
	cfg.Call = cmp.Or(cfg.Call, DefaultCall)
	cfg.Batch = cmp.Or(cfg.Batch, DefaultBatch)
	cfg.Record = cmp.Or(cfg.Record, DefaultRecord)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.System
	}
	if cfg.Hooks == nil {
		cfg.Hooks = noHooks{}
	}
	member := &lease.Member{
		Store: cfg.Leases, Name: leaseName, Holder: cfg.Holder, Lanes: cfg.Lanes, TTL: cfg.TTL, Alone: cfg.ForceLeases,
	}
	return &Relay{
		cfg: cfg, member: member, leases: map[int]lease.Lease{}, logs: map[mainstay.TopicLane]*cursor{}, refused: map[string]bool{},
		unrecorded: map[mainstay.TopicLane]Progress{}, hopeless: map[mainstay.TopicLane]string{},
		problem: errors.New("the relay has not compared log and broker yet"),
	}
}

// Run moves messages until ctx ends, and gives the leases back then. It answers nil: whatever fails is tried again.
func (r *Relay) Run(ctx context.Context) error {
	wake, stop := r.cfg.Store.Wake()
	defer stop()
	defer r.leave(context.WithoutCancel(ctx))
	defer func() { r.ahead.wait() }()
	failures := 0
	for ctx.Err() == nil {
		more, err := r.turn(ctx)
		if ctx.Err() != nil {
			return nil
		}
		r.report(ctx, err)
		switch {
		case err != nil:
			r.sure = false
			failures++
			pause(ctx, backoff(failures), nil)
		case more:
			failures = 0
		default:
			failures = 0
			pause(ctx, r.untilNext(), wake)
		}
	}
	return nil
}

// Ready answers nil when the last turn went well, else what is wrong in words for an operator.
func (r *Relay) Ready() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.problem
}

// turn keeps the leases, and moves every log that has something and is not waiting; more says that there may be
// more at once.
func (r *Relay) turn(ctx context.Context) (more bool, err error) {
	if err := r.keepLeases(ctx); err != nil {
		return false, err
	}
	if err := r.seam(ctx); err != nil {
		return false, err
	}
	if err := r.keepRecord(ctx); err != nil {
		return false, err
	}
	heads, err := r.heads(ctx)
	if err != nil {
		return false, err
	}
	r.reconnected()
	if err := r.check(ctx, heads); err != nil {
		return false, err
	}
	if err := r.compare(ctx, heads); err != nil {
		return false, err
	}
	if more, err = r.again(ctx); err != nil {
		return false, err
	}
	for _, group := range r.groups(heads) {
		left, err := r.move(ctx, group, heads)
		if err != nil {
			return false, err
		}
		more = more || left
	}
	return more, nil
}

// heads are the last sequences of the logs whose lanes this relay holds; each has a cursor afterwards.
func (r *Relay) heads(ctx context.Context) (map[mainstay.TopicLane]int64, error) {
	if len(r.leases) == 0 {
		return nil, nil
	}
	ctx, cancel := r.call(ctx, "reading the heads of the logs")
	defer cancel()
	all, err := r.cfg.Store.Heads(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the heads of the logs: %w", err)
	}
	mine := make(map[mainstay.TopicLane]int64, len(all))
	for log, head := range all {
		if _, held := r.leases[log.Lane]; !held {
			continue
		}
		mine[log] = head
		if r.logs[log] == nil {
			r.logs[log] = &cursor{}
		}
	}
	return mine, nil
}

// report remembers what is wrong and tells the hooks.
func (r *Relay) report(ctx context.Context, err error) {
	now, oldest := r.cfg.Clock(), time.Duration(0)
	for log, c := range r.logs {
		if !c.behind.IsZero() {
			oldest = max(oldest, now.Sub(c.behind))
		}
		if err == nil && c.err != nil {
			err = fmt.Errorf("publishing %s/%d: %w", log.Topic, log.Lane, c.err)
		}
	}
	r.cfg.Hooks.OldestUnpublished(oldest)
	r.cfg.Hooks.Lanes(len(r.leases))
	r.mu.Lock()
	began, before := err != nil && r.problem == nil, r.problem
	r.problem = err
	r.mu.Unlock()
	if began {
		r.cfg.Logger.WarnContext(ctx, "the relay cannot publish", slog.Any("err", err))
	}
	if err == nil && before != nil {
		r.cfg.Logger.DebugContext(ctx, "the relay publishes")
	}
}

// untilNext is how long to wait for a wake-up: until the next poll, the end of a log's backoff, or the next record.
func (r *Relay) untilNext() time.Duration {
	wait := min(r.cfg.Poll, lease.TurnEvery(r.cfg.TTL))
	if len(r.unrecorded) > 0 {
		wait = min(wait, max(r.cfg.Record-r.unrecordedSince.Elapsed(), time.Millisecond))
	}
	for _, c := range r.logs {
		if c.failures > 0 {
			wait = min(wait, max(c.pause-c.failed.Elapsed(), time.Millisecond))
		}
	}
	return wait
}

// call bounds a call outside.
func (r *Relay) call(ctx context.Context, what string) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, r.cfg.Call, fmt.Errorf("%s takes longer than %v", what, r.cfg.Call))
}

// backoff is the pause after so many failures in a row, with jitter.
func backoff(failures int) time.Duration {
	d := maxBackoff
	if failures < 9 {
		d = min(d, minBackoff<<(failures-1))
	}
	return d/2 + rand.N(d/2+1)
}

// pause waits for d, a wake-up, or ctx.
func pause(ctx context.Context, d time.Duration, wake <-chan struct{}) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-wake:
	case <-ctx.Done():
	}
}

type noHooks struct{}

func (noHooks) Published(int)                   {}
func (noHooks) Refilled(int)                    {}
func (noHooks) Round(time.Duration)             {}
func (noHooks) OldestUnpublished(time.Duration) {}
func (noHooks) Lanes(int)                       {}
