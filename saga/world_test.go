package saga_test

import (
	"fmt"
	"time"

	"pgregory.net/rapid"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/saga"
)

// drawDefinition makes any definition that passes Verify.
func drawDefinition(t *rapid.T) *saga.Definition {
	d := &saga.Definition{Name: "any", Version: 1, Topic: "replies"}
	var fastest time.Duration
	group := func(size int, one func() saga.Step) {
		steps := draw(size, one)
		for k := range steps {
			steps[k].Name = fmt.Sprintf("s%d-%d", len(d.Groups), k)
			steps[k].Topic, steps[k].Command = "topic", "do."+steps[k].Name
			if c := steps[k].Compensation; c != nil {
				c.Command = "undo." + steps[k].Name
			}
		}
		d.Groups = append(d.Groups, steps)
	}
	withPivot := rapid.Bool().Draw(t, "pivot")
	for range rapid.IntRange(btoi(!withPivot), 3).Draw(t, "groups before") {
		group(rapid.IntRange(1, 3).Draw(t, "size"), func() saga.Step {
			s := saga.Step{Rejects: rapid.Bool().Draw(t, "rejects"), Ask: drawRetry(t)}
			if s.NoEffect = rapid.IntRange(0, 5).Draw(t, "no effect") == 5; !s.NoEffect {
				s.Compensation = &saga.Compensation{Ask: drawRetry(t)}
			}
			return s
		})
		fastest += 3 * time.Second
	}
	if withPivot {
		group(1, func() saga.Step {
			return saga.Step{Pivot: true, Rejects: rapid.Bool().Draw(t, "pivot rejects"), Ask: drawRetry(t)}
		})
		for range rapid.IntRange(0, 2).Draw(t, "groups after") {
			group(rapid.IntRange(1, 2).Draw(t, "size"), func() saga.Step { return saga.Step{Ask: drawRetry(t)} })
		}
	}
	d.Deadline = fastest + time.Duration(rapid.IntRange(1, 60).Draw(t, "slack"))*time.Second
	if err := d.Verify(); err != nil {
		t.Fatal(err)
	}
	return d
}

func draw(n int, step func() saga.Step) []saga.Step {
	steps := make([]saga.Step, n)
	for k := range steps {
		steps[k] = step()
	}
	return steps
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func drawRetry(t *rapid.T) saga.Retry {
	timeout := time.Duration(rapid.IntRange(1, 3).Draw(t, "timeout")) * time.Second
	return saga.Retry{
		Timeout: timeout, Max: timeout * time.Duration(rapid.IntRange(1, 5).Draw(t, "max")),
		Attempts: rapid.IntRange(1, 4).Draw(t, "attempts"),
	}
}

// participant is one step's side of the world: its barrier and its effect.
type participant struct {
	refuses bool             // what it answers to the action, if it ever decides
	did     mainstay.Outcome // what the barrier holds of the action
	undid   mainstay.Outcome // what the barrier holds of the compensation
	effect  bool
	dead    map[string]bool // directions whose command is a dead letter
}

// handle runs a command behind the barrier.
func (p *participant) handle(op string) mainstay.Outcome {
	p.dead[op] = false
	if op == mainstay.OpUndo {
		p.dead[mainstay.OpDo] = false
		if p.undid == "" {
			p.undid = mainstay.OutcomeVoid
			if p.effect {
				p.undid, p.effect = mainstay.OutcomeDone, false
			}
		}
		return p.undid
	}
	if p.did == "" {
		switch {
		case p.undid != "":
			p.did = mainstay.OutcomeVoid
		case p.refuses:
			p.did = mainstay.OutcomeRejected
		default:
			p.did, p.effect = mainstay.OutcomeDone, true
		}
	}
	return p.did
}

// world is everything outside the instance: participants, and messages under way in no order at all.
type world struct {
	parts    map[string]*participant
	commands []saga.Command
	replies  []saga.Reply
}

func drawWorld(t *rapid.T, d *saga.Definition) *world {
	w := &world{parts: make(map[string]*participant)}
	for _, group := range d.Groups {
		for _, s := range group {
			refuses := s.Rejects && rapid.IntRange(0, 3).Draw(t, "refuses "+s.Name) == 3
			w.parts[s.Name] = &participant{refuses: refuses, dead: make(map[string]bool)}
		}
	}
	return w
}

// handle lets the participant run the command, and sends its reply.
func (w *world) handle(c saga.Command) {
	w.send(c, w.parts[c.Step].handle(c.Op))
}

// kill makes the command a dead letter, unless the barrier has its outcome already.
func (w *world) kill(c saga.Command) {
	p := w.parts[c.Step]
	if p.undid != "" || c.Op == mainstay.OpDo && p.did != "" {
		w.handle(c)
		return
	}
	p.dead[c.Op] = true
	w.send(c, mainstay.OutcomeFailed)
}

func (w *world) send(c saga.Command, outcome mainstay.Outcome) {
	w.replies = append(w.replies, saga.Reply{Step: c.Step, Op: c.Op, Outcome: outcome})
}

// byHand is a person who does at the participant what the step, or its compensation, should have done.
func (w *world) byHand(step string, undo bool) {
	p := w.parts[step]
	if undo {
		p.undid, p.effect = mainstay.OutcomeDone, false
	} else if p.undid == "" {
		p.did, p.effect = mainstay.OutcomeDone, true
	}
}

// replayDead replays every dead letter, and reports whether there was one.
func (w *world) replayDead() bool {
	any := false
	for name, p := range w.parts {
		for _, op := range []string{mainstay.OpDo, mainstay.OpUndo} {
			if p.dead[op] {
				any = true
				w.handle(saga.Command{Step: name, Op: op})
			}
		}
	}
	return any
}

// take draws one of a list and, mostly, removes it; otherwise it will come again.
func take[T any](t *rapid.T, list *[]T) T {
	i := rapid.IntRange(0, len(*list)-1).Draw(t, "which")
	x := (*list)[i]
	if rapid.IntRange(0, 3).Draw(t, "duplicate") < 3 {
		*list = append((*list)[:i:i], (*list)[i+1:]...)
	}
	return x
}
