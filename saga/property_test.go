package saga_test

import (
	"encoding/json"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/saga"
)

// machine is one instance in the world, checked at every transition.
type machine struct {
	d     *saga.Definition
	w     *world
	now   time.Time
	state saga.State
	group map[string]int
	steps map[string]*saga.Step
	sent  map[string]int // "do book" -> commands so far
	stuck bool           // it has needed an operator
}

func newMachine(t *rapid.T) *machine {
	d := drawDefinition(t)
	m := &machine{
		d: d, w: drawWorld(t, d), now: epoch,
		group: make(map[string]int), steps: make(map[string]*saga.Step), sent: make(map[string]int),
	}
	for g, group := range d.Groups {
		for k := range group {
			m.group[group[k].Name], m.steps[group[k].Name] = g, &group[k]
		}
	}
	state, fx := d.Start(epoch)
	m.take(t, state, fx)
	return m
}

// in feeds an input twice to the same state, and then once more to what came of it.
func (m *machine) in(t *rapid.T, in saga.Input) saga.Effects {
	before, copied := m.state, clone(m.state)
	state, fx := m.d.Next(before, in, m.now)
	again, fxAgain := m.d.Next(before, in, m.now)
	if !reflect.DeepEqual(before, copied) {
		t.Fatalf("%+v changed its argument:\n%+v\n%+v", in, before, copied)
	}
	if !reflect.DeepEqual(state, again) || !reflect.DeepEqual(fx, fxAgain) {
		t.Fatalf("%+v is not deterministic", in)
	}
	if fx.Changed == reflect.DeepEqual(before, state) {
		t.Fatalf("%+v: Changed is %v\n%+v\n%+v", in, fx.Changed, before, state)
	}
	if !fx.Changed && len(fx.Commands) > 0 {
		t.Fatalf("%+v: commands without a change", in)
	}
	if before.Status.Terminal() && fx.Changed {
		t.Fatalf("%+v changed a terminal state", in)
	}
	m.checkTurn(t, before, state, in)
	m.take(t, state, fx)
	if fx.Refused {
		return fx
	}
	switch in.(type) {
	case saga.RetryStep, saga.MarkDone:
	default:
		if _, fx := m.d.Next(m.state, in, m.now); fx.Changed || len(fx.Commands) > 0 {
			t.Fatalf("%+v a second time: %+v", in, fx)
		}
	}
	return fx
}

// checkTurn holds the rule of the pivot: once it is commanded, only its rejection turns the instance round.
func (m *machine) checkTurn(t *rapid.T, before, after saga.State, in saga.Input) {
	if before.Reason != nil || after.Reason == nil {
		return
	}
	for name, s := range m.steps {
		if st, _ := after.Step(name); s.Pivot && st.Status != saga.StepPending && st.Status != saga.StepRejected {
			t.Fatalf("%+v compensates after the pivot's command: %+v", in, after)
		}
	}
}

func (m *machine) take(t *rapid.T, state saga.State, fx saga.Effects) {
	m.state = state
	m.stuck = m.stuck || state.Status == saga.NeedsOperator
	for _, c := range fx.Commands {
		m.checkCommand(t, c)
		m.w.commands = append(m.w.commands, c)
	}
	m.checkState(t)
}

func (m *machine) checkCommand(t *rapid.T, c saga.Command) {
	name := c.Op + " " + c.Step
	if c.Repeat != (m.sent[name] > 0) {
		t.Fatalf("%s: Repeat is %v after %d commands", name, c.Repeat, m.sent[name])
	}
	m.sent[name]++
	g := m.group[c.Step]
	for i := range m.state.Steps {
		other := m.state.Steps[i]
		earlier := m.group[other.Name] < g
		if c.Op == mainstay.OpDo && earlier && other.Status != saga.StepDone {
			t.Fatalf("%s while %s is %s", name, other.Name, other.Status)
		}
		if later := m.group[other.Name] > g; c.Op == mainstay.OpUndo && later && slices.Contains(m.state.Owed(m.d), other.Name) {
			t.Fatalf("%s while the undo of %s is owed", name, other.Name)
		}
	}
	switch {
	case c.Op == mainstay.OpDo && m.state.Reason != nil:
		t.Fatalf("%s in a compensating instance", name)
	case c.Op == mainstay.OpUndo && m.state.Reason == nil:
		t.Fatalf("%s in an instance that goes forward", name)
	case c.Op == mainstay.OpUndo && m.steps[c.Step].Compensation == nil:
		t.Fatalf("%s has no compensation", name)
	case c.Op == mainstay.OpUndo && m.sent["do "+c.Step] == 0:
		t.Fatalf("%s was never asked to do anything", name)
	}
}

func (m *machine) checkState(t *rapid.T) {
	s := m.state
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var back saga.State
	if err := json.Unmarshal(b, &back); err != nil || !reflect.DeepEqual(s, back) {
		t.Fatalf("round trip of %s: %v\n%+v\n%+v", b, err, s, back)
	}
	stuck, awaited := s.Stuck(), false
	for _, st := range s.Steps {
		awaited = awaited || !st.Due.IsZero()
	}
	if (s.Status == saga.NeedsOperator) != (len(stuck) > 0) {
		t.Fatalf("%s with stuck steps %v", s.Status, stuck)
	}
	if (s.Status == saga.Running || s.Status == saga.Compensating) && !awaited {
		t.Fatalf("%s, and nothing is awaited: %+v", s.Status, s)
	}
	m.checkEnd(t)
}

