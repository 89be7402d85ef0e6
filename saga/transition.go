package saga

import (
	"cmp"
	"iter"
	"time"

	"github.com/mainstay-io/mainstay"
)

// transition is one run of Next: s is the state being made, and its Steps are the transition's own.
type transition struct {
	d   *Definition
	now time.Time
	s   State
	fx  Effects
}

// steps yields all steps with their index in State.Steps.
func (d *Definition) steps() iter.Seq2[int, *Step] {
	return func(yield func(int, *Step) bool) {
		i := 0
		for _, group := range d.Groups {
			for k := range group {
				if !yield(i, &group[k]) {
					return
				}
				i++
			}
		}
	}
}

// at returns the step with that index in State.Steps, and whether it comes after the pivot.
func (d *Definition) at(index int) (found *Step, afterPivot bool) {
	for i, step := range d.steps() {
		if i == index {
			return step, afterPivot
		}
		afterPivot = afterPivot || step.Pivot
	}
	return nil, false
}

// fits reports whether s is a state of this definition.
func (d *Definition) fits(s *State) bool {
	n := 0
	for i, step := range d.steps() {
		if i >= len(s.Steps) || s.Steps[i].Name != step.Name {
			return false
		}
		if st := s.Steps[i].Status; step.Compensation == nil && (st == StepUndoing || st == StepUndoFailed) {
			return false
		}
		n++
	}
	return n == len(s.Steps)
}

func (t *transition) index(name string) int {
	for i := range t.s.Steps {
		if t.s.Steps[i].Name == name {
			return i
		}
	}
	return -1
}

func (t *transition) change(e Entry) {
	t.fx.Changed, t.fx.Entry = true, e
}

// pivotSent reports whether the point of no return is passed.
func (t *transition) pivotSent() bool {
	for i, step := range t.d.steps() {
		if step.Pivot {
			return t.s.Steps[i].Status != StepPending
		}
	}
	return false
}

// replyDo takes the answer to a step's action. Once the step is being undone, only the answer to that counts: it
// covers whatever the action did or will do.
func (t *transition) replyDo(i int, r Reply) (changed bool) {
	if st := t.s.Steps[i].Status; st != StepAsked && st != StepFailed {
		return false
	}
	switch r.Outcome {
	case mainstay.OutcomeDone:
		t.set(i, StepDone, "", "")
	case mainstay.OutcomeRejected:
		return t.reject(i, cmp.Or(r.Code, CodeRejected), r.Detail)
	case mainstay.OutcomeVoid:
		return t.reject(i, cmp.Or(r.Code, CodeVoid), r.Detail)
	case mainstay.OutcomeFailed:
		if t.s.Steps[i].Status == StepFailed {
			return false
		}
		t.set(i, StepFailed, cmp.Or(r.Code, CodeFailed), r.Detail)
	default:
		return false
	}
	return true
}

// reject takes a definite refusal: it compensates, except after the pivot, where nobody has foreseen it.
func (t *transition) reject(i int, code, detail string) (changed bool) {
	step, afterPivot := t.d.at(i)
	if afterPivot {
		if t.s.Steps[i].Status == StepFailed {
			return false
		}
		t.set(i, StepFailed, code, detail)
		return true
	}
	t.set(i, StepRejected, code, detail)
	if t.s.Reason == nil {
		t.compensate(Reason{Step: step.Name, Code: clip(code), Detail: clip(detail)})
	}
	return true
}

// replyUndo takes the answer to a step's compensation.
func (t *transition) replyUndo(i int, r Reply) (changed bool) {
	st := t.s.Steps[i].Status
	if st != StepUndoing && st != StepUndoFailed {
		return false
	}
	switch r.Outcome {
	case mainstay.OutcomeDone, mainstay.OutcomeVoid:
		t.set(i, StepUndone, "", "")
		return true
	case mainstay.OutcomeRejected, mainstay.OutcomeFailed:
		if st == StepUndoFailed {
			return false
		}
		t.set(i, StepUndoFailed, cmp.Or(r.Code, string(r.Outcome)), r.Detail)
		return true
	}
	return false
}

// set gives the step a status in which no answer is awaited.
func (t *transition) set(i int, status StepStatus, code, detail string) {
	st := &t.s.Steps[i]
	st.Status, st.Due, st.Code, st.Detail = status, time.Time{}, clip(code), clip(detail)
}

// compensate turns the instance round. What was asked stays asked, that is unknown, and is not asked again.
func (t *transition) compensate(r Reason) {
	t.s.Reason = &r
	for i := range t.s.Steps {
		t.s.Steps[i].Due = time.Time{}
	}
}

