package relay_test

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/broker/brokertest"
	"github.com/mainstay-io/mainstay/internal/history"
	"github.com/mainstay-io/mainstay/internal/lease"
	"github.com/mainstay-io/mainstay/internal/relay"
)

var errStore = errors.New("the database is away")

// database is the relay's store and leases in memory.
type database struct {
	mu       sync.Mutex
	logs     map[mainstay.TopicLane][]*mainstay.Message
	progress map[mainstay.TopicLane]relay.Progress
	places   map[mainstay.TopicLane]int64
	refills  map[mainstay.TopicLane]relay.Refill
	past     history.Seam
	gone     int64 // up to this sequence, messages have left the outbox
	members  map[string]time.Time
	dead     []string
	holders  map[int]holding
	wake     chan struct{}
	// fail, when not nil, may fail the named call.
	fail func(call string) error
}

type holding struct {
	holder  string
	epoch   int64
	expires time.Time
}

func newDatabase() *database {
	return &database{
		logs: map[mainstay.TopicLane][]*mainstay.Message{}, progress: map[mainstay.TopicLane]relay.Progress{},
		places: map[mainstay.TopicLane]int64{}, refills: map[mainstay.TopicLane]relay.Refill{}, past: history.Seam{Era: "1", Current: 1},
		holders: map[int]holding{}, wake: make(chan struct{}, 1),
	}
}

// grow appends n messages to a log.
func (d *database) grow(log mainstay.TopicLane, n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for range n {
		d.logs[log] = append(d.logs[log], brokertest.Message(log, int64(len(d.logs[log])+1)))
		if past := d.past.Logs[log]; len(past) > 0 {
			m := d.logs[log][len(d.logs[log])-1]
			m.Incarnation, m.Since = past[len(past)-1].ID, past[len(past)-1].First
		}
	}
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// enter begins a call.
func (d *database) enter(ctx context.Context, call string) (func(), error) {
	d.mu.Lock()
	err := ctx.Err()
	if err == nil && d.fail != nil {
		err = d.fail(call)
	}
	if err != nil {
		d.mu.Unlock()
		return nil, err
	}
	return d.mu.Unlock, nil
}

func (d *database) setFail(fail func(call string) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fail = fail
}

func (d *database) published(log mainstay.TopicLane) int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.progress[log].Sequence
}

func (d *database) Heads(ctx context.Context) (map[mainstay.TopicLane]int64, error) {
	done, err := d.enter(ctx, "heads")
	if err != nil {
		return nil, err
	}
	defer done()
	heads := map[mainstay.TopicLane]int64{}
	for log, ms := range d.logs {
		heads[log] = int64(len(ms))
	}
	return heads, nil
}

func (d *database) ReadLogIn(ctx context.Context, era string, after map[mainstay.TopicLane]int64, limit int) ([]*mainstay.Message, error) {
	done, err := d.enter(ctx, "read")
	if err != nil {
		return nil, err
	}
	defer done()
	if era != d.past.Era {
		return nil, lease.ErrFenced
	}
	var out []*mainstay.Message
	logs := slices.SortedFunc(maps.Keys(after), func(a, b mainstay.TopicLane) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Lane, b.Lane))
	})
	for i := int64(0); len(out) < limit; i++ {
		before := len(out)
		for _, log := range logs {
			if at := max(after[log], d.gone) + i; at < int64(len(d.logs[log])) && len(out) < limit {
				out = append(out, d.logs[log][at])
			}
		}
		if len(out) == before {
			break
		}
	}
	return out, nil
}

func (d *database) Progress(ctx context.Context) ([]relay.Progress, error) {
	done, err := d.enter(ctx, "progress")
	if err != nil {
		return nil, err
	}
	defer done()
	return slices.Collect(maps.Values(d.progress)), nil
}

func (d *database) SaveProgress(ctx context.Context, s relay.Save) error {
	leases, ps, refills := s.Leases, s.Progress, s.Refills
	done, err := d.enter(ctx, "save")
	if err != nil {
		return err
	}
	defer done()
	if s.Era != d.past.Era || s.Incarnation != d.past.Current {
		return lease.ErrFenced
	}
	held := map[int]bool{}
	for _, l := range leases {
		held[l.Lane] = d.holders[l.Lane].epoch == l.Epoch
	}
	for _, p := range ps {
		if !held[p.Lane] {
			return lease.ErrFenced
		}
	}
	for _, a := range refills {
		if !held[a.Lane] {
			return lease.ErrFenced
		}
	}
	for _, p := range ps {
		d.progress[p.TopicLane] = p
	}
	for _, a := range refills {
		if f, ok := d.refills[a.TopicLane]; ok && f.Sequence == a.From {
			f.Sequence = a.To
			d.refills[a.TopicLane] = f
			if a.Done {
				delete(d.refills, a.TopicLane)
			}
		}
	}
	return nil
}

func (d *database) Seam(ctx context.Context) (history.Seam, error) {
	done, err := d.enter(ctx, "seam")
	if err != nil {
		return history.Seam{}, err
	}
	defer done()
	past := d.past
	past.Logs = maps.Clone(past.Logs)
	return past, nil
}

func (d *database) Logs(ctx context.Context) ([]mainstay.TopicLane, error) {
	done, err := d.enter(ctx, "logs")
	if err != nil {
		return nil, err
	}
	defer done()
	logs := map[mainstay.TopicLane]bool{}
	for log := range d.logs {
		logs[log] = true
	}
	for log := range d.places {
		logs[log] = true
	}
	return slices.Collect(maps.Keys(logs)), nil
}

