package retention

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/mainstay-io/mainstay/internal/clock"
	"github.com/mainstay-io/mainstay/internal/lease"
)

// Report is what a round has done.
type Report struct {
	// Busy says that another process is cleaning: nothing was done.
	Busy bool
	// Removed counts rows by table; of a dry run, what the first step of each task would have removed.
	Removed map[string]int64
	Holds   []Hold
}

// Round gives every task its turn, once. The error is the first one of a task; the other tasks have had their turn all
// the same, unless the lease was lost.
func (c *Cleaner) Round(ctx context.Context) (Report, error) { return c.round(ctx, false) }

// DryRun says what a round would begin with, and removes nothing.
func (c *Cleaner) DryRun(ctx context.Context) (Report, error) { return c.round(ctx, true) }

func (c *Cleaner) round(ctx context.Context, dry bool) (Report, error) {
	got, err := c.cfg.Store.Acquire(ctx, LeaseName, []int{0}, c.cfg.Holder, c.cfg.TTL, c.cfg.Force)
	if err != nil {
		return Report{}, fmt.Errorf("acquiring the lease of cleaning: %w", err)
	}
	if len(got) == 0 {
		return Report{Busy: true}, nil
	}
	began := clock.Start()
	r := &round{c: c, lease: got[0], renewed: began, dry: dry, report: Report{Removed: map[string]int64{}}}
	defer r.release(ctx)
	err = r.tasks(ctx)
	if dry {
		return r.report, err
	}
	c.cfg.Hooks.Round(began.Elapsed(), err)
	if err == nil {
		c.cfg.Hooks.Held(r.report.Holds)
		c.say(ctx, r.report.Holds)
	}
	if len(r.report.Removed) > 0 {
		attrs := []slog.Attr{slog.Duration("took", began.Elapsed())}
		for _, table := range slices.Sorted(maps.Keys(r.report.Removed)) {
			attrs = append(attrs, slog.Int64(table, r.report.Removed[table]))
		}
		c.cfg.Logger.LogAttrs(ctx, slog.LevelInfo, "removed what nobody needs any more", attrs...)
	}
	return r.report, err
}

// round is one turn of all tasks under one lease.
type round struct {
	c       *Cleaner
	lease   lease.Lease
	renewed clock.Mono
	dry     bool
	report  Report
}

func (r *round) tasks(ctx context.Context) error {
	var errs []error
	for _, t := range r.c.tasks {
		turn, had := r.c.turns[t.Name]
		if !r.dry && had && t.Every > 0 && turn.Elapsed() < t.Every && r.c.cursors[t.Name] == "" {
			continue
		}
		err := r.task(ctx, t)
		if err != nil {
			errs = append(errs, fmt.Errorf("cleaning %s: %w", t.Name, err))
		}
		if ctx.Err() != nil || errors.Is(err, lease.ErrFenced) {
			break
		}
	}
	return errors.Join(errs...)
}

// task runs steps until there is nothing more to do or the task's time is over.
func (r *round) task(ctx context.Context, t Task) error {
	c := r.c
	if c.cursors[t.Name] == "" && !r.dry {
		c.turns[t.Name] = clock.Start()
	}
	for began := clock.Start(); ; {
		if err := r.renew(ctx); err != nil {
			return err
		}
		step := clock.Start()
		s := Step{Lease: r.lease, Limits: c.cfg.Limits, Rows: c.cfg.Rows, DryRun: r.dry}
		if !r.dry {
			s.Cursor = c.cursors[t.Name]
		}
		done, err := t.Clean(ctx, s)
		if err != nil {
			return err
		}
		r.note(done)
		if r.dry {
			r.report.Holds = append(r.report.Holds, done.Holds...)
			return nil
		}
		c.cursors[t.Name] = done.Cursor
		if !done.More {
			r.report.Holds = append(r.report.Holds, done.Holds...)
			return nil
		}
		if began.Elapsed() > c.cfg.Budget || !pause(ctx, min(time.Duration(c.cfg.Rest)*step.Elapsed(), 2*time.Second)) {
			return context.Cause(ctx)
		}
	}
}

func (r *round) note(done Result) {
	for table, n := range done.Removed {
		if n == 0 {
			continue
		}
		r.report.Removed[table] += n
		if !r.dry {
			r.c.cfg.Hooks.Removed(table, n)
		}
	}
	if r.dry {
		return
	}
	for table, age := range done.Oldest {
		r.c.cfg.Hooks.Oldest(table, age)
	}
}

func (r *round) renew(ctx context.Context) error {
	if r.renewed.Elapsed() < r.c.cfg.TTL/3 {
		return nil
	}
	kept, err := r.c.cfg.Store.Renew(ctx, r.c.cfg.Holder, []lease.Lease{r.lease}, r.c.cfg.TTL)
	switch {
	case err != nil:
		return fmt.Errorf("renewing the lease of cleaning: %w", err)
	case len(kept) == 0:
		return fmt.Errorf("renewing the lease of cleaning: %w", lease.ErrFenced)
	}
	r.renewed = clock.Start()
	return nil
}

// releaseTimeout bounds giving the lease back, which a process that ends does as its last thing.
const releaseTimeout = 2 * time.Second

func (r *round) release(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	defer cancel()
	if err := r.c.cfg.Store.Release(ctx, r.c.cfg.Holder, []lease.Lease{r.lease}); err != nil {
		r.c.cfg.Logger.WarnContext(ctx, "the lease of cleaning was not released and must run out", "err", err)
	}
}

// sayAgain is how often one hold is worth a line.
const sayAgain = 24 * time.Hour

// say warns of holds, each once a day, and says when one is over.
func (c *Cleaner) say(ctx context.Context, holds []Hold) {
	now := map[[2]string]bool{}
	for _, h := range holds {
		key := [2]string{h.Reason, h.Name}
		now[key] = true
		if at, said := c.said[key]; said && at.Elapsed() < sayAgain {
			continue
		}
		c.said[key] = clock.Start()
		c.cfg.Logger.WarnContext(ctx, "old messages cannot be removed, as they are still needed", "by", h.Reason, "name", h.Name, "overdue", h.For)
	}
	for key := range c.said {
		if !now[key] {
			delete(c.said, key)
			c.cfg.Logger.InfoContext(ctx, "old messages are not held back any more", "by", key[0], "name", key[1])
		}
	}
}
