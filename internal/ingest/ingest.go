package ingest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// Errors of Accept that are about the request and not about the database.
var (
	// ErrKeyReused: the key was used for another request; nothing changed.
	ErrKeyReused = errors.New("ingest: the idempotency key was used for another request")
	// ErrInFlight: a request with the key is still being worked on; ask again in a second.
	ErrInFlight = errors.New("ingest: a request with this idempotency key is in flight")
	// ErrOverloaded: as many requests are in flight as are allowed; ask again in a second.
	ErrOverloaded = errors.New("ingest: too many requests are in flight")
	// ErrClosed: the process is stopping.
	ErrClosed = errors.New("ingest: closed")
)

// Config bounds an Ingest. The zero value of a field means its default.
type Config struct {
	// MaxInFlight bounds the requests that wait, followers of a key included; 1024.
	MaxInFlight int
	// MaxGroup bounds the requests of one transaction; 128.
	MaxGroup int
	// Committers is how many groups are committed side by side: 1, which is right for SQLite.
	Committers int
	// FollowFor is how long a request waits for an earlier one with its key; 2 s.
	FollowFor time.Duration
	// CommitWithin bounds one transaction; 10 s.
	CommitWithin time.Duration
	// DrainWithin bounds the commits after Run was asked to stop; 10 s.
	DrainWithin time.Duration
	// Retention is how long a key is kept; 24 h.
	Retention time.Duration
}

func (c Config) withDefaults() Config {
	setDefault(&c.MaxInFlight, 1024)
	setDefault(&c.MaxGroup, 128)
	setDefault(&c.Committers, 1)
	setDefault(&c.FollowFor, 2*time.Second)
	setDefault(&c.CommitWithin, 10*time.Second)
	setDefault(&c.DrainWithin, 10*time.Second)
	setDefault(&c.Retention, 24*time.Hour)
	return c
}

func setDefault[T ~int | ~int64](field *T, value T) {
	if *field <= 0 {
		*field = value
	}
}

// Hooks are told what happens, for metrics. They are called by many goroutines at once and must not block.
type Hooks interface {
	// Answered: a request got its answer; replayed says that it was stored before.
	Answered(replayed bool)
	// Refused: a request got an error; reason is one of a few words (see Reason).
	Refused(reason string)
	// Committed: a transaction over size requests ended after took, with err or without.
	Committed(size int, took time.Duration, err error)
	// InFlight: so many requests are waiting now.
	InFlight(n int)
}

// NoHooks ignores everything.
type NoHooks struct{}

// Answered, Refused, Committed and InFlight do nothing.
func (NoHooks) Answered(bool)                       {}
func (NoHooks) Refused(string)                      {}
func (NoHooks) Committed(int, time.Duration, error) {}
func (NoHooks) InFlight(int)                        {}

// Ingest accepts requests: Accept hands them in, Run commits them. It is safe for concurrent use.
type Ingest struct {
	store Store
	write WriteFunc
	cfg   Config
	hooks Hooks

	work chan struct{} // has a value while something may be pending

	mu      sync.Mutex // guards the fields below
	closed  bool
	waiting int
	pending []*entry
	byKey   map[key]*entry // pending or being committed
}

type key struct{ principal, route, key string }

func keyOf(r *Request) key { return key{r.Principal, r.Route, r.Key} }

// entry is a request on its way. The result fields are written before done is closed and only read after.
type entry struct {
	request *Request
	unsure  bool // an earlier commit of it had no known outcome
	done    chan struct{}

	answer   Answer
	replayed bool
	err      error
}

// New makes an Ingest that keeps its records in store and its items through write. Hooks may be nil.
func New(store Store, write WriteFunc, cfg Config, hooks Hooks) *Ingest {
	if hooks == nil {
		hooks = NoHooks{}
	}
	return &Ingest{
		store: store, write: write, cfg: cfg.withDefaults(), hooks: hooks,
		work:  make(chan struct{}, 1),
		byKey: map[key]*entry{},
	}
}

// Accept commits r and answers with its answer, or with the one that was stored under its key, and says which. It
// blocks until the commit, while Run runs, and changes r.Retention; nothing else may use r any more. When ctx ends it
// returns the cause at once, though r may still be committed: asking again with the same key tells.
//
// Errors are ErrKeyReused, ErrInFlight, ErrOverloaded, ErrClosed, ErrUnavailable, the end of ctx, or the error of the
// write function for this item.
func (in *Ingest) Accept(ctx context.Context, r *Request) (answer Answer, replayed bool, err error) {
	defer func() { in.report(replayed, err) }()
	follow, cancel := context.WithTimeoutCause(ctx, in.cfg.FollowFor, ErrInFlight)
	defer cancel()
	for {
		e, leader, err := in.enter(r)
		if err != nil {
			return Answer{}, false, err
		}
		if leader {
			defer in.leave()
			return e.wait(ctx)
		}
		answer, _, err = e.wait(follow)
		in.leave()
		switch {
		case e.request.Fingerprint == r.Fingerprint:
			return answer, err == nil, err
		case err == nil: // what the key stands for is the other body
			return Answer{}, false, ErrKeyReused
		case follow.Err() != nil:
			return Answer{}, false, context.Cause(follow)
		}
		// The other body was refused, or failed: the key may well stand for this one.
	}
}

func (e *entry) wait(ctx context.Context) (Answer, bool, error) {
	select {
	case <-e.done:
		return e.answer, e.replayed, e.err
	case <-ctx.Done():
		return Answer{}, false, context.Cause(ctx)
	}
}

// enter gives the entry to wait for: a new one, or that of an earlier request with the same key.
func (in *Ingest) enter(r *Request) (_ *entry, leader bool, _ error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	first := in.byKey[keyOf(r)]
	switch {
	case in.closed:
		return nil, false, ErrClosed
	case in.waiting >= in.cfg.MaxInFlight || first == nil && len(in.pending) >= in.cfg.MaxInFlight:
		return nil, false, ErrOverloaded
	}
	in.waiting++
	in.hooks.InFlight(in.waiting)
	if first != nil {
		return first, false, nil
	}
	r.Retention = in.cfg.Retention
	e := &entry{request: r, done: make(chan struct{})}
	in.byKey[keyOf(r)] = e
	in.pending = append(in.pending, e)
	in.signal()
	return e, true, nil
}

func (in *Ingest) leave() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.waiting--
	in.hooks.InFlight(in.waiting)
}

func (in *Ingest) signal() {
	select {
	case in.work <- struct{}{}:
	default:
	}
}

func (in *Ingest) report(replayed bool, err error) {
	if err != nil {
		in.hooks.Refused(Reason(err))
		return
	}
	in.hooks.Answered(replayed)
}

// Reason names the kind of an error of Accept, as a label.
func Reason(err error) string {
	for _, known := range []struct {
		err  error
		name string
	}{
		{ErrKeyReused, "key_reused"},
		{ErrInFlight, "in_flight"},
		{ErrOverloaded, "overloaded"},
		{ErrClosed, "closed"},
		{ErrUnavailable, "unavailable"},
		{context.Canceled, "caller_left"},
		{context.DeadlineExceeded, "caller_left"},
	} {
		if errors.Is(err, known.err) {
			return known.name
		}
	}
	return "failed"
}

// Run commits what is handed in until ctx ends. Then it takes no more, commits what was taken, for DrainWithin at
// most, and returns nil. It is run once; what is still waiting when it returns gets ErrClosed.
func (in *Ingest) Run(ctx context.Context) error {
	drain, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	stop := context.AfterFunc(ctx, func() {
		in.close()
		time.AfterFunc(in.cfg.DrainWithin, func() { cancel(ErrClosed) })
	})
	defer stop()

	var committers errgroup.Group
	for range in.cfg.Committers {
		committers.Go(func() error {
			in.commitUntilClosed(drain)
			return nil
		})
	}
	return committers.Wait()
}

// close stops the intake; the committers go on until nothing is pending.
func (in *Ingest) close() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.closed = true
	in.signal()
}

func (in *Ingest) commitUntilClosed(ctx context.Context) {
	for range in.work {
		group, more, closed := in.take()
		if more || closed {
			in.signal() // for the next committer
		}
		if len(group) > 0 {
			in.commit(ctx, group)
		} else if closed {
			return
		}
	}
}

// take removes a group from what is pending, in key order.
func (in *Ingest) take() (group []*entry, more, closed bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	n := min(len(in.pending), in.cfg.MaxGroup)
	group = slices.Clone(in.pending[:n])
	in.pending = slices.Delete(in.pending, 0, n)
	slices.SortFunc(group, func(a, b *entry) int { return compareKeys(a.request, b.request) })
	return group, len(in.pending) > 0, in.closed
}

// settle tells everybody who waits for e; from now on its key is in the database's care alone.
func (in *Ingest) settle(e *entry) {
	in.mu.Lock()
	delete(in.byKey, keyOf(e.request))
	in.mu.Unlock()
	close(e.done)
}

func (in *Ingest) fail(group []*entry, err error) {
	for _, e := range group {
		e.err = fmt.Errorf("accepting: %w", err)
		in.settle(e)
	}
}
