package lease

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/mainstay-io/mainstay/internal/clock"
)

// attendEvery is the longest pause between two turns of a member: a lane that was given back, or whose holder was
// killed, is found within it.
const attendEvery = time.Second

// Member is one of those that share the lanes of a name, for one goroutine. Its part is the lanes by the members,
// rounded up. It knows what it was given and nothing else: which lanes it works on the caller tells at every turn.
type Member struct {
	Store Sharing
	// Name is what is shared, Holder who this is among the members; Lanes is how many there are.
	Name, Holder string
	Lanes        int
	TTL          time.Duration
	// Alone takes every lane at once, by force: for a process that knows that nobody else can use the database.
	Alone bool

	renewed clock.Mono
}

// Change is what a turn has found.
type Change struct {
	// Lost are leases that others have now, or nobody.
	Lost []Lease
	// Taken are leases that were free.
	Taken []Lease
	// Surplus is how many lanes this member is to give back, of its own choice and when nothing is under way in
	// them; the others take them.
	Surplus int
}

// TurnEvery is how often Turn is to be called for leases of ttl.
func TurnEvery(ttl time.Duration) time.Duration { return min(ttl/3, attendEvery) }

// Turn renews the leases that are held, when it is time, and takes what is free and this member's part. After an error
// the change has what was found before it; the next turn begins anew.
func (m *Member) Turn(ctx context.Context, held []Lease) (Change, error) {
	var c Change
	if err := m.renew(ctx, held, &c); err != nil {
		return c, err
	}
	have := len(held) - len(c.Lost)
	if m.Alone {
		if have == m.Lanes {
			return c, nil
		}
		return c, m.take(ctx, m.others(held, c.Lost, nil), &c)
	}
	standing, err := m.Store.Attend(ctx, m.Name, m.Holder, m.TTL)
	if err != nil {
		return c, fmt.Errorf("attending to the lanes of %s: %w", m.Name, err)
	}
	part := (m.Lanes + standing.Members - 1) / max(standing.Members, 1)
	if have > part {
		c.Surplus = have - part
		return c, nil
	}
	// Members that come at the same time do not all reach for the same lanes.
	free := m.others(held, c.Lost, standing.Taken)
	rand.Shuffle(len(free), func(i, j int) { free[i], free[j] = free[j], free[i] })
	return c, m.take(ctx, free[:min(len(free), part-have)], &c)
}

// Hurry makes the next turn renew, whatever the time: when a write under a lease said that it is lost.
func (m *Member) Hurry() { m.renewed = clock.Mono{} }

func (m *Member) renew(ctx context.Context, held []Lease, c *Change) error {
	if m.renewed.Elapsed() < m.TTL/3 {
		return nil
	}
	began := clock.Start()
	if len(held) > 0 {
		kept, err := m.Store.Renew(ctx, m.Holder, held, m.TTL)
		if err != nil {
			return fmt.Errorf("renewing leases of %s: %w", m.Name, err)
		}
		c.Lost = slices.DeleteFunc(slices.Clone(held), func(l Lease) bool {
			return slices.ContainsFunc(kept, func(k Lease) bool { return k.Lane == l.Lane && k.Epoch == l.Epoch })
		})
	}
	m.renewed = began
	return nil
}

// others are the lanes that neither this member holds nor somebody else.
func (m *Member) others(held, lost []Lease, taken []int) []int {
	var lanes []int
	for n := range m.Lanes {
		is := func(l Lease) bool { return l.Lane == n }
		if slices.ContainsFunc(held, is) && !slices.ContainsFunc(lost, is) || slices.Contains(taken, n) {
			continue
		}
		lanes = append(lanes, n)
	}
	return lanes
}

func (m *Member) take(ctx context.Context, lanes []int, c *Change) error {
	if len(lanes) == 0 {
		return nil
	}
	slices.Sort(lanes)
	taken, err := m.Store.Acquire(ctx, m.Name, lanes, m.Holder, m.TTL, m.Alone)
	if err != nil {
		return fmt.Errorf("acquiring leases of %s: %w", m.Name, err)
	}
	c.Taken = taken
	return nil
}

// Leave gives back what is held and ends the membership, so that the others go on at once.
func (m *Member) Leave(ctx context.Context, held []Lease) error {
	if len(held) > 0 {
		if err := m.Store.Release(ctx, m.Holder, held); err != nil {
			return fmt.Errorf("giving back the lanes of %s: %w", m.Name, err)
		}
	}
	if m.Alone {
		return nil
	}
	if err := m.Store.Leave(ctx, m.Name, m.Holder); err != nil {
		return fmt.Errorf("leaving the lanes of %s to others: %w", m.Name, err)
	}
	return nil
}