// fireTimers repeats what is due, or gives it up when it was sent as often as allowed.
func (t *transition) fireTimers() {
	for i, step := range t.d.steps() {
		st := &t.s.Steps[i]
		if st.Due.IsZero() || t.now.Before(st.Due) {
			continue
		}
		if !t.fx.Changed {
			t.change(Entry{Cause: CauseTimer})
		}
		op, ask, failed := mainstay.OpDo, step.Ask, StepFailed
		if st.Status == StepUndoing {
			op, ask, failed = mainstay.OpUndo, step.Compensation.Ask, StepUndoFailed
		}
		if st.Asked < ask.Attempts {
			t.send(i, op, true)
			continue
		}
		t.set(i, failed, CodeNoReply, "")
		t.fx.Entry.Spent = append(t.fx.Entry.Spent, st.Name)
	}
}

// operate begins an operator's exit from a stuck step, and refuses it for any other.
func (t *transition) operate(e Entry) (i int, op string, ok bool) {
	i = t.index(e.Step)
	if i < 0 || !t.s.stuck(i) {
		t.fx.Refused = true
		return i, "", false
	}
	e.Op = mainstay.OpDo
	if t.s.Steps[i].Status == StepUndoFailed {
		e.Op = mainstay.OpUndo
	}
	t.change(e)
	return i, e.Op, true
}

// resolve ends a stuck step as an operator says.
func (t *transition) resolve(cause, step, code, detail string) {
	i, op, ok := t.operate(Entry{Cause: cause, Step: step, Code: code, Detail: clip(detail)})
	if !ok {
		return
	}
	status := StepDone
	if op == mainstay.OpUndo {
		status = StepUndone
	}
	t.set(i, status, code, detail)
}

// finish goes on from what has changed: commands what can be, and finds the status.
func (t *transition) finish(from Status) (State, Effects) {
	if t.s.Reason == nil {
		t.forward()
	} else {
		t.backward()
	}
	t.fx.Entry.From, t.fx.Entry.To = from, t.s.Status
	return t.s, t.fx
}

// forward commands the first group that is not done.
func (t *transition) forward() {
	base := 0
	for _, group := range t.d.Groups {
		done := true
		for i := base; i < base+len(group); i++ {
			if t.s.Steps[i].Status == StepPending {
				t.send(i, mainstay.OpDo, false)
			}
			done = done && t.s.Steps[i].Status == StepDone
		}
		if !done {
			t.s.Status = t.going(Running)
			return
		}
		base += len(group)
	}
	t.s.Status = Completed
}

// backward commands the compensations of the last group that owes any.
func (t *transition) backward() {
	base := len(t.s.Steps)
	for g := len(t.d.Groups) - 1; g >= 0; g-- {
		group := t.d.Groups[g]
		base -= len(group)
		free := true
		for k := range group {
			if undoable(&group[k], t.s.Steps[base+k].Status) {
				t.s.Steps[base+k].Asked = 0
				t.send(base+k, mainstay.OpUndo, false)
			}
			free = free && !owed(&group[k], t.s.Steps[base+k].Status)
		}
		if !free {
			t.s.Status = t.going(Compensating)
			return
		}
	}
	t.s.Status = Compensated
}

// going is the status of an instance that is not at its end.
func (t *transition) going(otherwise Status) Status {
	for i := range t.s.Steps {
		if t.s.stuck(i) {
			return NeedsOperator
		}
	}
	return otherwise
}

// send commands the step and sets its timer.
func (t *transition) send(i int, op string, repeat bool) {
	step, _ := t.d.at(i)
	st := &t.s.Steps[i]
	status, command, ask, names := StepAsked, step.Command, step.Ask, &t.fx.Entry.Do
	if op == mainstay.OpUndo {
		status, command, ask, names = StepUndoing, step.Compensation.Command, step.Compensation.Ask, &t.fx.Entry.Undo
	}
	asked := st.Asked + 1
	*st = StepState{Name: st.Name, Status: status, Asked: asked, Due: t.now.Add(ask.after(asked))}
	*names = append(*names, step.Name)
	t.fx.Commands = append(t.fx.Commands, Command{
		Step: step.Name, Op: op, Type: command, Topic: step.Topic, ReplyTo: t.d.replies(step), Repeat: repeat,
	})
}

// after is how long to wait for the answer to the nth command, n from 1.
func (r Retry) after(n int) time.Duration {
	wait := r.Timeout
	for ; n > 1; n-- {
		if wait > r.Max/2 {
			return r.Max
		}
		wait *= 2
	}
	return wait
}

// instant is t as it is stored.
func instant(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }
