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
	return json.Marshal(w)
}

// UnmarshalJSON reads the stored form; it refuses statuses that it does not know, and timers that nobody would set.
func (s *State) UnmarshalJSON(b []byte) error {
	var w wireState
	if err := json.Unmarshal(b, &w); err != nil {
		return fmt.Errorf("decoding a saga's state: %w", err)
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

// text is the step without code and detail.
func (st *StepState) text() string {
	if st.Status == StepPending && st.Asked == 0 {
		return st.Name
	}
	b := make([]byte, 0, len(st.Name)+len(st.Status)+24)
	b = append(b, st.Name...)
	b = append(b, ' ')
	b = append(b, st.Status...)
	b = append(b, ' ')
	b = strconv.AppendInt(b, int64(st.Asked), 10)
	if due := toMicros(st.Due); due != 0 {
		b = append(b, ' ')
		b = strconv.AppendInt(b, due, 10)
	}
	return string(b)
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
