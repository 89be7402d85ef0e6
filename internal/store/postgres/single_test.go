package postgres

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/lane"
	"github.com/mainstay-io/mainstay/internal/lease"
	"github.com/mainstay-io/mainstay/internal/relay"
)

// TestRows_AreThereOnce: no key says that a log has one head and one record of the relay, a place one row, and the
// sequencer one state. Whatever several processes do at a time leaves one of each, also where transactions of the
// database see by default what was there when they began.
func TestRows_AreThereOnce(t *testing.T) {
	t.Parallel()
	for _, isolation := range []string{"read committed", "repeatable read", "serializable"} {
		t.Run(isolation, func(t *testing.T) {
			t.Parallel()
			url := newDatabase(t)
			db := pool(t, url)
			if _, err := db.Exec(t.Context(), "do $$ begin execute format("+
				"'alter database %I set default_transaction_isolation to %L', current_database(), '"+isolation+"'); end $$"); err != nil {
				t.Fatal(err)
			}
			var all sync.WaitGroup
			for _, name := range []string{"one", "two", "three"} {
				p := &rival{t: t, s: openStore(t, url), name: name}
				for _, do := range []func(){p.register, p.save, p.number, p.move} {
					all.Go(do)
				}
			}
			all.Wait()
			for _, once := range []string{
				"log_head group by topic, lane", "relay_progress group by topic, lane", "place group by consumer, topic, lane",
				"sequencer_state group by one",
			} {
				var twice, rows int
				query := "select count(*) filter (where n > 1), count(*) from (select count(*) as n from " + once + ") as g"
				if err := db.QueryRow(t.Context(), query).Scan(&twice, &rows); err != nil {
					t.Fatal(err)
				}
				if twice > 0 || rows == 0 {
					t.Errorf("from %s: %d of %d are there more than once", once, twice, rows)
				}
			}
		})
	}
}

// rival is a process that does what the others do, at the same time.
type rival struct {
	t    *testing.T
	s    *Store
	name string
}

const rivalTurns = 25

// turns repeats do, which others may fence, or make wait for too long.
func (p *rival) turns(what string, do func(ctx context.Context, i int) error) {
	for i := range rivalTurns {
		err := do(p.t.Context(), i)
		if err != nil && !isFenced(err) && !errors.Is(err, lane.ErrTransient) {
			p.t.Errorf("%s: %v", what, err)
			return
		}
	}
}

func (p *rival) take(ctx context.Context, name string) ([]lease.Lease, error) {
	return p.s.Acquire(ctx, name, []int{0, 1, 2, 3}, p.name, time.Minute, true)
}

func (p *rival) register() {
	p.turns("registering", func(ctx context.Context, i int) error {
		return p.s.Register(ctx, lane.Registration{Consumer: "c", Topics: []string{"orders", "topic-" + string(rune('a'+i))}})
	})
}

// save saves the first record of a log, twice at a time: the server may still be at a save that was given up.
func (p *rival) save() {
	p.turns("saving", func(ctx context.Context, i int) error {
		ls, err := p.take(ctx, "relay")
		if err != nil {
			return err
		}
		log := mainstay.TopicLane{Topic: p.name + "-" + string(rune('a'+i)), Lane: i % testLanes}
		var both sync.WaitGroup
		errs := make([]error, 2)
		for n := range errs {
			both.Go(func() {
				errs[n] = p.s.SaveProgress(ctx, relay.Save{Leases: ls, Progress: []relay.Progress{{TopicLane: log, Incarnation: 1, Sequence: int64(n + 1)}}})
			})
		}
		both.Wait()
		return errors.Join(errs...)
	})
}

func (p *rival) number() {
	p.turns("numbering", func(ctx context.Context, i int) error {
		send(p.t, p.s, message("topic-"+string(rune('a'+i)), p.name))
		ls, err := p.s.Acquire(ctx, "sequencer", []int{0}, p.name, time.Minute, true)
		if err != nil || len(ls) == 0 {
			return err
		}
		if err := p.s.Prepare(ctx, ls[0]); err != nil {
			return err
		}
		_, _, err = p.s.Round(ctx, ls[0])
		return err
	})
}

// move moves the place of a lane, from where it is.
func (p *rival) move() {
	p.turns("moving", func(ctx context.Context, _ int) error {
		ls, err := p.take(ctx, "c")
		if err != nil {
			return err
		}
		places, err := p.s.Places(ctx, "c", []int{1})
		if err != nil {
			return err
		}
		return p.s.Unit(ctx, lane.Unit{Consumer: "c", Leases: ls}, func(_ context.Context, tx lane.Tx) error {
			for _, from := range places {
				to := from
				to.Incarnation, to.Sequence, to.MessageID = 1, from.Sequence+1, "m"
				tx.Move(from, to)
			}
			return nil
		})
	})
}
