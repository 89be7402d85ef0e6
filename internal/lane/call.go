package lane

import (
	"context"
	"runtime/debug"
	"sync"
	"time"

	"github.com/mainstay-io/mainstay"
)

// finished is a call that came back.
type finished struct {
	ls     *laneState
	row    Parked
	result any
	err    error
	took   time.Duration
}

// takeCalls records the commands of a remote participant as calls; they are made after the commit, but those that were
// made first: what has come back of them is booked.
func (r *run) takeCalls(ctx context.Context, tx Tx, eff *effects, known knowledge, todo []item) error {
	var items []item
	var back []*finished
	for _, it := range todo {
		if it.row == nil && len(eff.queue(it.ls, it.key()).rows) > 0 {
			if !r.behind(tx, eff, it) { // an earlier one of the same batch has become a call
				continue
			}
		}
		act, err := r.decide(ctx, tx, eff, known, it)
		switch {
		case err != nil:
			r.failed(ctx, tx, eff, it, err)
		case act && it.early != nil && it.early.answered:
			items, back = append(items, it), append(back, it.early.f)
		case act:
			row := parkedRow(it, tx.Now())
			row.State, row.Due = ParkedCall, tx.Now()
			eff.park(it, row)
			if it.early != nil {
				eff.underWay(it, row)
			}
		}
	}
	return r.book(ctx, tx, eff, known, items, back)
}

// call makes the call of a queue's head; r.mu is held, the lane is busy with the caller.
func (r *run) call(ctx context.Context, all *sync.WaitGroup, ls *laneState, q *keyQueue) {
	q.calling = true
	r.calling(1)
	f := &finished{ls: ls, row: q.rows[0]}
	all.Go(func() {
		r.e.gate.RLock()
		began := r.e.cfg.Clock()
		f.result, f.err = r.invoke(ctx, f.row.Message)
		r.e.gate.RUnlock()
		f.took = r.e.cfg.Clock().Sub(began)
		r.mu.Lock()
		defer r.mu.Unlock()
		r.calling(-1)
		r.took(f.took)
		if ctx.Err() == nil {
			r.ended = append(r.ended, f)
		}
		r.signal()
	})
}

// calling counts calls that are under way; r.mu is held.
func (r *run) calling(more int) {
	r.calls += more
	r.e.cfg.Hooks.Calling(r.c.Name, r.calls)
}

func (r *run) invoke(ctx context.Context, m *mainstay.Message) (result any, err error) {
	ctx, cancel := context.WithTimeout(ctx, r.e.cfg.CallTimeout)
	defer cancel()
	defer func() {
		if v := recover(); v != nil {
			err = &mainstay.PanicError{Value: v, Stack: debug.Stack()}
		}
	}()
	return r.c.Participant.Remote.Call(ctx, m)
}

// settle books those calls that ended whose rows are still there.
func (r *run) settle(ctx context.Context, tx Tx, eff *effects, ended []*finished) error {
	var items []item
	var calls []*finished
	for _, f := range ended {
		if !current(f) {
			r.e.cfg.Hooks.Called(r.c.Name, CallDropped, f.took)
			continue
		}
		items, calls = append(items, item{ls: f.ls, m: f.row.Message, row: &f.row}), append(calls, f)
	}
	return r.book(ctx, tx, eff, knowledge{}, items, calls)
}

// book books the outcomes of calls, each of its item: effects, barrier, replies; or, of one that nobody knows, when it is
// repeated.
func (r *run) book(ctx context.Context, tx Tx, eff *effects, known knowledge, all []item, calls []*finished) error {
	var definite []mainstay.Settlement
	var items []item
	for i, f := range calls {
		it := all[i]
		rejected := r.rejection(ctx, f.err)
		if f.err != nil && rejected == nil {
			r.e.cfg.Hooks.Called(r.c.Name, CallUnknown, f.took)
			r.failed(ctx, tx, eff, it, f.err)
			continue
		}
		definite = append(definite, mainstay.Settlement{Message: it.m, Result: f.result, Rejection: rejected})
		items = append(items, it)
		r.e.cfg.Hooks.Called(r.c.Name, outcomeOfCall(rejected), f.took)
	}
	if len(definite) == 0 {
		return nil
	}
	if err := r.c.Participant.Remote.Settle(ctx, tx, definite); err != nil {
		return err
	}
	for i, it := range items {
		if rej := definite[i].Rejection; rej != nil {
			r.outcome(tx, eff, known, it, mainstay.OutcomeRejected, rej.Code, rej.Detail, HandledRejected)
		} else {
			r.outcome(tx, eff, known, it, mainstay.OutcomeDone, "", "", HandledDone)
		}
	}
	eff.unflushed = true
	return nil
}

func outcomeOfCall(rejected *mainstay.Rejection) string {
	if rejected != nil {
		return CallRejected
	}
	return CallDone
}

// current says that the call's row is still its queue's head: no compensation has taken its place.
func current(f *finished) bool {
	q := f.ls.queues[f.row.key()]
	return q != nil && q.calling && len(q.rows) > 0 && q.rows[0].Ref == f.row.Ref && q.rows[0].Attempts == f.row.Attempts
}
