package saga

import (
	"errors"
	"fmt"
	"time"
)

// Verify refuses a definition that could hang, or end with something half done. It reports every mistake at once,
// joined. A process verifies its definitions when it starts.
func (d *Definition) Verify() error {
	v := &verifier{d: d, seen: make(map[string]bool)}
	v.header()
	v.pivots()
	for g, group := range d.Groups {
		if len(group) == 0 {
			v.fail("group %d is empty", g+1)
		}
		for k := range group {
			v.step(g, &group[k])
		}
	}
	v.deadline()
	return errors.Join(v.errs...)
}

type verifier struct {
	d     *Definition
	pivot int // the pivot's group, or the number of groups when there is none
	seen  map[string]bool
	errs  []error
}

func (v *verifier) fail(format string, args ...any) {
	format = "saga %q version %d: " + format
	v.errs = append(v.errs, fmt.Errorf(format, append([]any{v.d.Name, v.d.Version}, args...)...))
}

func (v *verifier) header() {
	if !validName(v.d.Name) {
		v.fail("the name must be 1 to 64 of a-z, 0-9, '-' and '_'")
	}
	if v.d.Version < 1 {
		v.fail("the version must be at least 1")
	}
	if !validTopic(v.d.Topic) {
		v.fail("the topic of replies must be 1 to 64 of a-z, 0-9 and '-', not %q", v.d.Topic)
	}
	if len(v.d.Groups) == 0 {
		v.fail("there are no steps")
	}
}

func (v *verifier) pivots() {
	v.pivot = len(v.d.Groups)
	count := 0
	for g, group := range v.d.Groups {
		for k := range group {
			if !group[k].Pivot {
				continue
			}
			if count++; count == 1 {
				v.pivot = g
			}
			if len(group) > 1 {
				v.fail("step %q: a pivot must be alone in its group", group[k].Name)
			}
		}
	}
	if count > 1 {
		v.fail("%d steps are pivots; there can be one", count)
	}
}

func (v *verifier) step(group int, s *Step) {
	if !validName(s.Name) {
		v.fail("step %q: the name must be 1 to 64 of a-z, 0-9, '-' and '_'", s.Name)
	}
	if v.seen[s.Name] {
		v.fail("step %q: there are two of this name", s.Name)
	}
	v.seen[s.Name] = true
	if !validTopic(s.Topic) {
		v.fail("step %q: the topic must be 1 to 64 of a-z, 0-9 and '-', not %q", s.Name, s.Topic)
	}
	if s.Replies != "" && !validTopic(s.Replies) {
		v.fail("step %q: the topic of replies must be 1 to 64 of a-z, 0-9 and '-', not %q", s.Name, s.Replies)
	}
	if s.Command == "" {
		v.fail("step %q: there is no command", s.Name)
	}
	v.retry(s.Name, "asking", s.Ask)
	v.compensation(group, s)
}

func (v *verifier) compensation(group int, s *Step) {
	c := s.Compensation
	switch {
	case group > v.pivot && s.Rejects:
		v.fail("step %q: what comes after the pivot cannot be rejected", s.Name)
	case group > v.pivot && c != nil:
		v.fail("step %q: what comes after the pivot is never compensated", s.Name)
	case s.Pivot && c != nil:
		v.fail("step %q: a pivot is never compensated", s.Name)
	case s.NoEffect && c != nil:
		v.fail("step %q: a step without effect has nothing to compensate", s.Name)
	case s.Pivot && s.NoEffect:
		v.fail("step %q: a step without effect is no pivot", s.Name)
	case group < v.pivot && c == nil && !s.NoEffect:
		v.fail("step %q: it comes before the pivot and has no compensation", s.Name)
	}
	if c == nil {
		return
	}
	if c.Command == "" {
		v.fail("step %q: the compensation has no command", s.Name)
	}
	if c.Command == s.Command && c.Command != "" {
		v.fail("step %q: action and compensation have the same command", s.Name)
	}
	v.retry(s.Name, "undoing", c.Ask)
}

func (v *verifier) retry(step, what string, r Retry) {
	if r.Timeout < time.Microsecond {
		v.fail("step %q, %s: the timeout must be positive", step, what)
	}
	if r.Max < r.Timeout {
		v.fail("step %q, %s: the longest timeout (%v) is below the first (%v)", step, what, r.Max, r.Timeout)
	}
	if r.Attempts < 1 {
		v.fail("step %q, %s: attempts must be bounded, and at least 1", step, what)
	}
}

// deadline compares the deadline with the time that the steps may take without one of them being late.
func (v *verifier) deadline() {
	if v.d.Deadline < time.Microsecond {
		v.fail("the deadline must be positive")
		return
	}
	var sum time.Duration
	for _, group := range v.d.Groups[:v.pivot] {
		var slowest time.Duration
		for k := range group {
			slowest = max(slowest, group[k].Ask.Timeout)
		}
		sum += slowest
	}
	if sum > v.d.Deadline {
		v.fail("the timeouts of the steps before the pivot add up to %v, beyond the deadline of %v", sum, v.d.Deadline)
	}
}

func validName(s string) bool { return valid(s, "-_") }

func validTopic(s string) bool { return valid(s, "-") }

// valid reports whether s is 1 to 64 of a-z, 0-9 and the bytes of extra.
func valid(s, extra string) bool {
	if len(s) < 1 || len(s) > 64 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' {
			continue
		}
		found := false
		for k := range len(extra) {
			found = found || extra[k] == c
		}
		if !found {
			return false
		}
	}
	return true
}
