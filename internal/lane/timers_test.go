package lane_test

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/lane"
	"github.com/mainstay-io/mainstay/outbox"
)

// timers is a timer that fails for one id.
type timers struct {
	w  *world
	mu sync.Mutex
	// due are the ids that are due.
	due map[string]bool
}

func (d *timers) Due(_ context.Context, _ []int, _ time.Time, limit int) ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var ids []string
	for _, id := range []string{"a", "bad", "c"} {
		if d.due[id] && len(ids) < limit {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

func (d *timers) Urgent(_ context.Context, lanes []int, _ time.Time, _ int) ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.due["urgent"] && slices.Contains(lanes, outbox.Lane("k", 2)) {
		return []string{"urgent"}, nil
	}
	return nil, nil
}

func (d *timers) Fire(ctx context.Context, tx mainstay.Tx, ids []string) error {
	for _, id := range ids {
		if id == "bad" {
			panic("a timer that always fails")
		}
		if err := effect(ctx, tx, "timer", event("t", id, id)); err != nil {
			return err
		}
		tx.OnCommit(func() {
			d.mu.Lock()
			defer d.mu.Unlock()
			delete(d.due, id)
			d.w.poke()
		})
	}
	return nil
}

func (d *timers) Abandon(ctx context.Context, tx mainstay.Tx, id string, _ error) error {
	tx.OnCommit(func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.due, id)
		d.w.poke()
	})
	return effect(ctx, tx, "abandoned", event("t", id, id))
}

func TestEngine_FiresTimersBesideOneThatFails(t *testing.T) {
	t.Parallel()
	w := setup(t)
	c := handle("c", []string{"a"}, fine)
	c.Timers = &timers{w: w, due: map[string]bool{"a": true, "bad": true, "c": true}}
	w.run(t, c)
	w.wantEffects(t, "timer", "a", "c")
}

// inLane are timers of one lane.
type inLane struct {
	*timers
	lane int
}

func (d inLane) Due(ctx context.Context, lanes []int, now time.Time, limit int) ([]string, error) {
	if !slices.Contains(lanes, d.lane) {
		return nil, nil
	}
	return d.timers.Due(ctx, lanes, now, limit)
}

// A timer waits while what it would ask for is in line at its participant, and fires even if that never moves.
func TestEngine_TimersWaitForWhatIsInLine(t *testing.T) {
	t.Parallel()
	for name, moves := range map[string]bool{"and comes to its end": true, "and never moves": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := setup(t)
			if err := w.store.Register(t.Context(), lane.Registration{Consumer: "participant", Topics: []string{"b"}}); err != nil {
				t.Fatal(err)
			}
			w.send(event("b", "k", "1"))
			c := handle("c", []string{"a"}, fine)
			c.Timers = inLane{&timers{w: w, due: map[string]bool{"a": true, "urgent": true}}, outbox.Lane("k", 2)}
			c.Awaits = []string{"b"}
			var looks atomic.Int64
			e := w.start(func(cfg *lane.Config, fs *faultyStore) {
				if moves {
					cfg.LeaseTTL = time.Hour
				}
				fs.lines = func() { looks.Add(1) }
			}, c)
			t.Cleanup(e.end)
			if moves {
				w.until("it was looked at some times", func() bool { return looks.Load() > 3 })
				w.wantEffects(t, "timer", "urgent")
				w.run(t, handle("participant", []string{"b"}, fine))
			}
			w.wantEffects(t, "timer", "urgent", "a")
		})
	}
}
