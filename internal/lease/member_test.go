package lease_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/mainstay-io/mainstay/internal/lease"
)

const ttl = 300 * time.Millisecond

// table is a store of leases in memory, whose clock stands where the test puts it.
type table struct {
	now     time.Duration
	leases  map[int]held
	members map[string]time.Duration // until when each attends
	err     error
}

type held struct {
	holder string
	epoch  int64
	until  time.Duration
}

func newTable() *table { return &table{leases: map[int]held{}, members: map[string]time.Duration{}} }

func (s *table) Acquire(_ context.Context, name string, lanes []int, holder string, ttl time.Duration, force bool) ([]lease.Lease, error) {
	var taken []lease.Lease
	for _, n := range lanes {
		h := s.leases[n]
		if force || h.holder == "" || h.holder == holder || h.until <= s.now {
			s.leases[n] = held{holder, h.epoch + 1, s.now + ttl}
			taken = append(taken, lease.Lease{Name: name, Lane: n, Epoch: h.epoch + 1})
		}
	}
	return taken, s.err
}

func (s *table) Renew(_ context.Context, holder string, leases []lease.Lease, ttl time.Duration) ([]lease.Lease, error) {
	var kept []lease.Lease
	for _, l := range leases {
		if h := s.leases[l.Lane]; h.holder == holder && h.epoch == l.Epoch {
			h.until = s.now + ttl
			s.leases[l.Lane] = h
			kept = append(kept, l)
		}
	}
	return kept, s.err
}

func (s *table) Release(_ context.Context, holder string, leases []lease.Lease) error {
	for _, l := range leases {
		if h := s.leases[l.Lane]; h.holder == holder && h.epoch == l.Epoch {
			s.leases[l.Lane] = held{epoch: h.epoch}
		}
	}
	return s.err
}

func (s *table) Attend(_ context.Context, _, holder string, ttl time.Duration) (lease.Standing, error) {
	s.members[holder] = s.now + ttl
	maps.DeleteFunc(s.members, func(_ string, until time.Duration) bool { return until <= s.now })
	standing := lease.Standing{Members: len(s.members)}
	for n, h := range s.leases {
		if h.holder != "" && h.holder != holder && h.until > s.now {
			standing.Taken = append(standing.Taken, n)
		}
	}
	return standing, s.err
}

func (s *table) Leave(_ context.Context, _, holder string) error {
	delete(s.members, holder)
	return s.err
}

// worker is a member with what it holds, as a relay or a consumer keeps it.
type worker struct {
	*lease.Member
	held   []lease.Lease
	paused bool
}

func (w *worker) turn(ctx context.Context, s *table) error {
	w.Hurry() // the clock of a test does not move by itself
	c, err := w.Turn(ctx, w.held)
	w.held = slices.DeleteFunc(w.held, func(l lease.Lease) bool { return slices.Contains(c.Lost, l) })
	w.held = append(w.held, c.Taken...)
	if err != nil {
		return err
	}
	given := slices.Clone(w.held[:c.Surplus])
	w.held = slices.Delete(w.held, 0, c.Surplus)
	return s.Release(ctx, w.Holder, given)
}

// TestMember_SharesFairly lets members come, go, die and fall silent in any order. When that ends, every lane is held
// by one member, and nobody has more than its part.
func TestMember_SharesFairly(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		ctx, s := context.Background(), newTable()
		lanes := rapid.IntRange(1, 16).Draw(t, "lanes")
		var all []*worker
		made := 0 // no two are called the same, and their names are in no order
		join := func(t *rapid.T) {
			made++
			all = append(all, &worker{Member: &lease.Member{
				Store: s, Name: "c", Holder: fmt.Sprintf("holder-%d-%d", rapid.Uint8().Draw(t, "id"), made), Lanes: lanes, TTL: ttl,
			}})
		}
		join(t)
		pick := func(t *rapid.T) *worker {
			if len(all) == 0 {
				t.Skip("nobody is there")
			}
			return rapid.SampledFrom(all).Draw(t, "member")
		}
		remove := func(w *worker) { all = slices.DeleteFunc(all, func(o *worker) bool { return o == w }) }
		t.Repeat(map[string]func(*rapid.T){
			"join": join,
			"turn": func(t *rapid.T) {
				if w := pick(t); !w.paused {
					if err := w.turn(ctx, s); err != nil {
						t.Fatal(err)
					}
				}
			},
			"leave": func(t *rapid.T) {
				w := pick(t)
				if err := w.Leave(ctx, w.held); err != nil {
					t.Fatal(err)
				}
				remove(w)
			},
			"die":    func(t *rapid.T) { remove(pick(t)) },
			"pause":  func(t *rapid.T) { pick(t).paused = true },
			"resume": func(t *rapid.T) { pick(t).paused = false },
			"time":   func(t *rapid.T) { s.now += ttl / 3 },
			"": func(t *rapid.T) {
				if len(s.leases) > lanes {
					t.Fatalf("there are %d leases of %d lanes", len(s.leases), lanes)
				}
			},
		})
		settle(t, s, all, lanes)
	})
}

