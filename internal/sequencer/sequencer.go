// Package sequencer numbers what was committed to the outbox: it gives every message the next sequence of its
// (topic, lane), for ever. One sequencer works at a time, under a lease; a second one waits for its turn.
//
// # Guarantees
//
// Exactly the committed messages are numbered, each once, densely from 1 on in its log. Messages of one key, whose
// writers held a common lock when they appended, are numbered in the order of their commits. A transaction that
// stays open delays nobody but itself.
//
// A database with one writer at a time numbers at append and needs no sequencer.
package sequencer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/mainstay-io/mainstay/internal/clock"
	"github.com/mainstay-io/mainstay/internal/lease"
)

// LeaseName is the name of the sequencer's lease; its only lane is 0.
const LeaseName = "sequencer"

// Store is what the sequencer needs of the database.
type Store interface {
	lease.Store
	// Prepare is called once under a new lease and after every error, before the first Round: it makes sure that
	// the database is the one that was numbered so far, and opens a new incarnation where it is a restored or
	// promoted copy. lease.ErrFenced: somebody else has the lease.
	Prepare(ctx context.Context, l lease.Lease) error
	// Round numbers what was committed and not numbered yet, at most a bounded number of messages, in one
	// transaction. More says that there is more at once. lease.ErrFenced: somebody else has the lease; nothing
	// was numbered.
	Round(ctx context.Context, l lease.Lease) (numbered int, more bool, err error)
	// Appended gives a channel that has a value soon after this process has committed messages; signals are
	// coalesced and may be missed. stop ends it.
	Appended() (wake <-chan struct{}, stop func())
}

// Observer is told what happened; nil methods do not exist, all are called from Run.
type Observer interface {
	// Numbered is called after each round that numbered something.
	Numbered(messages int, took time.Duration)
	// Leading is called when the lease is taken and when it is lost.
	Leading(leading bool)
}

// Config says how.
type Config struct {
	// Holder names this process in the lease; it must be unique among those that share the database.
	Holder string
	// TTL is how long the lease lasts without renewal; 10 s by default. It is renewed after a third of it.
	TTL time.Duration
	// Poll is how long an idle sequencer waits for the append of another process; 20 ms by default.
	Poll time.Duration
	// Force takes the lease at once: for a process that knows that it is alone.
	Force    bool
	Observer Observer
	Logger   *slog.Logger
}

func (c *Config) defaults() {
	if c.TTL == 0 {
		c.TTL = 10 * time.Second
	}
	if c.Poll == 0 {
		c.Poll = 20 * time.Millisecond
	}
	if c.Observer == nil {
		c.Observer = silent{}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

type silent struct{}

func (silent) Numbered(int, time.Duration) {}
func (silent) Leading(bool)                {}

// Sequencer is the service. Make it with New and Run it once.
type Sequencer struct {
	store Store
	cfg   Config
	// failures counts errors in a row, for the backoff and for one warning instead of many.
	failures int
}

// New makes a sequencer.
func New(store Store, cfg Config) *Sequencer {
	cfg.defaults()
	return &Sequencer{store: store, cfg: cfg}
}

// Run numbers until ctx ends; then it gives the lease back and answers nil. Errors of the database are waited out.
func (s *Sequencer) Run(ctx context.Context) error {
	wake, stop := s.store.Appended()
	defer stop()
	for ctx.Err() == nil {
		l, err := s.acquire(ctx)
		if err == nil {
			err = s.lead(ctx, l, wake)
		}
		s.settle(ctx, err)
	}
	return nil
}

// settle waits after an error, longer after each further one.
func (s *Sequencer) settle(ctx context.Context, err error) {
	if err == nil || ctx.Err() != nil {
		return
	}
	s.failures++
	if s.failures == 1 && !errors.Is(err, lease.ErrFenced) {
		s.cfg.Logger.WarnContext(ctx, "sequencer is interrupted", "err", err)
	}
	pause(ctx, nil, min(s.cfg.Poll<<min(s.failures, 10), time.Second))
}

// acquire waits for the lease.
func (s *Sequencer) acquire(ctx context.Context) (lease.Lease, error) {
	for {
		got, err := s.store.Acquire(ctx, LeaseName, []int{0}, s.cfg.Holder, s.cfg.TTL, s.cfg.Force)
		if err != nil {
			return lease.Lease{}, fmt.Errorf("acquiring the sequencer's lease: %w", err)
		}
		if len(got) == 1 {
			lease.LogTaken(ctx, s.cfg.Logger, got)
			return got[0], nil
		}
		if !pause(ctx, nil, s.cfg.TTL/10) {
			return lease.Lease{}, context.Cause(ctx)
		}
	}
}

// lead runs rounds until the lease is lost, the database fails or ctx ends.
func (s *Sequencer) lead(ctx context.Context, l lease.Lease, wake <-chan struct{}) error {
	s.cfg.Observer.Leading(true)
	defer s.cfg.Observer.Leading(false)
	defer s.release(ctx, l)
	if err := s.store.Prepare(ctx, l); err != nil {
		return fmt.Errorf("preparing to number: %w", err)
	}
	renewed := clock.Start()
	for ctx.Err() == nil {
		if renewed.Elapsed() > s.cfg.TTL/3 {
			if err := s.renew(ctx, l); err != nil {
				return err
			}
			renewed = clock.Start()
		}
		more, err := s.round(ctx, l)
		if err != nil {
			return err
		}
		if !more {
			pause(ctx, wake, s.cfg.Poll)
		}
	}
	return nil
}

func (s *Sequencer) round(ctx context.Context, l lease.Lease) (more bool, err error) {
	began := clock.Start()
	numbered, more, err := s.store.Round(ctx, l)
	if err != nil {
		return false, fmt.Errorf("numbering: %w", err)
	}
	s.failures = 0
	if numbered > 0 {
		s.cfg.Observer.Numbered(numbered, began.Elapsed())
	}
	return more, nil
}

func (s *Sequencer) renew(ctx context.Context, l lease.Lease) error {
	kept, err := s.store.Renew(ctx, s.cfg.Holder, []lease.Lease{l}, s.cfg.TTL)
	if err != nil {
		return fmt.Errorf("renewing the sequencer's lease: %w", err)
	}
	if len(kept) == 0 {
		return lease.ErrFenced
	}
	return nil
}

// releaseTimeout bounds giving the lease back, which a process that ends does as its last thing.
const releaseTimeout = 2 * time.Second

func (s *Sequencer) release(ctx context.Context, l lease.Lease) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	defer cancel()
	if err := s.store.Release(ctx, s.cfg.Holder, []lease.Lease{l}); err != nil {
		s.cfg.Logger.WarnContext(ctx, "the sequencer's lease was not released and must run out", "err", err)
	}
}

// pause waits for a signal or the time; false when ctx has ended.
func pause(ctx context.Context, wake <-chan struct{}, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-wake:
		return true
	case <-t.C:
		return true
	}
}
