package saga_test

import (
	"testing"
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/saga"
)

func TestNext_GoesThroughTheGroups(t *testing.T) {
	t.Parallel()
	r := start(t).want(saga.Running, "do reserve", "do authorise")
	r.done("authorise").want(saga.Running)
	r.done("reserve").want(saga.Running, "do book")
	r.done("book").want(saga.Running, "do capture")
	r.done("capture").want(saga.Running, "do commit", "do dispatch")
	r.done("dispatch").want(saga.Running)
	r.done("commit").want(saga.Completed)
	if due := r.state.Due(); !due.IsZero() {
		t.Errorf("a completed instance is due at %v", due)
	}
}

func TestNext_CommandCarriesTypeAndTopic(t *testing.T) {
	t.Parallel()
	r := start(t)
	if c := r.fx.Commands[1]; c.Type != "payment.authorise" || c.Topic != "payment" {
		t.Errorf("command %+v", c)
	}
	r.done("authorise").rejected("reserve")
	if c := r.fx.Commands[0]; c.Type != "payment.void" || c.Topic != "payment" {
		t.Errorf("compensation %+v", c)
	}
}

func TestNext_RejectionCompensates(t *testing.T) {
	t.Parallel()
	r := start(t).done("reserve", "authorise").rejected("book")
	r.want(saga.Compensating, "undo reserve", "undo authorise")
	if got := *r.state.Reason; got != (saga.Reason{Step: "book", Code: "c", Detail: "d"}) {
		t.Errorf("reason %+v", got)
	}
	r.undone("authorise").want(saga.Compensating)
	r.undone("reserve").want(saga.Compensated)
}

func TestNext_ParallelRejectionCompensatesAtOnce(t *testing.T) {
	t.Parallel()
	r := start(t).rejected("authorise").want(saga.Compensating, "undo reserve")
	r.wantStep("authorise", saga.StepRejected).done("reserve").wantNothing(false)
	r.wantStep("reserve", saga.StepUndoing)
	r.reply(mainstay.OutcomeVoid, mainstay.OpUndo, "reserve").want(saga.Compensated)
}

func TestNext_LateRepliesAreCoveredByTheUndo(t *testing.T) {
	t.Parallel()
	r := start(t).rejected("authorise")
	for _, outcome := range []mainstay.Outcome{
		mainstay.OutcomeDone, mainstay.OutcomeRejected, mainstay.OutcomeVoid, mainstay.OutcomeFailed,
	} {
		r.absorbed(saga.Reply{Step: "reserve", Op: mainstay.OpDo, Outcome: outcome})
	}
	r.undone("reserve").want(saga.Compensated)
}

func TestNext_VoidBeforeThePivotCompensates(t *testing.T) {
	t.Parallel()
	r := start(t).done("reserve").reply(mainstay.OutcomeVoid, mainstay.OpDo, "authorise")
	r.want(saga.Compensating, "undo reserve").wantStep("authorise", saga.StepRejected)
}

func TestNext_StepWithoutEffectIsNotUndone(t *testing.T) {
	t.Parallel()
	d := order()
	d.Groups[0][0].NoEffect, d.Groups[0][0].Compensation = true, nil
	r := &run{t: t, d: d, now: epoch}
	r.state, r.fx = d.Start(epoch)
	r.rejected("authorise").want(saga.Compensated).wantStep("reserve", saga.StepAsked)

	r.state, r.fx = d.Start(epoch)
	r.done("reserve", "authorise").rejected("book").want(saga.Compensating, "undo authorise")
	r.undone("authorise").want(saga.Compensated).wantStep("reserve", saga.StepDone)
}

func TestNext_OwedIsEmptyAtTheEnd(t *testing.T) {
	t.Parallel()
	r := start(t).done("reserve", "authorise")
	r.rejected("book").undone("reserve", "authorise").want(saga.Compensated)
	if len(r.state.Owed(r.d)) > 0 {
		t.Errorf("owed %v", r.state.Owed(r.d))
	}
}

func TestNext_PivotRejectionCompensatesInReverse(t *testing.T) {
	t.Parallel()
	r := start(t).done("reserve", "authorise", "book").rejected("capture")
	r.want(saga.Compensating, "undo book").wantStep("capture", saga.StepRejected)
	r.undone("book").want(saga.Compensating, "undo reserve", "undo authorise")
	r.undone("reserve", "authorise").want(saga.Compensated)
}

