// Package retention removes what nobody needs any more: messages of the outbox and their log, expired idempotency
// records, ended cases of dead letters, ended sagas with their history and outcomes, and what else a process gives it
// a task for. It also makes the outbox's room for the days to come.
//
// # Guarantees
//
// Nothing is removed before its time, and nothing that a registered consumer, the relay, a refill, a parked message, an
// open dead letter or a running saga still needs, however old it is: that stays, and a metric and a warning name who needs
// it. What was removed is written down in the transaction that removes it, so that nobody takes it for lost.
//
// One process cleans at a time, under a lease. It works in short transactions, and rests between them for longer than
// they took: those who serve do not notice it.
package retention

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/mainstay-io/mainstay/internal/clock"
	"github.com/mainstay-io/mainstay/internal/lease"
)

// LeaseName is the name of the cleaner's lease; its only lane is 0.
const LeaseName = "retention"

// Limits say for how long things are kept, at least; 0 is for ever.
type Limits struct {
	// Outbox is the age of messages.
	Outbox time.Duration
	// History is the time since the end of a saga, or of a dead letter's case.
	History time.Duration
	// Barrier is the age of a step's outcome whose saga is in another database.
	Barrier time.Duration
	// Published says that a relay publishes the outbox, also where none has published anything yet.
	Published bool
}

// Step is one bounded piece of a task's work.
type Step struct {
	// Lease is checked in the step's transaction.
	Lease  lease.Lease
	Limits Limits
	// Rows is how many rows of its table are removed or looked at, at most.
	Rows int
	// Cursor is where a task that walks its whole table goes on, "" at the beginning.
	Cursor string
	// DryRun removes nothing: the transaction is rolled back.
	DryRun bool
}

// Result is what a step has done.
type Result struct {
	// Removed counts rows by table.
	Removed map[string]int64
	// More says that there is more to do at once; Cursor is the next step's.
	More   bool
	Cursor string
	// Holds say who keeps things from being removed.
	Holds []Hold
	// Oldest is the age of the oldest row that is kept, by table, where it is known.
	Oldest map[string]time.Duration
}

// Reasons of holds.
const (
	HeldByConsumer    = "consumer"    // a registered consumer has not handled the messages; Name is the consumer
	HeldByRelay       = "relay"       // the relay has not published the messages; Name is the topic
	HeldByRefill      = "refill"      // the broker is being filled again with the messages; Name is the topic
	HeldByTransaction = "transaction" // a transaction that wrote to or read from the outbox is still open
	HeldBySequencer   = "sequencer"   // messages are not numbered yet
)

// Hold is a reason why messages stay that are old enough to go.
type Hold struct {
	Reason, Name string
	// For is for how long they have been old enough.
	For time.Duration
}

// Task cleans one table, or several that belong together.
type Task struct {
	Name string
	// Every is how often the task has its turn; 0 is every round. It is for tasks that walk their whole table.
	Every time.Duration
	// Clean does one step in one short transaction. lease.ErrFenced: the lease was lost, and nothing was removed.
	Clean func(ctx context.Context, s Step) (Result, error)
}

// Store is what the cleaner needs of the database. Each Clean method is a Task's.
type Store interface {
	lease.Store
	// MakeRoom makes sure that messages can be written for days to come, and answers until when there is room: zero
	// for ever. Until is right also beside an error. It may be repeated, and run in several processes.
	MakeRoom(ctx context.Context) (until time.Time, err error)
	// CleanOutbox removes old messages with their rows of the log.
	CleanOutbox(ctx context.Context, s Step) (Result, error)
	// CleanIdempotency removes records that have expired.
	CleanIdempotency(ctx context.Context, s Step) (Result, error)
	// CleanDeadLetters removes cases that have ended and whose messages have left the outbox.
	CleanDeadLetters(ctx context.Context, s Step) (Result, error)
	// CleanSagas removes ended sagas whose messages have left the outbox, with their history and their steps'
	// outcomes. A saga that a person has decided a step of stays.
	CleanSagas(ctx context.Context, s Step) (Result, error)
	// CleanBarrier walks the steps' outcomes and removes old ones that have no saga here.
	CleanBarrier(ctx context.Context, s Step) (Result, error)
}

// Hooks are told what happened; all are called by the goroutine that cleans.
type Hooks interface {
	// Removed counts rows that were removed of a table.
	Removed(table string, rows int64)
	// Round is called after each round that was this process's.
	Round(took time.Duration, err error)
	// Held replaces what was held before.
	Held(holds []Hold)
	// Oldest is the age of the oldest row that is kept.
	Oldest(table string, age time.Duration)
	// Room is for how long the outbox has room; negative: for ever.
	Room(left time.Duration)
}