func settle(t *rapid.T, s *table, all []*worker, lanes int) {
	all = slices.DeleteFunc(all, func(w *worker) bool { return w.paused })
	if len(all) == 0 {
		return
	}
	for range 12 { // of a third of the time each: those that are silent or dead are forgotten meanwhile
		s.now += ttl / 3
		for _, w := range all {
			if err := w.turn(context.Background(), s); err != nil {
				t.Fatal(err)
			}
		}
	}
	holders, part := map[int]string{}, (lanes+len(all)-1)/len(all)
	for _, w := range all {
		if len(w.held) > part {
			t.Fatalf("%s holds %d of %d lanes, and its part among %d is %d", w.Holder, len(w.held), lanes, len(all), part)
		}
		for _, l := range w.held {
			if holders[l.Lane] != "" {
				t.Fatalf("lane %d is held by %s and %s", l.Lane, holders[l.Lane], w.Holder)
			}
			holders[l.Lane] = w.Holder
		}
	}
	if len(holders) != lanes {
		t.Fatalf("%d of %d lanes are held, by %d members", len(holders), lanes, len(all))
	}
}

func TestMember_TakesAllByForceWhenAlone(t *testing.T) {
	t.Parallel()
	s := newTable()
	s.leases[1] = held{"an earlier run", 4, time.Hour}
	w := &worker{Member: &lease.Member{Store: s, Name: "c", Holder: "x", Lanes: 3, TTL: ttl, Alone: true}}
	if err := w.turn(t.Context(), s); err != nil || len(w.held) != 3 {
		t.Errorf("holds %v, %v", w.held, err)
	}
	if len(s.members) != 0 {
		t.Errorf("one that is alone attends: %v", s.members)
	}
}

// TestMember_TellsWhatItHasLostBeforeAnError: a lane that another has must be left whatever comes next.
func TestMember_TellsWhatItHasLostBeforeAnError(t *testing.T) {
	t.Parallel()
	s := newTable()
	w := &worker{Member: &lease.Member{Store: failing{s}, Name: "c", Holder: "x", Lanes: 2, TTL: ttl}}
	mine, err := s.Acquire(t.Context(), "c", []int{0, 1}, "x", ttl, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Acquire(t.Context(), "c", []int{1}, "y", ttl, true); err != nil {
		t.Fatal(err)
	}
	c, err := w.Turn(t.Context(), mine)
	if !errors.Is(err, errAttend) || !slices.Equal(c.Lost, mine[1:]) {
		t.Errorf("got %+v, %v", c, err)
	}
}

var errAttend = errors.New("no answer")

type failing struct{ lease.Sharing }

func (failing) Attend(context.Context, string, string, time.Duration) (lease.Standing, error) {
	return lease.Standing{}, errAttend
}

// However many lanes of however many dead are taken over, each of the dead is one line; what was free is none.
func TestLogTaken_IsALineForEachHolder(t *testing.T) {
	t.Parallel()
	var log strings.Builder
	lease.LogTaken(t.Context(), slog.New(slog.NewTextHandler(&log, nil)), []lease.Lease{
		{Name: "c", Lane: 0, From: "b"}, {Name: "c", Lane: 1}, {Name: "c", Lane: 2, From: "a"}, {Name: "c", Lane: 3, From: "b"},
	})
	lines := strings.Split(strings.TrimSpace(log.String()), "\n")
	if len(lines) != 2 || !strings.HasSuffix(lines[0], "lease=c lanes=1 from=a") || !strings.HasSuffix(lines[1], "lease=c lanes=2 from=b") {
		t.Errorf("it said %q", lines)
	}
}