func TestNext_AsksAgainThenNeedsOperator(t *testing.T) {
	t.Parallel()
	r := start(t).done("reserve")
	for _, wait := range []time.Duration{1, 2, 4} {
		from := r.now
		r.tick().want(saga.Running, "do authorise again")
		if got := r.now.Sub(from); got != wait*time.Second {
			t.Errorf("waited %v, want %ds", got, wait)
		}
	}
	from := r.now
	r.tick().want(saga.NeedsOperator).wantStep("authorise", saga.StepFailed)
	if got := r.now.Sub(from); got != 4*time.Second {
		t.Errorf("waited %v after the last command, want no more than Max", got)
	}
	r.done("authorise").want(saga.Running, "do book")
}

func TestNext_TickBeforeDueDoesNothing(t *testing.T) {
	t.Parallel()
	r := start(t)
	r.now = epoch.Add(time.Second - time.Microsecond)
	r.absorbed(saga.Tick{})
}

func TestNext_DeadLetterOnTheWayForward(t *testing.T) {
	t.Parallel()
	r := start(t).failed("reserve").want(saga.NeedsOperator)
	r.absorbed(saga.Reply{Step: "reserve", Op: mainstay.OpDo, Outcome: mainstay.OutcomeFailed, Code: "x"})
	r.done("authorise").want(saga.NeedsOperator)
	r.done("reserve").want(saga.Running, "do book")
	r.failed("book").want(saga.NeedsOperator)
	r.deadline().want(saga.Compensating, "undo book")
	r.undone("book").want(saga.Compensating, "undo reserve", "undo authorise")
}

func TestNext_DeadlineCompensatesUnknownSteps(t *testing.T) {
	t.Parallel()
	r := start(t).done("reserve", "authorise").deadline().want(saga.Compensating, "undo book")
	if r.state.Reason.Code != saga.CodeDeadline || r.fx.Entry.Cause != saga.CauseDeadline {
		t.Errorf("reason %+v, entry %+v", r.state.Reason, r.fx.Entry)
	}
	r.done("book").wantNothing(false)
}

func TestNext_DeadlineAfterPivotAlertsOnce(t *testing.T) {
	t.Parallel()
	r := start(t).done("reserve", "authorise", "book").failed("capture").want(saga.NeedsOperator)
	r.deadline().want(saga.NeedsOperator)
	if !r.fx.Overdue || !r.state.Overdue {
		t.Error("not overdue")
	}
	r.absorbed(saga.Tick{})
	if due := r.state.Due(); !due.IsZero() {
		t.Errorf("due at %v", due)
	}
}

func TestNext_Cancel(t *testing.T) {
	t.Parallel()
	cancel := saga.Cancel{Code: "changed_mind"}
	r := start(t).done("reserve").in(cancel).want(saga.Compensating, "undo reserve", "undo authorise")
	if r.state.Reason.Code != "changed_mind" {
		t.Errorf("reason %+v", r.state.Reason)
	}
	r.absorbed(cancel).undone("reserve", "authorise").want(saga.Compensated).absorbed(cancel)

	r = start(t).done("reserve", "authorise", "book").in(cancel)
	r.wantNothing(true).want(saga.Running)
	r.done("capture", "commit", "dispatch").in(cancel).wantNothing(true).want(saga.Completed)
}

func TestNext_RejectionAfterPivotNeedsOperator(t *testing.T) {
	t.Parallel()
	r := start(t).done("reserve", "authorise", "book", "capture").rejected("commit")
	r.want(saga.NeedsOperator).wantStep("commit", saga.StepFailed)
	r.rejected("commit").wantNothing(false)
	r.done("dispatch", "commit").want(saga.Completed)
}

func TestNext_FailedCompensationGoesOnAfterReplay(t *testing.T) {
	t.Parallel()
	r := start(t).done("reserve", "authorise", "book").rejected("capture").undone("book")
	r.undoFailed("authorise").want(saga.NeedsOperator).undoFailed("authorise").wantNothing(false)
	r.undone("reserve").want(saga.NeedsOperator)
	r.undone("authorise").want(saga.Compensated)
}

func TestNext_FailedCompensationHoldsUpEarlierGroups(t *testing.T) {
	t.Parallel()
	r := start(t).done("reserve", "authorise", "book").rejected("capture")
	r.reply(mainstay.OutcomeRejected, mainstay.OpUndo, "book").want(saga.NeedsOperator)
	r.undone("book").want(saga.Compensating, "undo reserve", "undo authorise")
}

