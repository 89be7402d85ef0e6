package lane

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/mainstay-io/mainstay"
)

// Detail is the payload of a reply: why, in words for people.
type Detail struct {
	Detail string `json:"detail,omitempty"`
}

func detailPayload(detail string) []byte {
	if detail == "" {
		return []byte("{}")
	}
	b, _ := json.Marshal(Detail{detail}) // a string always encodes
	return b
}

func (r *run) source() string {
	if r.c.Participant != nil && r.c.Participant.Source != "" {
		return r.c.Participant.Source
	}
	return "mainstay/" + r.c.Name
}

// knowledge is the barrier as it is at this point of a unit.
type knowledge map[[2]string]Barrier

func (k knowledge) of(step, op string) (Barrier, bool) {
	b, ok := k[[2]string{step, op}]
	return b, ok
}

// participate handles commands of sagas behind the barrier.
func (r *run) participate(ctx context.Context, tx Tx, eff *effects, todo []item) error {
	var steps []string
	for _, it := range todo {
		if step := it.m.StepKey(); step != "" {
			steps = append(steps, step)
		}
	}
	if err := eff.flush(ctx, tx); err != nil {
		return err
	}
	bs, err := tx.Barriers(ctx, steps)
	if err != nil {
		return err
	}
	known := knowledge{}
	for _, b := range bs {
		known[[2]string{b.StepKey, b.Op}] = b
	}
	if r.c.Participant.Remote != nil {
		return r.takeCalls(ctx, tx, eff, known, todo)
	}
	for pending := todo; len(pending) > 0; {
		var now, later []item
		seen := map[queueKey]bool{}
		for _, it := range pending {
			if seen[it.key()] {
				later = append(later, it)
				continue
			}
			seen[it.key()] = true
			now = append(now, it)
		}
		if err := r.pass(ctx, tx, eff, known, now, todo); err != nil {
			return err
		}
		pending = later
	}
	return nil
}

// pass handles one message of each key.
func (r *run) pass(ctx context.Context, tx Tx, eff *effects, known knowledge, items, all []item) error {
	byType := map[string][]item{}
	var types []string
	for _, it := range items {
		act, err := r.decide(ctx, tx, eff, known, it)
		if err != nil {
			if followed(it, all) {
				return errSplit
			}
			r.failed(ctx, tx, eff, it, err)
			continue
		}
		if !act {
			continue
		}
		if byType[it.m.Type] == nil {
			types = append(types, it.m.Type)
		}
		byType[it.m.Type] = append(byType[it.m.Type], it)
	}
	for _, typ := range types {
		if err := r.act(ctx, tx, eff, known, byType[typ], all); err != nil {
			return err
		}
	}
	return nil
}

// act runs the handler of one type and books the outcomes in the barrier.
func (r *run) act(ctx context.Context, tx Tx, eff *effects, known knowledge, items, all []item) error {
	if err := eff.flush(ctx, tx); err != nil {
		return err
	}
	eff.unflushed = true
	errs, err := r.c.Participant.Commands[items[0].m.Type].HandleBatch(ctx, tx, messages(items))
	if err != nil {
		return err
	}
	if errs == nil {
		errs = make([]error, len(items))
	}
	if len(errs) != len(items) {
		return r.results(ctx, tx, eff, items, errs, all) // it says what is wrong
	}
	for i, it := range items {
		rejected := r.rejection(ctx, errs[i])
		switch {
		case errs[i] == nil:
			r.outcome(tx, eff, known, it, mainstay.OutcomeDone, "", "", HandledDone)
		case rejected != nil:
			r.outcome(tx, eff, known, it, mainstay.OutcomeRejected, rejected.Code, rejected.Detail, HandledRejected)
		default:
			if err := r.results(ctx, tx, eff, items[i:i+1], errs[i:i+1], all); err != nil {
				return err
			}
		}
	}
	return nil
}

// decide looks at the barrier: true means that the command's effect is wanted. Otherwise it has been answered.
func (r *run) decide(ctx context.Context, tx Tx, eff *effects, known knowledge, it item) (bool, error) {
	step, op := it.m.StepKey(), it.m.Header(mainstay.HeaderOp)
	if err := r.knows(it.m); err != nil {
		return false, mainstay.Terminal(err)
	}
	if b, ok := known.of(step, op); ok {
		outcome := HandledRepeated
		if b.Outcome == mainstay.OutcomeVoid && op == mainstay.OpDo {
			outcome = HandledHanging
		}
		reply(tx, r.source(), it.m, b.Outcome, b.Code, b.Detail)
		eff.done(tx, it, outcome)
		return false, nil
	}
	if op == mainstay.OpDo {
		return true, nil
	}
	do, ok := known.of(step, mainstay.OpDo)
	switch {
	case ok && do.Outcome == mainstay.OutcomeDone:
		return true, nil
	case ok && do.Outcome == mainstay.OutcomeVoid && r.c.Participant.Remote != nil:
		return true, nil // an earlier compensation was not settled
	case !ok:
		r.e.cfg.Logger.DebugContext(ctx, "compensation without its action", "consumer", r.c.Name, "message_id", it.m.ID,
			"saga_id", it.m.Header(mainstay.HeaderSaga))
		put(tx, known, Barrier{StepKey: step, Op: mainstay.OpDo, Outcome: mainstay.OutcomeVoid, MessageID: it.m.ID})
		if r.c.Participant.Remote != nil {
			eff.count(HandledNull)
			return true, nil // the callee must know as well: a call of the action may still be on its way
		}
	}
	r.outcome(tx, eff, known, it, mainstay.OutcomeVoid, "", "", HandledNull)
	return false, nil
}

// knows refuses what is not a command that the participant handles.
func (r *run) knows(m *mainstay.Message) error {
	op := m.Header(mainstay.HeaderOp)
	if m.StepKey() == "" || (op != mainstay.OpDo && op != mainstay.OpUndo) {
		return fmt.Errorf("message of type %s is not a saga's command: headers %s, %s and %s are wanted", m.Type,
			mainstay.HeaderSaga, mainstay.HeaderStep, mainstay.HeaderOp)
	}
	if _, ok := r.c.Participant.Commands[m.Type]; ok {
		return nil
	}
	for _, t := range r.c.Participant.Types {
		if t == m.Type {
			return nil
		}
	}
	return fmt.Errorf("participant %s knows no command %s", r.c.Name, m.Type)
}

// outcome books the end of a command: in the barrier, in the reply, in the queue.
func (r *run) outcome(tx Tx, eff *effects, known knowledge, it item, o mainstay.Outcome, code, detail, count string) {
	put(tx, known, Barrier{
		StepKey: it.m.StepKey(), Op: it.m.Header(mainstay.HeaderOp), Outcome: o, Code: code, Detail: detail, MessageID: it.m.ID,
	})
	reply(tx, r.source(), it.m, o, code, detail)
	eff.done(tx, it, count)
}

func put(tx Tx, known knowledge, b Barrier) {
	tx.PutBarriers(b)
	known[[2]string{b.StepKey, b.Op}] = b
}
