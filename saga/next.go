package saga

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/mainstay-io/mainstay"
)

// Input is what happens to an instance: Reply, Tick, Cancel, or an operator's RetryStep, MarkDone or Skip.
type Input interface {
	apply(t *transition)
}

// Reply is a participant's answer to a command of the step.
type Reply struct {
	Step string
	// Op is the direction of the command that is answered.
	Op           string
	Outcome      mainstay.Outcome
	Code, Detail string
}

// Tick says that time has passed: every timer that is due fires.
type Tick struct{}

// Cancel asks for compensation. It is refused once the pivot's command was sent, and does nothing when the
// instance compensates already.
type Cancel struct{ Code, Detail string }

// RetryStep is an operator's order to command a stuck step again, with a fresh budget.
type RetryStep struct{ Step string }

// MarkDone is an operator's word, with evidence in Detail, that what a stuck step should do has been done.
type MarkDone struct{ Step, Detail string }

// Skip is an operator's decision, with the reason in Detail, to go on without what a stuck step should do.
type Skip struct{ Step, Detail string }

// GiveUp ends the wait for whatever was asked: the steps have failed, and wait for an operator. It is for an instance
// whose Tick cannot be taken.
type GiveUp struct{ Code, Detail string }

// Effects is what a transition asks of the engine, beside storing the new state.
type Effects struct {
	// Commands are to be sent, in this order. Their Instance, Payload and Headers are empty.
	Commands []Command
	// Changed says that the state differs from the one before. Without it there is nothing to do or to store.
	Changed bool
	// Refused says that the input asks for what is not possible in this state; nothing changed.
	Refused bool
	// Overdue says that the deadline has passed just now, after the pivot's command was sent: raise an alert.
	Overdue bool
	// Entry describes the transition for the instance's history, when Changed.
	Entry Entry
}

// Causes of entries.
const (
	CauseStart    = "start"
	CauseReply    = "reply"
	CauseTimer    = "timer"
	CauseDeadline = "deadline"
	CauseCancel   = "cancel"
	CauseRetry    = "retry"
	CauseMarkDone = "mark_done"
	CauseSkip     = "skip"
	CauseGiveUp   = "give_up"
)

// Entry is one line of an instance's history.
type Entry struct {
	Cause string `json:"cause"`
	From  Status `json:"from,omitempty"`
	To    Status `json:"to"`
	// Step to Detail are the input's.
	Step    string           `json:"step,omitempty"`
	Op      string           `json:"op,omitempty"`
	Outcome mainstay.Outcome `json:"outcome,omitempty"`
	Code    string           `json:"code,omitempty"`
	Detail  string           `json:"detail,omitempty"`
	// Do and Undo name the steps that are commanded; Spent those that were commanded as often as allowed.
	Do    []string `json:"do,omitempty"`
	Undo  []string `json:"undo,omitempty"`
	Spent []string `json:"spent,omitempty"`
}

// Start makes the state of a new instance and commands the first group. The definition must have passed Verify.
func (d *Definition) Start(now time.Time) (State, Effects) {
	t := &transition{d: d, now: instant(now)}
	t.s.Status = Running
	t.s.Deadline = t.now.Add(d.Deadline)
	for _, step := range d.steps() {
		t.s.Steps = append(t.s.Steps, StepState{Name: step.Name, Status: StepPending})
	}
	t.change(Entry{Cause: CauseStart})
	return t.finish("")
}

// Next is the transition function: what becomes of an instance in state s when in happens at now. It is
// deterministic, has no side effects and leaves s alone.
//
// It absorbs whatever a network does: a duplicate, late or unexpected input changes nothing and commands nothing,
// nor does one that names no step of the definition. A state that is not of this definition is returned unchanged,
// with Refused.
func (d *Definition) Next(s State, in Input, now time.Time) (State, Effects) {
	if !d.fits(&s) {
		return s, Effects{Refused: true}
	}
	if s.Status.Terminal() {
		_, reply := in.(Reply)
		_, tick := in.(Tick)
		_, cancel := in.(Cancel)
		welcome := reply || tick || cancel && s.Status == Compensated
		return s, Effects{Refused: !welcome}
	}
	t := &transition{d: d, now: instant(now), s: s}
	t.s.Steps = slices.Clone(s.Steps)
	in.apply(t)
	if !t.fx.Changed {
		return s, t.fx
	}
	return t.finish(s.Status)
}

func (r Reply) apply(t *transition) {
	i := t.index(r.Step)
	if i < 0 {
		return
	}
	var changed bool
	switch r.Op {
	case mainstay.OpDo:
		changed = t.replyDo(i, r)
	case mainstay.OpUndo:
		changed = t.replyUndo(i, r)
	}
	if changed {
		t.change(Entry{
			Cause: CauseReply, Step: r.Step, Op: r.Op, Outcome: r.Outcome, Code: clip(r.Code), Detail: clip(r.Detail),
		})
	}
}

func (Tick) apply(t *transition) {
	if t.s.Reason == nil && !t.s.Overdue && !t.s.Deadline.IsZero() && !t.now.Before(t.s.Deadline) {
		t.change(Entry{Cause: CauseDeadline})
		if !t.pivotSent() {
			t.compensate(Reason{Code: CodeDeadline, Detail: fmt.Sprintf("not past its point of no return within %v", t.d.Deadline)})
			return
		}
		t.s.Overdue, t.fx.Overdue = true, true
	}
	t.fireTimers()
}

func (c Cancel) apply(t *transition) {
	if t.s.Reason != nil {
		return
	}
	if t.pivotSent() {
		t.fx.Refused = true
		return
	}
	t.compensate(Reason{Code: cmp.Or(clip(c.Code), CodeCancelled), Detail: clip(c.Detail)})
	t.change(Entry{Cause: CauseCancel, Code: t.s.Reason.Code, Detail: t.s.Reason.Detail})
}

func (r RetryStep) apply(t *transition) {
	i, op, ok := t.operate(Entry{Cause: CauseRetry, Step: r.Step})
	if !ok {
		return
	}
	t.s.Steps[i].Asked = 0
	t.send(i, op, true)
}

func (m MarkDone) apply(t *transition) { t.resolve(CauseMarkDone, m.Step, CodeMarkedDone, m.Detail) }

func (s Skip) apply(t *transition) { t.resolve(CauseSkip, s.Step, CodeSkipped, s.Detail) }

func (g GiveUp) apply(t *transition) {
	t.change(Entry{Cause: CauseGiveUp, Code: clip(g.Code), Detail: clip(g.Detail)})
	if t.s.Reason == nil && !t.s.Deadline.IsZero() && !t.now.Before(t.s.Deadline) {
		t.s.Overdue = true
	}
	for i := range t.s.Steps {
		switch t.s.Steps[i].Status {
		case StepAsked:
			t.set(i, StepFailed, g.Code, g.Detail)
		case StepUndoing:
			t.set(i, StepUndoFailed, g.Code, g.Detail)
		}
	}
}
