package lane

import (
	"cmp"
	"slices"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/lease"
)

// effects is what a unit will have changed once it has committed: the engine's memory follows the database, never
// the other way round.
type effects struct {
	r      *run
	moves  map[*laneState]map[string]Place
	queues map[*laneState]map[string]*overlay
	counts map[string]int
}

// overlay is a key's queue as the unit will leave it.
type overlay struct {
	rows    []Parked
	changed bool
}

func newEffects(r *run) *effects {
	return &effects{
		r: r, moves: map[*laneState]map[string]Place{}, queues: map[*laneState]map[string]*overlay{},
		counts: map[string]int{},
	}
}

func (eff *effects) count(outcome string) { eff.counts[outcome]++ }

// move puts the place of the item's log on the item.
func (eff *effects) move(it item) {
	if eff.moves[it.ls] == nil {
		eff.moves[it.ls] = map[string]Place{}
	}
	eff.moves[it.ls][it.m.Topic] = Place{
		TopicLane: it.m.TopicLane(), Incarnation: max(it.m.Incarnation, 1), Sequence: it.m.Sequence, MessageID: it.m.ID,
	}
}

// queue is the key's queue as it is at this point of the unit.
func (eff *effects) queue(ls *laneState, key string) *overlay {
	qs := eff.queues[ls]
	if qs == nil {
		qs = map[string]*overlay{}
		eff.queues[ls] = qs
	}
	o := qs[key]
	if o == nil {
		o = &overlay{}
		if q := ls.queues[key]; q != nil {
			o.rows = slices.Clone(q.rows)
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

// park writes the item's row: a new one at the end of its key's queue, or the head, changed.
func (eff *effects) park(tx Tx, it item, row Parked) {
	o := eff.queue(it.ls, it.m.Key)
	o.changed = true
	row.Message = it.m
	if it.row == nil {
		o.rows = append(o.rows, row)
		tx.Park(row)
		return
	}
	for i := range o.rows {
		if o.rows[i].Ref == row.Ref {
			o.rows[i] = row
		}
	}
	tx.Repark(row)
}

// done is the end of an item; the head of a queue makes way for what waits behind it.
func (eff *effects) done(tx Tx, it item, outcome string) {
	eff.count(outcome)
	if it.row != nil {
		eff.unpark(tx, it.ls, it.m.Key, *it.row)
	}
}

func (eff *effects) unpark(tx Tx, ls *laneState, key string, row Parked) {
	o := eff.queue(ls, key)
	o.take(func(p *Parked) bool { return p.Ref == row.Ref })
	tx.Unpark(row.Ref)
	if row.Attempts > 0 {
		tx.EndDeadLetter(DeadResolved, row.Ref)
	}
}

// finish moves the places, as the last of the unit.
func (eff *effects) finish(tx Tx) error {
	for ls, byTopic := range eff.moves {
		for topic, to := range byTopic {
			tx.Move(ls.places[topic], to)
		}
	}
	return nil
}

// commit brings the engine's memory to where the database is.
func (r *run) commit(eff *effects) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for ls, byTopic := range eff.moves {
		for topic, to := range byTopic {
			ls.places[topic] = to
			ls.arrived[topic] = max(ls.arrived[topic], to.Sequence)
		}
	}
	for ls, byKey := range eff.queues {
		for key, o := range byKey {
			if o.changed {
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
func (r *run) requeue(ls *laneState, key string, o *overlay) {
	q := ls.queue(key)
	calling := q.calling && len(q.rows) > 0 && len(o.rows) > 0 && q.rows[0].Ref == o.rows[0].Ref &&
		q.rows[0].State == o.rows[0].State && q.rows[0].Attempts == o.rows[0].Attempts
	q.rows, q.calling = o.rows, calling
	r.schedule(ls, q)
}

func sortLeases(ls []lease.Lease) {
	slices.SortFunc(ls, func(a, b lease.Lease) int { return cmp.Compare(a.Lane, b.Lane) })
}

// reply answers a saga's command; a message that asks for no answer gets none.
func reply(tx mainstay.Tx, source string, m *mainstay.Message, outcome mainstay.Outcome, code, detail string) {
	to := m.Header(mainstay.HeaderReplyTo)
	if to == "" {
		return
	}
	headers := map[string]string{
		mainstay.HeaderSaga: m.Header(mainstay.HeaderSaga), mainstay.HeaderStep: m.Header(mainstay.HeaderStep),
		mainstay.HeaderOp: m.Header(mainstay.HeaderOp), mainstay.HeaderOutcome: string(outcome),
	}
	if code != "" {
		headers[mainstay.HeaderCode] = code
	}
	tx.Send(&mainstay.Message{
		Topic: to, Key: m.Key, Type: m.Type + "." + string(outcome), Source: source,
		AggregateType: "saga", AggregateID: m.Header(mainstay.HeaderSaga),
		CorrelationID: m.CorrelationID, CausationID: m.ID, Traceparent: m.Traceparent,
		Headers: headers, Payload: detailPayload(detail),
	})
}
