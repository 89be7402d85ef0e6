package lane

import (
	"cmp"
	"context"
	"slices"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/lease"
	"github.com/mainstay-io/mainstay/outbox"
)

// effects is what a unit will have changed once it has committed: the engine's memory follows the database, never
// the other way round.
type effects struct {
	r      *run
	moves  map[*laneState]map[string]Place
	queues map[*laneState]map[queueKey]*overlay
	counts map[string]int
	// unflushed says that a handler has run, and that another one would not see yet what it has written.
	unflushed bool
}

// bodies is how many messages of a key's queue are kept in memory.
const bodies = 8

// overlay is a key's queue as it was, and as the unit will leave it.
type overlay struct {
	was     []Parked
	rows    []Parked
	changed bool
	// call is under way for the head, which the unit parks.
	call *early
}

func newEffects(r *run) *effects {
	return &effects{
		r: r, moves: map[*laneState]map[string]Place{}, queues: map[*laneState]map[queueKey]*overlay{},
		counts: map[string]int{},
	}
}

func (eff *effects) count(outcome string) { eff.counts[outcome]++ }

// move puts the place of the item's log on the item; false, and nothing moves, when the item does not follow it: one
// before it was not handled after all.
func (eff *effects) move(it item) bool {
	at, ok := eff.moves[it.ls][it.m.Topic]
	if !ok {
		at = it.ls.places[it.m.Topic]
	}
	if it.m.Sequence != eff.r.follows(it.ls, at) {
		return false
	}
	if eff.moves[it.ls] == nil {
		eff.moves[it.ls] = map[string]Place{}
	}
	eff.moves[it.ls][it.m.Topic] = placeOf(it.m)
	return true
}

// placeOf is the place of who has handled m.
func placeOf(m *mainstay.Message) Place {
	return Place{TopicLane: m.TopicLane(), Incarnation: max(m.Incarnation, 1), Sequence: m.Sequence, MessageID: m.ID}
}

// flush makes visible to the next handler what others have written before it in the unit. Behind the last one there is
// nothing to flush: its writes go with the commit.
func (eff *effects) flush(ctx context.Context, tx Tx) error {
	if !eff.unflushed {
		return nil
	}
	eff.unflushed = false
	return tx.Flush(ctx)
}

// heads says that the item's row is still the head of its key's queue, as the item has it.
func (eff *effects) heads(it item) bool {
	rows := eff.queue(it.ls, it.key()).rows
	return len(rows) > 0 && rows[0].Ref == it.row.Ref && rows[0].Attempts == it.row.Attempts
}

// queue is the key's queue as it is at this point of the unit.
func (eff *effects) queue(ls *laneState, key queueKey) *overlay {
	qs := eff.queues[ls]
	if qs == nil {
		qs = map[queueKey]*overlay{}
		eff.queues[ls] = qs
	}
	o := qs[key]
	if o == nil {
		o = &overlay{}
		if q := ls.queues[key]; q != nil {
			o.was, o.rows = q.rows, slices.Clone(q.rows)
		}
		qs[key] = o
	}
	return o
}

// take removes the rows that match and gives them.
func (o *overlay) take(match func(*Parked) bool) []Parked {
	var taken []Parked
	o.rows = slices.DeleteFunc(o.rows, func(p Parked) bool {
		if match(&p) {
			taken = append(taken, p)
			return true
		}
		return false
	})
	o.changed = o.changed || len(taken) > 0
	return taken
}

func (o *overlay) has(match func(*Parked) bool) bool {
	return slices.ContainsFunc(o.rows, func(p Parked) bool { return match(&p) })
}

// park puts the item into its key's queue: a new row at the end, or the head, changed.
func (eff *effects) park(it item, row Parked) {
	o := eff.queue(it.ls, it.key())
	o.changed = true
	row.Message = it.m
	if it.row == nil {
		o.rows = append(o.rows, row)
		return
	}
	for i := range o.rows {
		if o.rows[i].Ref == row.Ref {
			o.rows[i] = row
		}
	}
}

// underWay says that the call of an item, which the unit parks as row, was made already.
func (eff *effects) underWay(it item, row Parked) {
	row.Message = it.m
	it.early.f.row = row
	eff.queue(it.ls, it.key()).call = it.early
}

// done is the end of an item; the head of a queue makes way for what waits behind it.
func (eff *effects) done(tx Tx, it item, outcome string) {
	eff.count(outcome)
	if it.row == nil {
		return
	}
	eff.queue(it.ls, it.key()).take(func(p *Parked) bool { return p.Ref == it.row.Ref })
	if it.row.Attempts > 0 || it.row.State == ParkedReplay {
		tx.EndDeadLetter(DeadResolved, it.row.Ref)
	}
}

