package saga

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// FuzzPlain: what is written and read without encoding/json is what it would write and read.
func FuzzPlain(f *testing.F) {
	f.Add(`{"s":"running","p":["reserve asked 1 1767323046000000","book"],"d":1767323105000000}`, "reserve", int64(1767323105000000))
	f.Add(`{"s":"running","p":["a","b"],"d":01}`, `"`, int64(-1))
	f.Add(`{"s":"running","p":[""],"d":-5}`, `a","b`, int64(1))
	f.Add(`{"s":"","p":["a",""],"d":0}`, "<", int64(7))
	f.Add(`{"s":"x","p":["a"],"p":["b"],"d":1}`, "a\u00e9", int64(7))
	f.Fuzz(func(t *testing.T, text, name string, deadline int64) {
		if w, ok := readPlain(text); ok {
			var want wireState
			if err := json.Unmarshal([]byte(text), &want); err != nil {
				t.Fatalf("%s: %v", text, err)
			}
			if diff := cmp.Diff(want, w); diff != "" {
				t.Fatalf("%s (-want +got):\n%s", text, diff)
			}
		}
		s := State{Status: Running, Deadline: fromMicros(deadline), Steps: []StepState{
			{Name: name, Status: StepAsked, Asked: 1, Due: fromMicros(deadline)}, {Name: "book", Status: StepPending},
		}}
		if b, ok := s.marshalPlain(); ok {
			want, err := json.Marshal(s.wire())
			if err != nil || string(want) != string(b) {
				t.Fatalf("got %s, want %s, %v", b, want, err)
			}
			if _, ok := readPlain(string(b)); !ok {
				t.Fatalf("not read again: %s", b)
			}
		} else if name == "reserve" && deadline > 0 {
			t.Fatal("not written")
		}
	})
}
