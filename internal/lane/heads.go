package lane

import (
	"context"
	"sync"
	"time"

	"github.com/mainstay-io/mainstay"
)

// heads turns the heads of queues into items, and starts the calls among them.
func (r *run) heads(ctx context.Context, all *sync.WaitGroup, ds []due) []item {
	var refs []Ref
	for _, d := range ds {
		if d.q.rows[0].Message == nil {
			refs = append(refs, d.q.rows[0].Ref)
		}
	}
	loaded, err := r.loadParked(ctx, refs)
	var items []item
	for _, d := range ds {
		if it, ok := r.head(ctx, all, d, loaded, err != nil); ok {
			items = append(items, it)
		}
	}
	return items
}

// loadParked reads parked messages; an error was logged.
func (r *run) loadParked(ctx context.Context, refs []Ref) (map[Ref]*mainstay.Message, error) {
	if len(refs) == 0 {
		return nil, nil
	}
	ps, err := r.e.cfg.Store.LoadParked(ctx, r.c.Name, refs)
	if err != nil && ctx.Err() == nil {
		r.e.cfg.Logger.WarnContext(ctx, "parked messages could not be read, trying again", "consumer", r.c.Name, "err", err)
	}
	loaded := make(map[Ref]*mainstay.Message, len(ps))
	for _, p := range ps {
		loaded[p.Ref] = p.Message
	}
	return loaded, err
}

// notParked deals with a message that this process takes for parked and the database does not: what it has in mind of
// the lane is wrong, and is read anew. r.mu is held.
func (r *run) notParked(ctx context.Context, ls *laneState, ref Ref) {
	r.e.cfg.Logger.WarnContext(ctx, "a parked message is not there any more, its lane is read anew", "consumer", r.c.Name,
		"topic", ref.Topic, "lane", ref.Lane, "sequence", ref.Sequence)
	if !ls.gone {
		r.readAnew(ls)
	}
}

func (r *run) head(ctx context.Context, all *sync.WaitGroup, d due, loaded map[Ref]*mainstay.Message, unread bool) (item, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	row := &d.q.rows[0]
	if row.Message == nil {
		row.Message = loaded[row.Ref]
	}
	switch {
	case row.Message == nil && unread:
		row.Due = r.e.cfg.Clock().Add(time.Second)
		return item{}, false
	case row.Message == nil:
		r.notParked(ctx, d.ls, row.Ref)
		return item{}, false
	case r.isCall(row):
		r.call(ctx, all, d.ls, d.q)
		return item{}, false
	}
	head := *row
	return item{ls: d.ls, m: row.Message, row: &head}, true
}
