package saga

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// wireState is the stored form. Each step is one string, "name status asked due" with what is zero left out from
// the right, because states are read and written at every transition, and one object per step costs twice as much.
type wireState struct {
	Status   Status          `json:"s"`
	Steps    []string        `json:"p"`
	Notes    map[string]note `json:"n,omitempty"`
	Reason   *Reason         `json:"r,omitempty"`
	Deadline int64           `json:"d,omitempty"`
	Overdue  bool            `json:"o,omitempty"`
}

// note is a step's code and detail.
type note struct {
	Code   string `json:"code,omitempty"`
	Detail string `json:"detail,omitempty"`
}

// MarshalJSON writes the stored form.
func (s State) MarshalJSON() ([]byte, error) {
	if b, ok := s.marshalPlain(); ok {
		return b, nil
	}
	return json.Marshal(s.wire())
}

func (s *State) wire() wireState {
	w := wireState{
		Status: s.Status, Steps: make([]string, len(s.Steps)), Reason: s.Reason,
		Deadline: toMicros(s.Deadline), Overdue: s.Overdue,
	}
	for i := range s.Steps {
		st := &s.Steps[i]
		w.Steps[i] = st.text()
		if st.Code == "" && st.Detail == "" {
			continue
		}
		if w.Notes == nil {
			w.Notes = make(map[string]note)
		}
		w.Notes[st.Name] = note{st.Code, st.Detail}
	}
	return w
}

// UnmarshalJSON reads the stored form; it refuses statuses that it does not know, and timers that nobody would set.
func (s *State) UnmarshalJSON(b []byte) error {
	w, ok := readPlain(string(b))
	if !ok {
		w = wireState{}
		if err := json.Unmarshal(b, &w); err != nil {
			return fmt.Errorf("decoding a saga's state: %w", err)
		}
	}
	if !w.Status.valid() {
		return fmt.Errorf("decoding a saga's state: unknown status %q", w.Status)
	}
	steps := make([]StepState, len(w.Steps))
	for i, text := range w.Steps {
		if err := steps[i].parse(text); err != nil {
			return fmt.Errorf("decoding a saga's state: step %q: %w", text, err)
		}
		n := w.Notes[steps[i].Name]
		steps[i].Code, steps[i].Detail = n.Code, n.Detail
	}
	*s = State{w.Status, steps, w.Reason, fromMicros(w.Deadline), w.Overdue}
	return nil
}

// Nearly every state is of an instance that goes forward with a deadline and without notes: it is written and read
// without encoding/json, in the same form.
const (
	plainStatus, plainSteps, plainNext, plainDeadline, plainEnd = `{"s":"`, `","p":["`, `","`, `"],"d":`, `}`
)

// marshalPlain writes such a state; false for any other.
func (s *State) marshalPlain() ([]byte, bool) {
	deadline := toMicros(s.Deadline)
	if deadline == 0 || s.Reason != nil || s.Overdue || len(s.Steps) == 0 {
		return nil, false
	}
	b := append(append(make([]byte, 0, 256), plainStatus...), s.Status...)
	for i := range s.Steps {
		st := &s.Steps[i]
		if st.Code != "" || st.Detail != "" {
			return nil, false
		}
		sep := plainNext
		if i == 0 {
			sep = plainSteps
		}
		b = st.appendText(append(b, sep...))
	}
	b = append(strconv.AppendInt(append(b, plainDeadline...), deadline, 10), plainEnd...)
	quotes := 0
	for _, c := range b {
		switch {
		case c == '"':
			quotes++
		case c < 0x20, c > 0x7e, c == '\\', c == '<', c == '>', c == '&': // encoding/json escapes them
			return nil, false
		}
	}
	return b, quotes == 2*(len(s.Steps)+4)
}

// readPlain reads what marshalPlain writes; false for anything else.
func readPlain(text string) (w wireState, ok bool) {
	for i := range len(text) {
		if c := text[i]; c < 0x20 || c > 0x7e || c == '\\' {
			return w, false
		}
	}
	text, ok = strings.CutPrefix(text, plainStatus)
	status, text, ok2 := strings.Cut(text, plainSteps)
	steps, text, ok3 := strings.Cut(text, plainDeadline)
	text, ok4 := strings.CutSuffix(text, plainEnd)
	deadline, err := strconv.ParseInt(text, 10, 64)
	if !ok || !ok2 || !ok3 || !ok4 || err != nil || strconv.FormatInt(deadline, 10) != text || strings.Contains(status, `"`) {
		return w, false
	}
	w = wireState{Status: Status(status), Steps: strings.Split(steps, plainNext), Deadline: deadline}
	for _, step := range w.Steps {
		if strings.Contains(step, `"`) {
			return w, false
		}
	}
	return w, true
}

// text is the step without code and detail.
func (st *StepState) text() string { return string(st.appendText(nil)) }

func (st *StepState) appendText(b []byte) []byte {
	b = append(b, st.Name...)
	if st.Status == StepPending && st.Asked == 0 {
		return b
	}
	b = append(b, ' ')
	b = append(b, st.Status...)
	b = append(b, ' ')
	b = strconv.AppendInt(b, int64(st.Asked), 10)
	if due := toMicros(st.Due); due != 0 {
		b = append(b, ' ')
		b = strconv.AppendInt(b, due, 10)
	}
	return b
}

// parse is the reverse of text.
func (st *StepState) parse(text string) error {
	name, rest, more := strings.Cut(text, " ")
	*st = StepState{Name: name, Status: StepPending}
	if !more {
		return nil
	}
	status, rest, _ := strings.Cut(rest, " ")
	if st.Status = StepStatus(status); !st.Status.valid() {
		return fmt.Errorf("unknown status %q", status)
	}
	count, due, awaited := strings.Cut(rest, " ")
	asked, err := strconv.ParseUint(count, 10, 31)
	if err != nil {
		return fmt.Errorf("counting commands: %w", err)
	}
	st.Asked = int(asked)
	if !awaited {
		return nil
	}
	if st.Status != StepAsked && st.Status != StepUndoing {
		return fmt.Errorf("a timer on a step that is %s", st.Status)
	}
	us, err := strconv.ParseInt(due, 10, 64)
	if err != nil {
		return fmt.Errorf("reading the timer: %w", err)
	}
	st.Due = fromMicros(us)
	return nil
}

func toMicros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func fromMicros(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
}