// checkEnd compares a terminal state with the world.
func (m *machine) checkEnd(t *rapid.T) {
	for name, p := range m.w.parts {
		compensable := m.steps[name].Compensation != nil
		switch {
		case m.state.Status == saga.Completed && (!p.effect || p.undid != ""):
			t.Fatalf("completed, and %s has no effect: %+v", name, p)
		case m.state.Status == saga.Compensated && compensable && p.effect:
			t.Fatalf("compensated, and %s still has an effect", name)
		case m.state.Status == saga.Compensated && !m.steps[name].NoEffect && !compensable && p.effect:
			t.Fatalf("compensated, and %s cannot be undone", name)
		}
	}
	if owed := m.state.Owed(m.d); m.state.Status.Terminal() && len(owed) > 0 {
		t.Fatalf("%s, and owes %v", m.state.Status, owed)
	}
}

// tick fires the timers at now, and holds what Due promises about it.
func (m *machine) tick(t *rapid.T) {
	due := m.state.Due()
	works := !due.IsZero() && !m.now.Before(due)
	if fx := m.in(t, saga.Tick{}); fx.Changed != works {
		t.Fatalf("tick at %v, due at %v: Changed is %v", m.now, due, fx.Changed)
	}
	if next := m.state.Due(); !next.IsZero() && !next.After(m.now) {
		t.Fatalf("after a tick at %v the state is due at %v", m.now, next)
	}
}

func (m *machine) tickWhenDue(t *rapid.T) {
	if due := m.state.Due(); due.After(m.now) {
		m.now = due
	}
	m.tick(t)
}

// chaos is what may happen to an instance in a bad world.
func (m *machine) chaos() map[string]func(*rapid.T) {
	command := func(f func(saga.Command)) func(*rapid.T) {
		return func(t *rapid.T) {
			if len(m.w.commands) > 0 {
				f(take(t, &m.w.commands))
			}
		}
	}
	reply := func(t *rapid.T) {
		if len(m.w.replies) > 0 {
			m.in(t, take(t, &m.w.replies))
		}
	}
	return map[string]func(*rapid.T){
		"handle": command(m.w.handle), "handle more": command(m.w.handle), "handle most": command(m.w.handle),
		"kill": command(m.w.kill), "lose command": command(func(saga.Command) {}),
		"reply": reply, "reply more": reply, "reply most": reply,
		"lose reply": func(t *rapid.T) {
			if len(m.w.replies) > 0 {
				take(t, &m.w.replies)
			}
		},
		"tick": m.tickWhenDue,
		"tick early": func(t *rapid.T) {
			m.now = m.now.Add(time.Duration(rapid.IntRange(0, 900).Draw(t, "ms")) * time.Millisecond)
			m.tick(t)
		},
		"cancel": func(t *rapid.T) {
			if rapid.IntRange(0, 9).Draw(t, "really") == 9 {
				m.in(t, saga.Cancel{Code: "mind_changed"})
			}
		},
		"replay": func(*rapid.T) { m.w.replayDead() },
		"retry": func(t *rapid.T) {
			m.in(t, saga.RetryStep{Step: rapid.SampledFrom(m.state.Steps).Draw(t, "step").Name})
		},
		"mark done": func(t *rapid.T) {
			if stuck := m.state.Stuck(); len(stuck) > 0 {
				step := rapid.SampledFrom(stuck).Draw(t, "step")
				st, _ := m.state.Step(step)
				m.w.byHand(step, st.Status == saga.StepUndoFailed)
				m.in(t, saga.MarkDone{Step: step, Detail: "seen"})
			}
		},
	}
}

// deliver lets everything that is under way arrive, in order and once.
func (m *machine) deliver(t *rapid.T) {
	for len(m.w.commands)+len(m.w.replies) > 0 {
		commands, replies := m.w.commands, m.w.replies
		m.w.commands, m.w.replies = nil, nil
		for _, c := range commands {
			m.w.handle(c)
		}
		for _, r := range replies {
			m.in(t, r)
		}
	}
}

// heal runs a world without faults. Without a person it must end, or ask for one; with one it must end.
func (m *machine) heal(t *rapid.T) {
	for range 500 {
		m.deliver(t)
		switch {
		case m.state.Status.Terminal():
			m.checkEnd(t)
			return
		case !m.state.Due().IsZero():
			m.tickWhenDue(t)
		case m.state.Status != saga.NeedsOperator:
			t.Fatalf("%s for ever: %+v", m.state.Status, m.state)
		default:
			if !m.w.replayDead() {
				m.in(t, saga.RetryStep{Step: m.state.Stuck()[0]})
			}
		}
	}
	t.Fatalf("no end: %+v", m.state)
}

func TestNext_AnyWorld(t *testing.T) {
	t.Parallel()
	ends := make(map[saga.Status]int)
	rapid.Check(t, func(t *rapid.T) {
		m := newMachine(t)
		t.Repeat(m.chaos())
		m.heal(t)
		if m.stuck {
			ends[saga.NeedsOperator]++
		}
		ends[m.state.Status]++
	})
	for _, status := range []saga.Status{saga.Completed, saga.Compensated, saga.NeedsOperator} {
		if ends[status] == 0 && !t.Failed() {
			t.Errorf("inconclusive: no instance came by %s: %v", status, ends)
		}
	}
	t.Log(ends)
}

func clone(s saga.State) saga.State {
	s.Steps = slices.Clone(s.Steps)
	if s.Reason != nil {
		reason := *s.Reason
		s.Reason = &reason
	}
	return s
}
