package app_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/app"
)

// journal records what happens, in order.
type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) add(line string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, line)
}

func (j *journal) all() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.lines
}

// service runs until it is told to stop, and records that, with the cause.
func (j *journal) service(name string, stage app.Stage) app.Service {
	return app.Service{
		Name: name, Stage: stage,
		Run: func(ctx context.Context) error {
			<-ctx.Done()
			j.add(name + " cancelled: " + context.Cause(ctx).Error())
			return ctx.Err()
		},
		Drain: func(context.Context) error { j.add(name + " drained"); return nil },
	}
}

func newGroup(grace time.Duration) (*app.Group, *app.Health) {
	h := app.NewHealth(slog.New(slog.DiscardHandler))
	h.Start()
	return app.NewGroup(slog.New(slog.DiscardHandler), h, grace), h
}

func closing(j *journal, name string) func(context.Context) error {
	return func(context.Context) error { j.add("closed " + name); return nil }
}

func TestGroup_StopsInOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var j journal
		g, h := newGroup(20 * time.Second)
		g.Opened("database", closing(&j, "database"))
		g.Opened("broker", closing(&j, "broker"))
		g.Add(j.service("relay", app.Output))
		g.Add(j.service("workers", app.Work))
		g.Add(j.service("probes", app.Probes))
		ingest := j.service("ingest", app.Intake)
		ingest.Drain = func(ctx context.Context) error {
			ready, results := h.State(ctx)
			j.add("ingest drained")
			if ready || results[0].Reason != "stopping" {
				j.add("intake stopped before readiness did")
			}
			return nil
		}
		g.Add(ingest)

		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- g.Run(ctx) }()
		synctest.Wait()
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		want := []string{
			"ingest drained", "ingest cancelled: shutting down",
			"workers drained", "workers cancelled: shutting down",
			"relay drained", "relay cancelled: shutting down",
			"probes drained", "probes cancelled: shutting down",
			"closed broker", "closed database",
		}
		if diff := cmp.Diff(want, j.all()); diff != "" {
			t.Error(diff)
		}
		if err := g.Close(); err != nil || len(j.all()) != len(want) {
			t.Error("things were closed twice")
		}
	})
}

func TestGroup_ServiceThatEndsStopsTheOthers(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		run  func(context.Context) error
		want string
	}{
		"with an error": {func(context.Context) error { return errors.New("disk full") }, "relay: disk full"},
		"without":       {func(context.Context) error { return nil }, "relay ended without being asked to"},
		"with a panic":  {func(context.Context) error { panic("nil map") }, "relay: handler panicked: nil map"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var j journal
			g, _ := newGroup(time.Minute)
			g.Opened("database", closing(&j, "database"))
			g.Add(j.service("workers", app.Work))
			g.Add(app.Service{Name: "relay", Stage: app.Output, Run: tt.run})
			if err := g.Run(t.Context()); err == nil || err.Error() != tt.want {
				t.Errorf("error is %v, want %s", err, tt.want)
			}
			want := []string{"workers drained", "workers cancelled: shutting down", "closed database"}
			if diff := cmp.Diff(want, j.all()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestGroup_CancelsWhatDoesNotDrainInTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var j journal
		g, _ := newGroup(20 * time.Second)
		slow := j.service("workers", app.Work)
		slow.Drain = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		g.Add(slow)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		start := time.Now()
		if err := g.Run(ctx); err != nil {
			t.Errorf("a drain that ran out of time is an error: %v", err)
		}
		if took := time.Since(start); took != 15*time.Second {
			t.Errorf("cancelled after %v, want three quarters of the grace period", took)
		}
		if diff := cmp.Diff([]string{"workers cancelled: " + mainstay.ErrShutdown.Error()}, j.all()); diff != "" {
			t.Error(diff)
		}
	})
}

func TestGroup_NamesWhatDoesNotStop(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		g, _ := newGroup(20 * time.Second)
		g.Add(app.Service{Name: "stuck worker", Stage: app.Work, Run: func(context.Context) error { <-release; return nil }})
		var j journal
		g.Opened("database", closing(&j, "database"))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		start := time.Now()
		err := g.Run(ctx)
		if err == nil || err.Error() != "not stopped within 20s: stuck worker" || !strings.Contains(app.HintOf(err), "--shutdown-grace") {
			t.Errorf("error is %v", err)
		}
		if took := time.Since(start); took != 20*time.Second {
			t.Errorf("took %v", took)
		}
		if len(j.all()) != 1 {
			t.Error("the database was left open")
		}
		close(release)
	})
}

func TestGroup_ReportsWhatGoesWrongWhileStopping(t *testing.T) {
	t.Parallel()
	g, _ := newGroup(time.Minute)
	g.Opened("broker", func(context.Context) error { return errors.New("flush failed") })
	g.Add(app.Service{
		Name: "relay", Stage: app.Output,
		Run:   func(ctx context.Context) error { <-ctx.Done(); return errors.New("lease lost") },
		Drain: func(context.Context) error { return errors.New("not now") },
	})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := g.Run(ctx)
	want := "draining the relay: not now\nstopping: relay: lease lost\nclosing the broker: flush failed"
	if err == nil || err.Error() != want {
		t.Errorf("error is %v", err)
	}
}