func (d *database) Compared(ctx context.Context, era string) error {
	done, err := d.enter(ctx, "compared")
	if err != nil {
		return err
	}
	defer done()
	d.past.Compared = d.past.Compared || era == d.past.Era
	return nil
}

func (d *database) OpenIncarnation(ctx context.Context, o relay.Opening) (bool, error) {
	done, err := d.enter(ctx, "open")
	if err != nil {
		return false, err
	}
	defer done()
	if o.Seen != d.past.Current {
		return false, nil
	}
	d.past.Current = max(o.Seen, o.Above) + 1
	past := maps.Clone(d.past.Logs)
	if past == nil {
		past = map[mainstay.TopicLane]history.Log{}
	}
	for _, log := range append(slices.Collect(maps.Keys(d.logs)), o.Logs...) {
		first := max(d.progress[log].Sequence, d.places[log]) + 1
		past[log] = past[log].With(history.Incarnation{ID: d.past.Current, First: first})
		for i, m := range d.logs[log] {
			if m.Sequence >= first {
				again := *m
				again.Incarnation, again.Since = d.past.Current, first
				d.logs[log][i] = &again
			}
		}
	}
	d.past.Logs = past
	return true, nil
}

func (d *database) Refills(ctx context.Context) ([]relay.Refill, error) {
	done, err := d.enter(ctx, "refills")
	if err != nil {
		return nil, err
	}
	defer done()
	return slices.Collect(maps.Values(d.refills)), nil
}

func (d *database) StartRefill(ctx context.Context, f relay.Refill) error {
	done, err := d.enter(ctx, "start refill")
	if err != nil {
		return err
	}
	defer done()
	if was, ok := d.refills[f.TopicLane]; !ok || was.Sequence > f.Sequence {
		d.refills[f.TopicLane] = f
	}
	return nil
}

func (d *database) FirstRetained(ctx context.Context) (map[mainstay.TopicLane]int64, error) {
	done, err := d.enter(ctx, "first")
	if err != nil {
		return nil, err
	}
	defer done()
	first := map[mainstay.TopicLane]int64{}
	for log := range d.logs {
		first[log] = d.gone + 1
	}
	return first, nil
}

func (d *database) MinPlaces(ctx context.Context) (map[mainstay.TopicLane]int64, error) {
	done, err := d.enter(ctx, "places")
	if err != nil {
		return nil, err
	}
	defer done()
	return maps.Clone(d.places), nil
}

func (d *database) DeadLetter(ctx context.Context, m *mainstay.Message, _ error) error {
	done, err := d.enter(ctx, "dead")
	if err != nil {
		return err
	}
	defer done()
	if !slices.Contains(d.dead, m.ID) {
		d.dead = append(d.dead, m.ID)
	}
	return nil
}

func (d *database) Wake() (<-chan struct{}, func()) { return d.wake, func() {} }

func (d *database) Acquire(ctx context.Context, name string, lanes []int, holder string, ttl time.Duration, force bool) ([]lease.Lease, error) {
	done, err := d.enter(ctx, "acquire")
	if err != nil {
		return nil, err
	}
	defer done()
	var got []lease.Lease
	for _, lane := range lanes {
		h := d.holders[lane]
		if force || h.holder == "" || h.holder == holder || !time.Now().Before(h.expires) {
			h = holding{holder: holder, epoch: h.epoch + 1, expires: time.Now().Add(ttl)}
			d.holders[lane] = h
			got = append(got, lease.Lease{Name: name, Lane: lane, Epoch: h.epoch})
		}
	}
	return got, nil
}

func (d *database) Renew(ctx context.Context, holder string, leases []lease.Lease, ttl time.Duration) ([]lease.Lease, error) {
	done, err := d.enter(ctx, "renew")
	if err != nil {
		return nil, err
	}
	defer done()
	var held []lease.Lease
	for _, l := range leases {
		if h := d.holders[l.Lane]; h.holder == holder && h.epoch == l.Epoch {
			h.expires = time.Now().Add(ttl)
			d.holders[l.Lane] = h
			held = append(held, l)
		}
	}
	return held, nil
}

func (d *database) Release(ctx context.Context, holder string, leases []lease.Lease) error {
	done, err := d.enter(ctx, "release")
	if err != nil {
		return err
	}
	defer done()
	for _, l := range leases {
		if h := d.holders[l.Lane]; h.holder == holder && h.epoch == l.Epoch {
			h.holder = ""
			d.holders[l.Lane] = h
		}
	}
	return nil
}

func (d *database) Attend(ctx context.Context, _, holder string, ttl time.Duration) (lease.Standing, error) {
	done, err := d.enter(ctx, "attend")
	if err != nil {
		return lease.Standing{}, err
	}
	defer done()
	if d.members == nil {
		d.members = map[string]time.Time{}
	}
	d.members[holder] = time.Now().Add(ttl)
	var standing lease.Standing
	for _, until := range d.members {
		if time.Now().Before(until) {
			standing.Members++
		}
	}
	for lane, h := range d.holders {
		if h.holder != "" && h.holder != holder && time.Now().Before(h.expires) {
			standing.Taken = append(standing.Taken, lane)
		}
	}
	return standing, nil
}

func (d *database) Leave(ctx context.Context, _, holder string) error {
	done, err := d.enter(ctx, "leave")
	if err != nil {
		return err
	}
	defer done()
	delete(d.members, holder)
	return nil
}
