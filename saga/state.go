package saga

import (
	"strings"
	"time"
)

// Status says where an instance stands.
type Status string

// Statuses of an instance. Completed and Compensated are terminal: no input changes them.
const (
	Running       Status = "running"
	Compensating  Status = "compensating"
	Completed     Status = "completed"
	Compensated   Status = "compensated"
	NeedsOperator Status = "needs_operator"
)

// Terminal reports whether the instance has come to its end.
func (s Status) Terminal() bool { return s == Completed || s == Compensated }

func (s Status) valid() bool {
	switch s {
	case Running, Compensating, Completed, Compensated, NeedsOperator:
		return true
	}
	return false
}

// StepStatus says where a step of an instance stands.
type StepStatus string

// Statuses of a step.
const (
	// StepPending: no command was sent.
	StepPending StepStatus = "pending"
	// StepAsked: commanded, and nobody knows the outcome yet.
	StepAsked StepStatus = "asked"
	// StepDone: the effect is committed at the participant.
	StepDone StepStatus = "done"
	// StepRejected: a definite answer, there is no effect and will be none.
	StepRejected StepStatus = "rejected"
	// StepFailed: the command is a dead letter, or was sent too often without an answer; the outcome is unknown.
	StepFailed StepStatus = "failed"
	// StepUndoing: the compensation is commanded, and not answered yet.
	StepUndoing StepStatus = "undoing"
	// StepUndone: nothing of the step is left, or ever was.
	StepUndone StepStatus = "undone"
	// StepUndoFailed: what StepFailed is, for the compensation.
	StepUndoFailed StepStatus = "undo_failed"
)

func (s StepStatus) valid() bool {
	switch s {
	case StepPending, StepAsked, StepDone, StepRejected, StepFailed, StepUndoing, StepUndone, StepUndoFailed:
		return true
	}
	return false
}

// StepState is what an instance knows about one step.
type StepState struct {
	Name   string
	Status StepStatus
	// Asked counts the commands sent in the present direction since the last operator's retry.
	Asked int
	// Due is when the command is to be repeated, or given up; zero when no answer is awaited.
	Due time.Time
	// Code and Detail say why the step was rejected or failed, or what an operator did about it.
	Code, Detail string
}

// Reason says why an instance is compensated. Step is empty when no step is to blame.
type Reason struct {
	Step   string `json:"step,omitempty"`
	Code   string `json:"code"`
	Detail string `json:"detail,omitempty"`
}

// Codes that the state machine itself gives to reasons and steps, beside those of the participants.
const (
	CodeDeadline   = "deadline_exceeded" // a reason: the deadline passed before the pivot
	CodeCancelled  = "cancelled"         // a reason: a Cancel that named no code
	CodeRejected   = "rejected"          // a rejection that named no code
	CodeVoid       = "void"              // the participant holds the step as undone already
	CodeNoReply    = "no_reply"          // the command was sent as often as allowed
	CodeCrash      = "crash"             // its timer ended the processes that fired it
	CodeFailed     = "failed"            // a failure that named no code
	CodeMarkedDone = "marked_done"       // an operator vouched for the step
	CodeSkipped    = "skipped"           // an operator gave the step up
)

// State is what an instance knows. It is a value: Next answers with another one and shares nothing that is ever
// changed. Its JSON is compact and keeps times to the microsecond.
type State struct {
	Status Status
	// Steps are all steps of the definition, group by group.
	Steps []StepState
	// Reason is why the instance compensates; nil as long as it goes forward.
	Reason *Reason
	// Deadline is Definition.Deadline as an instant.
	Deadline time.Time
	// Overdue says that the deadline passed after the pivot's command was sent.
	Overdue bool
}

// Due is the earliest moment at which a Tick does something; zero when only a reply or a person can.
func (s *State) Due() time.Time {
	var due time.Time
	if s.Status.Terminal() {
		return due
	}
	if s.Reason == nil && !s.Overdue {
		due = s.Deadline
	}
	for i := range s.Steps {
		if t := s.Steps[i].Due; !t.IsZero() && (due.IsZero() || t.Before(due)) {
			due = t
		}
	}
	return due
}

// Step returns a copy of the named step's state, and whether there is one.
func (s *State) Step(name string) (StepState, bool) {
	for i := range s.Steps {
		if s.Steps[i].Name == name {
			return s.Steps[i], true
		}
	}
	return StepState{}, false
}

// Stuck names the steps that wait for an operator.
func (s *State) Stuck() []string {
	var names []string
	for i := range s.Steps {
		if s.stuck(i) {
			names = append(names, s.Steps[i].Name)
		}
	}
	return names
}

// stuck holds for a failed compensation and, on the way forward, for a failed action: once the instance
// compensates, the undo covers that one.
func (s *State) stuck(i int) bool {
	st := s.Steps[i].Status
	return st == StepUndoFailed || st == StepFailed && s.Reason == nil
}

// Owed names the steps whose effect is, or may be, there and has to be undone, in the order of the definition.
// It is empty as long as the instance goes forward.
func (s *State) Owed(d *Definition) []string {
	if s.Reason == nil || !d.fits(s) {
		return nil
	}
	var names []string
	for i, step := range d.steps() {
		if owed(step, s.Steps[i].Status) {
			names = append(names, step.Name)
		}
	}
	return names
}

// owed reports whether a compensating instance may not end with the step in this status.
func owed(step *Step, status StepStatus) bool {
	return status == StepUndoing || status == StepUndoFailed || undoable(step, status)
}

// undoable reports whether the step's compensation is still to be commanded.
func undoable(step *Step, status StepStatus) bool {
	return step.Compensation != nil && (status == StepAsked || status == StepDone || status == StepFailed)
}

// maxText bounds codes and details, in bytes: they come from participants, and the state is stored at every
// transition.
const maxText = 256

// clip makes text from outside fit for storage: bounded, valid UTF-8, and without NUL, which PostgreSQL refuses.
func clip(text string) string {
	if len(text) > maxText {
		text = text[:maxText]
	}
	return strings.ReplaceAll(strings.ToValidUTF8(text, ""), "\x00", "")
}