func TestNext_CompensationIsAskedAgain(t *testing.T) {
	t.Parallel()
	r := start(t).done("reserve").rejected("authorise").want(saga.Compensating, "undo reserve")
	for range 3 {
		r.tick().want(saga.Compensating, "undo reserve again")
	}
	r.tick().want(saga.NeedsOperator).wantStep("reserve", saga.StepUndoFailed)
	r.undone("reserve").want(saga.Compensated)
}

func TestNext_Operator(t *testing.T) {
	t.Parallel()
	r := start(t).in(saga.RetryStep{Step: "reserve"}).wantNothing(true)
	r.failed("reserve").in(saga.RetryStep{Step: "reserve"}).want(saga.Running, "do reserve again")
	r.failed("reserve").in(saga.MarkDone{Step: "reserve", Detail: "seen"}).want(saga.Running)
	if st, _ := r.state.Step("reserve"); st.Code != saga.CodeMarkedDone || st.Detail != "seen" {
		t.Errorf("step %+v", st)
	}
	r.rejected("authorise").undoFailed("reserve").want(saga.NeedsOperator)
	r.in(saga.RetryStep{Step: "reserve"}).want(saga.Compensating, "undo reserve again")
	r.undoFailed("reserve").in(saga.Skip{Step: "reserve", Detail: "given away"}).want(saga.Compensated)
	r.in(saga.RetryStep{Step: "reserve"}).wantNothing(true)
}

func TestNext_UnknownInputs(t *testing.T) {
	t.Parallel()
	r := start(t)
	r.absorbed(saga.Reply{Step: "nobody", Op: mainstay.OpDo, Outcome: mainstay.OutcomeDone})
	r.absorbed(saga.Reply{Step: "reserve", Op: "??", Outcome: mainstay.OutcomeDone})
	r.absorbed(saga.Reply{Step: "reserve", Op: mainstay.OpDo, Outcome: "??"})
	r.absorbed(saga.Reply{Step: "reserve", Op: mainstay.OpUndo, Outcome: mainstay.OutcomeDone})
	r.absorbed(saga.Reply{Step: "commit", Op: mainstay.OpDo, Outcome: mainstay.OutcomeDone})
	r.in(saga.Skip{Step: "nobody"}).wantNothing(true)
}

func TestNext_RefusesAForeignState(t *testing.T) {
	t.Parallel()
	r := start(t)
	r.state.Steps = r.state.Steps[1:]
	r.in(saga.Tick{}).wantNothing(true)

	r = start(t).done("reserve").rejected("authorise")
	r.d = order()
	r.d.Groups[0][0].Compensation = nil
	r.tick().wantNothing(true)
}

func TestNext_TheFirstReasonStays(t *testing.T) {
	t.Parallel()
	d := order()
	check := d.Groups[0][0]
	check.Name, check.NoEffect, check.Compensation = "check", true, nil
	d.Groups[0] = append(d.Groups[0], check)
	r := &run{t: t, d: d, now: epoch}
	r.state, r.fx = d.Start(epoch)
	r.rejected("authorise").want(saga.Compensating, "undo reserve")
	r.tick().want(saga.Compensating, "undo reserve again")
	r.rejected("check").want(saga.Compensating).wantStep("check", saga.StepRejected)
	if r.state.Reason.Step != "authorise" {
		t.Errorf("reason %+v", r.state.Reason)
	}
}

func TestNext_RetryHasAFreshBudget(t *testing.T) {
	t.Parallel()
	r := start(t).done("reserve").tick().tick().tick().tick().want(saga.NeedsOperator)
	r.in(saga.RetryStep{Step: "authorise"}).want(saga.Running, "do authorise again")
	from := r.now
	r.tick().want(saga.Running, "do authorise again")
	if waited := r.now.Sub(from); waited != time.Second {
		t.Errorf("waited %v", waited)
	}
}

func TestNext_LongTimeoutsDoNotOverflow(t *testing.T) {
	t.Parallel()
	const longest = 290 * 365 * 24 * time.Hour
	d := order()
	d.Groups[3][0].Ask = saga.Retry{Timeout: time.Second, Max: longest, Attempts: 40}
	r := &run{t: t, d: d, now: epoch}
	r.state, r.fx = d.Start(epoch)
	r.done("reserve", "authorise", "book", "capture", "dispatch")
	for r.state.Status == saga.Running {
		st, _ := r.state.Step("commit")
		if wait := st.Due.Sub(r.now); wait <= 0 || wait > longest {
			t.Fatalf("waits %v", wait)
		}
		r.now = st.Due
		r.in(saga.Tick{})
	}
	r.want(saga.NeedsOperator).wantStep("commit", saga.StepFailed)
}
