package lane

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/lease"
)

// errSplit says that a message failed whose successors of the same key are in the same batch: each must stand alone.
var errSplit = errors.New("a message failed before others of its key in the same batch")

// do runs a task: calls that ended, heads of queues, and what arrived.
func (r *run) do(ctx, work context.Context, all *sync.WaitGroup, t *task) {
	if t.alone != nil {
		r.doAlone(ctx, work, t)
		return
	}
	if len(t.gaps) > 0 {
		t.items = append(t.items, r.readLog(ctx, t.gaps, max(r.e.cfg.Batch-len(t.items), len(t.gaps)))...)
	}
	items := r.heads(ctx, all, t.parked)
	items = append(items, r.next(t.items)...)
	r.callFirst(ctx, all, items)
	r.e.gate.RLock()
	defer r.e.gate.RUnlock()
	r.handle(work, t.ended, items)
}

// readLog reads what the broker did not bring, at most limit messages of all logs together.
func (r *run) readLog(ctx context.Context, gaps []gap, limit int) []item {
	if gaps = slices.DeleteFunc(gaps, r.seek); len(gaps) == 0 {
		return nil
	}
	after := map[mainstay.TopicLane]int64{}
	lanes := map[int]*laneState{}
	for _, g := range gaps {
		p := g.ls.places[g.topic]
		after[p.TopicLane] = p.Sequence
		lanes[p.Lane] = g.ls
	}
	ms, err := r.e.cfg.Store.ReadLog(ctx, after, limit)
	if err != nil {
		if ctx.Err() == nil {
			r.e.cfg.Logger.WarnContext(ctx, "the log could not be read, trying again", "consumer", r.c.Name, "err", err)
		}
		wait(ctx, 200*time.Millisecond)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, g := range gaps {
		g.ls.lacks[g.topic] = g.ls.lacks[g.topic] || err != nil
	}
	items := make([]item, 0, len(ms))
	for _, m := range ms {
		ls := lanes[m.Lane]
		if ls.gone || m.Incarnation > ls.current && r.unknown(ls, m) {
			continue
		}
		if !ls.past[m.Topic].Has(m.Incarnation, m.Sequence) {
			continue // memory of what the database was before
		}
		ls.lacks[m.Topic] = true // until a read finds nothing: there may be more
		if at := markOf(m); at.beyond(ls.arrived[m.Topic]) {
			ls.arrived[m.Topic] = at
			r.e.cfg.Hooks.Gap(r.c.Name, 1)
		}
		items = append(items, item{ls: ls, m: m})
	}
	return items
}

// next keeps those items that follow their places without a gap.
func (r *run) next(items []item) []item {
	type log struct {
		ls    *laneState
		topic string
	}
	at := map[log]Place{}
	out := items[:0]
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, it := range items {
		l := log{it.ls, it.m.Topic}
		last, ok := at[l]
		if !ok {
			last = it.ls.places[it.m.Topic]
		}
		if it.m.Sequence == it.ls.follows(last) {
			last = placeOf(it.m)
			out = append(out, it)
		}
		at[l] = last
	}
	return out
}

// handle gets calls settled and items handled, all together if it can be, and otherwise in ever smaller parts until
// what fails stands alone.
func (r *run) handle(ctx context.Context, ended []*finished, items []item) {
	ended, items = r.held(ended, items)
	if len(ended)+len(items) == 0 {
		return
	}
	err := r.unit(ctx, ended, items)
	switch {
	case err == nil:
	case len(ended) > 0 && len(items) > 0:
		r.handle(ctx, ended, nil)
		r.handle(ctx, nil, items)
	case len(ended) > 1:
		r.handle(ctx, ended[:len(ended)/2], nil)
		r.handle(ctx, ended[len(ended)/2:], nil)
	case len(ended) == 1:
		ended[0].result, ended[0].err = nil, notSettled(ctx, err)
		r.giveUp(ctx, r.unit(ctx, ended, nil))
	case len(items) > 1:
		r.handle(ctx, nil, items[:len(items)/2])
		r.handle(ctx, nil, items[len(items)/2:])
	case items[0].early != nil:
		r.giveUp(ctx, r.fail(ctx, items[0], notSettled(ctx, err)))
	default:
		r.giveUp(ctx, r.fail(ctx, items[0], err))
	}
}

// held leaves out what is of lanes that were lost meanwhile.
func (r *run) held(ended []*finished, items []item) ([]*finished, []item) {
	r.mu.Lock()
	defer r.mu.Unlock()
	ended = slices.DeleteFunc(slices.Clone(ended), func(f *finished) bool { return f.ls.gone })
	return ended, slices.DeleteFunc(slices.Clone(items), func(it item) bool { return it.ls.gone })
}

// notSettled is what a failure to settle makes of its call: unknown, to be made again. It is nobody's business answer.
func notSettled(ctx context.Context, err error) error {
	if mainstay.KindOf(ctx, err) == mainstay.KindBusiness {
		return mainstay.Terminal(fmt.Errorf("settling a call: %s", err.Error())) // a bug of the handler
	}
	return err
}

// unit runs one transaction, again and again while only the database is to blame. A nil error means that it
// committed, or that it is no longer this process's business.
func (r *run) unit(ctx context.Context, ended []*finished, items []item) error {
	return r.transact(ctx, ended, items, func(ctx context.Context, tx Tx, eff *effects) error {
		return r.apply(ctx, tx, eff, ended, items)
	})
}

func (r *run) transact(ctx context.Context, ended []*finished, items []item, fn func(context.Context, Tx, *effects) error) error {
	u := Unit{Consumer: r.c.Name, Era: eraOf(ended, items), Leases: leasesOf(ended, items)}
	began := r.e.cfg.Clock()
	var eff *effects
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		err := r.e.cfg.Store.Unit(ctx, u, func(ctx context.Context, tx Tx) error {
			eff = newEffects(r)
			return fn(ctx, tx, eff)
		})
		switch {
		case err == nil:
			r.commit(eff)
			r.e.cfg.Hooks.Batch(r.c.Name, len(items)+len(ended), r.e.cfg.Clock().Sub(began))
			return nil
		case errors.Is(err, lease.ErrFenced):
			r.fenced(ctx, ended, items, err)
			return nil
		case ctx.Err() != nil, r.interrupted(ctx, err):
			return nil //nolint:nilerr // nothing was written, and whoever comes next does it
		case !errors.Is(err, ErrTransient):
			return err
		}
		r.e.cfg.Logger.WarnContext(ctx, "the database did not take a batch, trying again", "consumer", r.c.Name, "err", err)
		if !wait(ctx, pause) {
			return nil
		}
	}
}

// leasesOf are the leases of all lanes in a unit, by lane.
func leasesOf(ended []*finished, items []item) []lease.Lease {
	seen := map[*laneState]bool{}
	var ls []lease.Lease
	add := func(s *laneState) {
		if !seen[s] {
			seen[s] = true
			ls = append(ls, s.lease)
		}
	}
	for _, f := range ended {
		add(f.ls)
	}
	for _, it := range items {
		add(it.ls)
	}
	sortLeases(ls)
	return ls
}

// severalEras is no database's era.
const severalEras = "several"

// oneEra is the era of what was read in a and in b; when they differ, one that fences the unit, so that its lanes are
// read anew.
func oneEra(a, b string) string {
	if a == b {
		return a
	}
	return severalEras
}

// eraOf is the era in which the lanes of a unit were read.
func eraOf(ended []*finished, items []item) string {
	var lanes []*laneState
	for _, f := range ended {
		lanes = append(lanes, f.ls)
	}
	for _, it := range items {
		lanes = append(lanes, it.ls)
	}
	if len(lanes) == 0 {
		return ""
	}
	era := lanes[0].era
	for _, ls := range lanes {
		era = oneEra(era, ls.era)
	}
	return era
}

// fenced forgets the lanes of a unit: another holder has them, or this one's idea of them was wrong, as it did commit
// what it believes it did not. They are read anew when they are taken the next time, which is tried at once.
func (r *run) fenced(ctx context.Context, ended []*finished, items []item, err error) {
	if ctx.Err() == nil {
		r.e.cfg.Logger.WarnContext(ctx, "lanes are not as this process has them in mind, they are taken and read anew unless another holder has them", "consumer", r.c.Name, "err", err)
	}
	for _, l := range leasesOf(ended, items) {
		r.drop(l.Lane, l.Epoch)
	}
	r.e.look()
}

// apply does the work of one unit in tx.
func (r *run) apply(ctx context.Context, tx Tx, eff *effects, ended []*finished, items []item) error {
	if err := r.settle(ctx, tx, eff, ended); err != nil {
		return err
	}
	var todo []item
	for _, it := range items {
		switch {
		case it.row != nil:
			if eff.heads(it) {
				todo = append(todo, it)
			}
		case !eff.move(it), it.m.Type == mainstay.TypeTombstone:
		case len(eff.queue(it.ls, it.key()).rows) == 0 || r.behind(tx, eff, it):
			todo = append(todo, it)
		}
	}
	todo = slices.DeleteFunc(todo, func(it item) bool { return it.row != nil && !eff.heads(it) }) // superseded
	if len(todo) > 0 {
		if err := r.dispatch(ctx, tx, eff, todo); err != nil {
			return err
		}
	}
	eff.finish(tx)
	return nil
}

func (r *run) dispatch(ctx context.Context, tx Tx, eff *effects, todo []item) error {
	if r.c.Participant != nil {
		return r.participate(ctx, tx, eff, todo)
	}
	errs, err := r.c.Handler.HandleBatch(ctx, tx, messages(todo))
	if err != nil {
		return err
	}
	return r.results(ctx, tx, eff, todo, errs, todo)
}

func messages(items []item) []*mainstay.Message {
	ms := make([]*mainstay.Message, len(items))
	for i, it := range items {
		ms[i] = it.m
	}
	return ms
}

// results books what a handler answered for items; all are the items of the batch, in order.
func (r *run) results(ctx context.Context, tx Tx, eff *effects, items []item, errs []error, all []item) error {
	if errs != nil && len(errs) != len(items) {
		return mainstay.Terminal(fmt.Errorf("the handler gave %d results for %d messages", len(errs), len(items)))
	}
	for i, it := range items {
		if errs == nil || errs[i] == nil {
			eff.done(tx, it, HandledDone)
			continue
		}
		if followed(it, all) {
			return errSplit
		}
		if r.interrupted(ctx, errs[i]) {
			return errs[i]
		}
		r.failed(ctx, tx, eff, it, errs[i])
	}
	return nil
}

// followed says that a later item of the batch has the same key.
func followed(it item, all []item) bool {
	after := false
	for _, other := range all {
		switch {
		case other.m == it.m:
			after = true
		case after && other.ls == it.ls && other.key() == it.key():
			return true
		}
	}
	return false
}