// finish writes what has become of queues and places, as the last of the unit.
func (eff *effects) finish(tx Tx) {
	for ls, byKey := range eff.queues {
		for _, o := range byKey {
			if o.changed {
				o.write(tx, ls)
			}
		}
	}
	for ls, byTopic := range eff.moves {
		for topic, to := range byTopic {
			tx.Move(ls.places[topic], to)
		}
	}
}

// write tells the difference between the queue as it was and as it is; a message that came and went in the same unit
// was never there.
func (o *overlay) write(tx Tx, ls *laneState) {
	was := make(map[Ref]*Parked, len(o.was))
	for i := range o.was {
		was[o.was[i].Ref] = &o.was[i]
	}
	for i := range o.rows {
		p := &o.rows[i]
		before := was[p.Ref]
		switch {
		case before == nil:
			tx.Park(*p)
		case p.State != before.State || p.Attempts != before.Attempts || !p.Due.Equal(before.Due) || p.Error != before.Error:
			tx.Repark(*p)
		}
		delete(was, p.Ref)
	}
	for ref := range was {
		tx.Unpark(ref)
		if ls.deadly[ref] > 0 {
			tx.PutCrash(Crash{Ref: ref})
		}
	}
}

// commit brings the engine's memory to where the database is.
func (r *run) commit(eff *effects) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for ls, byTopic := range eff.moves {
		for topic, to := range byTopic {
			ls.places[topic] = to
			if to.mark().beyond(ls.arrived[topic]) {
				ls.arrived[topic] = to.mark()
			}
		}
	}
	for ls, byKey := range eff.queues {
		for key, o := range byKey {
			if o.changed {
				ls.passed(o)
				r.requeue(ls, key, o)
			}
		}
	}
	for outcome, n := range eff.counts {
		r.e.cfg.Hooks.Handled(r.c.Name, outcome, n)
	}
}

// requeue replaces a key's queue by what the unit left; a call goes on being under way only if its row is still the
// head, in the state of a call, and was not the one that this unit settled.
func (r *run) requeue(ls *laneState, key queueKey, o *overlay) {
	q := ls.queue(key)
	calling := q.calling && len(q.rows) > 0 && len(o.rows) > 0 && q.rows[0].Ref == o.rows[0].Ref &&
		q.rows[0].State == o.rows[0].State && q.rows[0].Attempts == o.rows[0].Attempts
	for i := bodies; i < len(o.rows); i++ {
		o.rows[i].Message = nil // read again when its turn comes
	}
	q.rows = o.rows
	q.calling = calling || r.handOver(o.call, q)
	r.schedule(ls, q)
}

func sortLeases(ls []lease.Lease) {
	slices.SortFunc(ls, func(a, b lease.Lease) int { return cmp.Compare(a.Lane, b.Lane) })
}

// reply answers a saga's command; a message that asks for no answer gets none.
func reply(tx mainstay.Tx, source string, m *mainstay.Message, outcome mainstay.Outcome, code, detail string) {
	if m.Header(mainstay.HeaderReplyTo) != "" {
		tx.Send(replyTo(source, m, outcome, code, detail))
	}
}

// replyFailed tells a saga that its command is a dead letter, if it can be told: a command whose reply nobody would
// take must not hold up its lane.
func (r *run) replyFailed(ctx context.Context, tx mainstay.Tx, m *mainstay.Message, kind mainstay.Kind, detail string) {
	if m.Header(mainstay.HeaderReplyTo) == "" {
		return
	}
	answer := replyTo(r.source(), m, mainstay.OutcomeFailed, kind.String(), detail)
	check := *answer
	check.ID = m.ID
	if err := outbox.Validate(&check); err != nil {
		r.e.cfg.Logger.ErrorContext(ctx, "the saga cannot be told of a dead letter", "consumer", r.c.Name, "message_id", m.ID, "err", err)
		return
	}
	tx.Send(answer)
}

func replyTo(source string, m *mainstay.Message, outcome mainstay.Outcome, code, detail string) *mainstay.Message {
	headers := map[string]string{
		mainstay.HeaderSaga: m.Header(mainstay.HeaderSaga), mainstay.HeaderStep: m.Header(mainstay.HeaderStep),
		mainstay.HeaderOp: m.Header(mainstay.HeaderOp), mainstay.HeaderOutcome: string(outcome),
	}
	if code != "" {
		headers[mainstay.HeaderCode] = code
	}
	return &mainstay.Message{
		Topic: m.Header(mainstay.HeaderReplyTo), Key: m.Key, Type: m.Type + "." + string(outcome), Source: source,
		AggregateType: "saga", AggregateID: m.Header(mainstay.HeaderSaga),
		CorrelationID: m.CorrelationID, CausationID: m.ID, Traceparent: m.Traceparent,
		Headers: headers, Payload: detailPayload(detail),
	}
}
