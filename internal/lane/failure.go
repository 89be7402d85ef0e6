package lane

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/outbox"
)

// maxError bounds the error text that is kept in a row.
const maxError = 500

// giveUp reports a failure that not even the record of a failure survived; the lane stays where it is, and the same
// is tried again when something wakes it.
func (r *run) giveUp(ctx context.Context, err error) {
	if err != nil && ctx.Err() == nil {
		r.e.cfg.Logger.ErrorContext(ctx, "a failure could not be recorded, the lane stands still", "consumer", r.c.Name, "err", err)
		wait(ctx, time.Second)
	}
}

// fail records the failure of one message.
func (r *run) fail(ctx context.Context, it item, cause error) error {
	var invalid *outbox.InvalidError
	if errors.As(cause, &invalid) {
		cause = mainstay.Terminal(cause)
	}
	return r.transact(ctx, nil, []item{it}, func(ctx context.Context, tx Tx, eff *effects) error {
		switch {
		case it.row != nil && !eff.heads(it), it.row == nil && !eff.move(it):
			return nil
		case it.row == nil && len(eff.queue(it.ls, it.key()).rows) > 0 && !r.behind(tx, eff, it):
			eff.finish(tx)
			return nil
		}
		if rejected := r.rejection(ctx, cause); rejected != nil {
			r.outcome(tx, eff, knowledge{}, it, mainstay.OutcomeRejected, rejected.Code, rejected.Detail, HandledRejected)
		} else {
			r.failed(ctx, tx, eff, it, cause)
		}
		eff.finish(tx)
		return nil
	})
}

// rejection is the business answer in an error of a participant's handler, nil when it is none.
func (r *run) rejection(ctx context.Context, err error) *mainstay.Rejection {
	var rejected *mainstay.Rejection
	if r.c.Participant == nil || mainstay.KindOf(ctx, err) != mainstay.KindBusiness || !errors.As(err, &rejected) {
		return nil
	}
	return rejected
}

// interrupted says that an error only tells of the end of this process.
func (r *run) interrupted(ctx context.Context, err error) bool {
	return r.e.stopping() && mainstay.KindOf(ctx, err) == mainstay.KindInterrupted
}

// failed parks a message that failed, or makes it a dead letter.
func (r *run) failed(ctx context.Context, tx Tx, eff *effects, it item, cause error) {
	row := parkedRow(it, tx.Now())
	if row.Attempts == 0 { // what it waited before, behind others or for its turn, is not held against it
		row.ParkedAt = tx.Now()
	}
	row.Attempts++
	row.Error = short(cause.Error())
	age := tx.Now().Sub(row.ParkedAt)
	kind := kindOf(ctx, cause)
	spent := row.Attempts >= r.e.cfg.Retry.MinAttempts && age >= r.e.cfg.Retry.Budget
	if kind == mainstay.KindTerminal || kind == mainstay.KindBusiness || kind == mainstay.KindCrash || spent {
		r.dead(ctx, tx, eff, it, row, kind)
		return
	}
	row.Due = tx.Now().Add(max(mainstay.RetryDelay(cause), r.e.cfg.Retry.delay(row.Attempts)))
	if row.State != ParkedCall {
		row.State = ParkedRetry
	}
	eff.park(it, row)
	eff.count(HandledParked)
	r.e.cfg.Logger.DebugContext(ctx, "message parked", "consumer", r.c.Name, "message_id", it.m.ID,
		"order_id", it.m.CorrelationID, "attempt", row.Attempts, "err", cause)
}

// kindOf is mainstay.KindOf, and of what nobody could answer for.
func kindOf(ctx context.Context, cause error) mainstay.Kind {
	var crash *crashError
	if errors.As(cause, &crash) {
		return mainstay.KindCrash
	}
	return mainstay.KindOf(ctx, cause)
}

func (r *run) dead(ctx context.Context, tx Tx, eff *effects, it item, row Parked, kind mainstay.Kind) {
	row.State, row.Due = ParkedDead, time.Time{}
	eff.park(it, row)
	tx.DeadLetter(DeadLetter{
		Ref: row.Ref, Message: it.m, Kind: kind, Error: row.Error, Attempts: row.Attempts, At: tx.Now(),
	})
	eff.count(HandledDead)
	if r.c.Participant != nil {
		r.replyFailed(ctx, tx, it.m, kind, row.Error)
	}
	r.e.cfg.Logger.ErrorContext(ctx, "message is a dead letter, a person must look", "consumer", r.c.Name,
		"message_id", it.m.ID, "order_id", it.m.CorrelationID, "saga_id", it.m.Header(mainstay.HeaderSaga),
		"type", it.m.Type, "attempt", row.Attempts, "kind", kind.String(), "err", row.Error)
}

// parkedRow is the item's row, or a first one.
func parkedRow(it item, now time.Time) Parked {
	if it.row != nil {
		return *it.row
	}
	state := ParkedRetry
	if it.early != nil {
		state = ParkedCall
	}
	return Parked{
		Ref: Ref{it.m.TopicLane(), it.m.Sequence}, Key: it.m.Key, State: state,
		StepKey: it.m.StepKey(), Op: it.m.Header(mainstay.HeaderOp), ParkedAt: now, Message: it.m,
	}
}

func short(s string) string {
	if len(s) > maxError {
		s = s[:maxError]
	}
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\ufffd"), "\x00", "\ufffd")
}

// delay draws a pause before the next attempt: full jitter under a doubling, capped limit, and never less than a
// tenth of it.
func (c Retry) delay(attempts int) time.Duration {
	limit := c.Base
	for range min(attempts, 30) - 1 {
		limit = min(2*limit, c.Cap)
	}
	return limit/10 + rand.N(limit*9/10+1) // jitter is no secret
}

// behind puts a message into its key's queue. A command that is there already is not put there twice; a
// compensation takes the place of its own step's action, and true means that nothing else is left in its way.
func (r *run) behind(tx Tx, eff *effects, it item) bool {
	q := eff.queue(it.ls, it.key())
	step, op := it.m.StepKey(), it.m.Header(mainstay.HeaderOp)
	if step != "" && r.c.Participant != nil {
		if op == mainstay.OpUndo {
			for _, row := range q.take(func(p *Parked) bool { return p.StepKey == step && p.Op == mainstay.OpDo }) {
				tx.EndDeadLetter(DeadSuperseded, row.Ref)
				eff.count(HandledSuperseded)
			}
			if len(q.rows) == 0 {
				return true
			}
		}
		if q.has(func(p *Parked) bool { return p.StepKey == step && p.Op == op }) {
			eff.count(HandledCoalesced)
			return false
		}
	}
	row := parkedRow(it, tx.Now())
	row.State, row.Due = ParkedQueued, tx.Now()
	eff.park(it, row)
	eff.count(HandledParked)
	return false
}