// Config says how. Store, Holder and Limits are needed; the rest has defaults.
type Config struct {
	Store  Store
	Holder string
	Limits Limits
	// Tasks are the process's own, beside those of the store.
	Tasks []Task
	// Interval is the time between rounds, give or take a fifth; 10 min by default.
	Interval time.Duration
	// Budget is how long a task may take in a round; 1 min by default. What is left waits for the next round.
	Budget time.Duration
	// Rows bounds a step; 500 by default.
	Rows int
	// Rest is how many times as long as a step took nothing is done after it; 4 by default.
	Rest int
	// TTL is how long the lease lasts without renewal; 2 min by default.
	TTL time.Duration
	// Force takes the lease at once: for a process that knows that it is alone.
	Force  bool
	Hooks  Hooks
	Logger *slog.Logger
	Clock  clock.Clock
}

func (c *Config) defaults() {
	if c.Interval == 0 {
		c.Interval = 10 * time.Minute
	}
	if c.Budget == 0 {
		c.Budget = time.Minute
	}
	if c.Rows == 0 {
		c.Rows = 500
	}
	if c.Rest == 0 {
		c.Rest = 4
	}
	if c.TTL == 0 {
		c.TTL = 2 * time.Minute
	}
	if c.Hooks == nil {
		c.Hooks = silent{}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Clock == nil {
		c.Clock = clock.System
	}
}

type silent struct{}

func (silent) Removed(string, int64)        {}
func (silent) Round(time.Duration, error)   {}
func (silent) Held([]Hold)                  {}
func (silent) Oldest(string, time.Duration) {}
func (silent) Room(time.Duration)           {}

// Cleaner is the service. Make it with New and Run it once.
type Cleaner struct {
	cfg   Config
	tasks []Task
	// Run's own: when a task had its last turn, where it goes on, and which holds were said when.
	turns   map[string]clock.Mono
	cursors map[string]string
	said    map[[2]string]clock.Mono

	mu   sync.Mutex
	room error // why there is too little room; nil when there is enough
}

// walk is how often tasks begin to walk their whole table.
const walk = 24 * time.Hour

// New makes a cleaner.
func New(cfg Config) *Cleaner {
	cfg.defaults()
	s := cfg.Store
	return &Cleaner{
		cfg: cfg, turns: map[string]clock.Mono{}, cursors: map[string]string{}, said: map[[2]string]clock.Mono{},
		tasks: append([]Task{
			{Name: "outbox", Clean: s.CleanOutbox},
			{Name: "idempotency", Clean: s.CleanIdempotency},
			{Name: "dead_letter", Clean: s.CleanDeadLetters},
			{Name: "saga", Clean: s.CleanSagas},
			{Name: "barrier", Every: walk, Clean: s.CleanBarrier},
		}, cfg.Tasks...),
	}
}

// Run makes room and cleans now and then until ctx ends; then it answers nil. Errors are logged and waited out.
func (c *Cleaner) Run(ctx context.Context) error {
	for {
		c.makeRoom(ctx)
		if !pause(ctx, c.jittered()) {
			return nil
		}
		if _, err := c.Round(ctx); err != nil && ctx.Err() == nil {
			c.cfg.Logger.WarnContext(ctx, "cleaning was interrupted, going on with the next round", "err", err)
		}
	}
}

// jittered keeps processes that were started together apart.
func (c *Cleaner) jittered() time.Duration {
	fifth := int64(c.cfg.Interval / 5)
	return c.cfg.Interval + time.Duration(rand.Int64N(2*fifth+1)-fifth)
}

// enough is for how long the outbox must have room.
const enough = 24 * time.Hour

func (c *Cleaner) makeRoom(ctx context.Context) {
	until, err := c.cfg.Store.MakeRoom(ctx)
	if ctx.Err() != nil {
		return
	}
	left := time.Duration(-1)
	if !until.IsZero() {
		left = max(0, until.Sub(c.cfg.Clock()))
	}
	if err != nil {
		c.cfg.Logger.WarnContext(ctx, "the outbox's room for the days to come could not be made, trying again", "until", until, "err", err)
	}
	if err == nil || !until.IsZero() {
		c.cfg.Hooks.Room(left)
	}
	var low error
	switch {
	case until.IsZero():
		low = err
	case left < enough:
		low = fmt.Errorf("messages can be written until %s only, their partitions of the outbox end there", until.UTC().Format(time.RFC3339))
		low = errors.Join(low, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.room = low
}

// Ready answers nil unless messages cannot be written for another day: then it says until when, and why.
func (c *Cleaner) Ready() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.room
}

// pause waits; false when ctx has ended.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
