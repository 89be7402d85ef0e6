package saga_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/saga"
)

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// order is a definition of the usual shape: two parallel steps, one more, the pivot, two parallel steps.
func order() *saga.Definition {
	ask := saga.Retry{Timeout: time.Second, Max: 4 * time.Second, Attempts: 4}
	undo := func(command string) *saga.Compensation { return &saga.Compensation{Command: command, Ask: ask} }
	return &saga.Definition{
		Name: "order", Version: 1, Topic: "order-replies", Deadline: time.Minute,
		Groups: [][]saga.Step{
			{
				{
					Name: "reserve", Topic: "inventory", Command: "inventory.reserve", Rejects: true, Ask: ask,
					Compensation: undo("inventory.release"),
				},
				{
					Name: "authorise", Topic: "payment", Command: "payment.authorise", Rejects: true, Ask: ask,
					Compensation: undo("payment.void"),
				},
			},
			{{
				Name: "book", Topic: "logistics", Command: "logistics.book", Rejects: true, Ask: ask,
				Compensation: undo("logistics.cancel"),
			}},
			{{Name: "capture", Topic: "payment", Command: "payment.capture", Rejects: true, Pivot: true, Ask: ask}},
			{
				{Name: "commit", Topic: "inventory", Command: "inventory.commit", Ask: ask},
				{Name: "dispatch", Topic: "logistics", Command: "logistics.dispatch", Ask: ask},
			},
		},
	}
}

// run feeds inputs to one instance and keeps what came of the last.
type run struct {
	t     *testing.T
	d     *saga.Definition
	now   time.Time
	state saga.State
	fx    saga.Effects
}

func start(t *testing.T) *run {
	t.Helper()
	r := &run{t: t, d: order(), now: epoch}
	if err := r.d.Verify(); err != nil {
		t.Fatal(err)
	}
	r.state, r.fx = r.d.Start(epoch)
	return r
}

func (r *run) in(in saga.Input) *run {
	r.t.Helper()
	r.state, r.fx = r.d.Next(r.state, in, r.now)
	return r
}

func (r *run) reply(outcome mainstay.Outcome, op string, steps ...string) *run {
	r.t.Helper()
	for _, step := range steps {
		r.in(saga.Reply{Step: step, Op: op, Outcome: outcome, Code: "c", Detail: "d"})
	}
	return r
}

func (r *run) done(steps ...string) *run {
	return r.reply(mainstay.OutcomeDone, mainstay.OpDo, steps...)
}

func (r *run) rejected(steps ...string) *run {
	return r.reply(mainstay.OutcomeRejected, mainstay.OpDo, steps...)
}

func (r *run) failed(steps ...string) *run {
	return r.reply(mainstay.OutcomeFailed, mainstay.OpDo, steps...)
}

func (r *run) undone(steps ...string) *run {
	return r.reply(mainstay.OutcomeDone, mainstay.OpUndo, steps...)
}

func (r *run) undoFailed(steps ...string) *run {
	return r.reply(mainstay.OutcomeFailed, mainstay.OpUndo, steps...)
}

// tick moves the clock to when the next timer is due.
func (r *run) tick() *run {
	r.t.Helper()
	if due := r.state.Due(); due.After(r.now) {
		r.now = due
	}
	return r.in(saga.Tick{})
}

// deadline moves the clock to the deadline, with one tick there.
func (r *run) deadline() *run {
	r.t.Helper()
	r.now = r.state.Deadline
	return r.in(saga.Tick{})
}

// want compares the status and the commands of the last transition ("do reserve", "undo book again").
func (r *run) want(status saga.Status, commands ...string) *run {
	r.t.Helper()
	if r.state.Status != status {
		r.t.Errorf("status %s, want %s", r.state.Status, status)
	}
	var got []string
	for _, c := range r.fx.Commands {
		text := c.Op + " " + c.Step
		if c.Repeat {
			text += " again"
		}
		got = append(got, text)
	}
	if diff := cmp.Diff(commands, got); diff != "" {
		r.t.Errorf("commands (-want +got):\n%s", diff)
	}
	return r
}

func (r *run) wantStep(name string, status saga.StepStatus) *run {
	r.t.Helper()
	if st, _ := r.state.Step(name); st.Status != status {
		r.t.Errorf("step %s is %s, want %s", name, st.Status, status)
	}
	return r
}

// wantNothing asserts that the last input changed nothing.
func (r *run) wantNothing(refused bool) *run {
	r.t.Helper()
	if r.fx.Changed || len(r.fx.Commands) > 0 || r.fx.Refused != refused {
		r.t.Errorf("effects %+v, want none and Refused %v", r.fx, refused)
	}
	return r
}

// absorbed asserts that the input changes neither state nor anything else.
func (r *run) absorbed(in saga.Input) *run {
	r.t.Helper()
	before := r.state
	r.in(in).wantNothing(false)
	if diff := cmp.Diff(before, r.state); diff != "" {
		r.t.Errorf("%+v changed the state:\n%s", in, diff)
	}
	return r
}
