package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/clock"
)

// Stage says when a service is stopped: all of a stage have ended before the next one is stopped.
type Stage int

// Stages, in the order in which they stop.
const (
	// Intake takes work from outside: HTTP servers.
	Intake Stage = iota
	// Work does what was taken: workers, sagas.
	Work
	// Output carries away what the work has left behind: sequencer, relay.
	Output
	// Probes answer until the very end: the server of /livez, /readyz and /metrics.
	Probes
	stages
)

// Service is one long-running part of a process.
type Service struct {
	// Name is how errors and logs name it.
	Name  string
	Stage Stage
	// Run blocks until ctx ends and then returns nil or the error of ctx; it returns earlier only when it cannot go
	// on. The cause of ctx is mainstay.ErrShutdown.
	Run func(ctx context.Context) error
	// Drain, when it is set, asks the service to take nothing new and blocks until what it has is done, or ctx ends.
	// Run's own context ends after it.
	Drain func(ctx context.Context) error
}

// Group runs the services of a process together and stops them in order. It is used by one goroutine.
type Group struct {
	log      *slog.Logger
	health   *Health
	grace    time.Duration
	services []Service
	closers  []closer
}

type closer struct {
	name  string
	close func(ctx context.Context) error
}

// NewGroup makes an empty group that stops within the grace period. Health says "stopping" from the first moment of
// the shutdown on.
func NewGroup(log *slog.Logger, health *Health, grace time.Duration) *Group {
	return &Group{log: log, health: health, grace: grace}
}

// Add adds a service; it starts with Run.
func (g *Group) Add(s Service) { g.services = append(g.services, s) }

// Opened says that something was opened, and how to close it. Things are closed in the reverse order: open the
// database, then the broker, and the broker is closed first.
func (g *Group) Opened(name string, closeIt func(ctx context.Context) error) {
	g.closers = append(g.closers, closer{name: name, close: closeIt})
}

// Close closes what was opened, for a start that failed before Run; after Run it does nothing.
func (g *Group) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), g.grace)
	defer cancel()
	return g.closeAll(ctx)
}

// Run runs the services until ctx ends or one of them does, stops all in order and closes what was opened. It
// answers nil when everything ended as asked. A service that ends by itself, or panics, is an error; so is one that
// has not ended when the grace period is over: its name is in the error, and it is left behind.
func (g *Group) Run(ctx context.Context) error {
	r := newRun(g.services)
	defer r.cancelAll()
	r.start(context.WithoutCancel(ctx))

	var errs []error
	select {
	case <-ctx.Done():
		g.log.InfoContext(ctx, "stopping", "grace", g.grace)
	case u := <-r.early:
		errs = append(errs, u.endError())
		g.log.ErrorContext(ctx, "stopping, as a service has ended", "service", u.Name, "err", u.endError())
	}
	took := clock.Start()
	if g.health != nil {
		g.health.Stop()
	}
	hard, cancel := context.WithTimeout(context.WithoutCancel(ctx), g.grace)
	defer cancel()
	errs = append(errs, r.stop(hard, g.grace)...)
	if err := r.leftBehind(g.grace); err != nil {
		errs = append(errs, err)
	}
	errs = append(errs, g.closeAll(hard))
	err := errors.Join(errs...)
	if err == nil {
		g.log.InfoContext(ctx, "stopped", "took", took.Elapsed().Round(time.Millisecond))
	}
	return err
}

func (g *Group) closeAll(ctx context.Context) error {
	var errs []error
	for _, c := range slices.Backward(g.closers) {
		if err := c.close(ctx); err != nil {
			errs = append(errs, fmt.Errorf("closing the %s: %w", c.name, err))
		}
	}
	g.closers = nil
	return errors.Join(errs...)
}

// run is one run of a group's services.
type run struct {
	units []*unit
	early chan *unit // the first unit that ended
}

type unit struct {
	Service
	cancel context.CancelCauseFunc
	done   chan struct{}
	err    error // may be read when done is closed, or from early
	told   bool  // err is in the group's answer already
}

// endError is why a unit ended that nobody had asked to.
func (u *unit) endError() error {
	u.told = true
	if u.err == nil {
		return fmt.Errorf("%s ended without being asked to", u.Name)
	}
	return fmt.Errorf("%s: %w", u.Name, u.err)
}

func newRun(services []Service) *run {
	r := &run{early: make(chan *unit, 1)}
	for _, s := range services {
		r.units = append(r.units, &unit{Service: s, done: make(chan struct{})})
	}
	return r
}

func (r *run) start(ctx context.Context) {
	for _, u := range r.units {
		unitCtx, cancel := context.WithCancelCause(ctx)
		u.cancel = cancel
		go func() {
			defer close(u.done)
			u.err = runSafely(unitCtx, u.Run)
			select {
			case r.early <- u:
			default:
			}
		}()
	}
}

// runSafely turns a panic into an error, so that the other services stop in order.
func runSafely(ctx context.Context, run func(context.Context) error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &mainstay.PanicError{Value: v, Stack: debug.Stack()}
		}
	}()
	return run(ctx)
}

func (r *run) cancelAll() {
	for _, u := range r.units {
		u.cancel(mainstay.ErrShutdown)
	}
}

// stop stops stage by stage. Draining may take three quarters of the grace period in all; the rest is for what comes
// after it.
func (r *run) stop(hard context.Context, grace time.Duration) []error {
	soft, cancel := context.WithTimeout(hard, grace-grace/4)
	defer cancel()
	var errs []error
	for stage := range stages {
		units := r.of(stage)
		errs = append(errs, drain(soft, units)...)
		for _, u := range units {
			u.cancel(mainstay.ErrShutdown)
		}
		for _, u := range units {
			select {
			case <-u.done:
				errs = append(errs, u.stopError())
			case <-hard.Done():
			}
		}
	}
	return errs
}

func (r *run) of(stage Stage) []*unit {
	var units []*unit
	for _, u := range r.units {
		if u.Stage == stage {
			units = append(units, u)
		}
	}
	return units
}

// drain drains the units of a stage side by side. That time ran out is no error: what was left is cancelled and
// finds its way after the next start.
func drain(soft context.Context, units []*unit) []error {
	errs := make([]error, len(units))
	var wg sync.WaitGroup
	for i, u := range units {
		if u.Drain == nil {
			continue
		}
		wg.Go(func() {
			err := runSafely(soft, u.Drain)
			if err != nil && soft.Err() == nil {
				errs[i] = fmt.Errorf("draining the %s: %w", u.Name, err)
			}
		})
	}
	finished := make(chan struct{})
	go func() { wg.Wait(); close(finished) }()
	select {
	case <-finished:
		return errs
	case <-soft.Done():
		return nil
	}
}

// stopError is what a unit answered that was asked to stop; the end of its context is no error.
func (u *unit) stopError() error {
	if u.told || u.err == nil || errors.Is(u.err, context.Canceled) || errors.Is(u.err, mainstay.ErrShutdown) {
		return nil
	}
	return fmt.Errorf("stopping: %s: %w", u.Name, u.err)
}

func (r *run) leftBehind(grace time.Duration) error {
	var names []string
	for _, u := range r.units {
		select {
		case <-u.done:
		default:
			names = append(names, u.Name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	return Errorf(ExitError, "Nothing that was accepted is lost: it goes on after the next start. A longer --shutdown-grace gives it more time.",
		"not stopped within %v: %s", grace, strings.Join(names, ", "))
}
