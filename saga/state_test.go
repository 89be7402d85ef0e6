package saga_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/saga"
)

func TestState_StoredForm(t *testing.T) {
	t.Parallel()
	r := start(t).done("reserve").rejected("authorise")
	got, err := json.Marshal(r.state)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"s":"compensating","p":["reserve undoing 1 1767323046000000","authorise rejected 1","book",` +
		`"capture","commit","dispatch"],"n":{"authorise":{"code":"c","detail":"d"}},` +
		`"r":{"step":"authorise","code":"c","detail":"d"},"d":1767323105000000}`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("stored form (-want +got):\n%s", diff)
	}
}

func TestState_RefusesWhatNobodyWrote(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"not JSON":     `{`,
		"empty":        `{}`,
		"status":       `{"s":"asleep"}`,
		"step status":  `{"s":"running","p":["a asleep 1"]}`,
		"no count":     `{"s":"running","p":["a asked"]}`,
		"stray timer":  `{"s":"running","p":["a done 1 1"]}`,
		"bad count":    `{"s":"running","p":["a asked -1 1"]}`,
		"bad timer":    `{"s":"running","p":["a asked 1 soon"]}`,
		"stray fields": `{"s":"running","p":["a asked 1 1 1"]}`,
	} {
		var s saga.State
		if err := json.Unmarshal([]byte(text), &s); err == nil {
			t.Errorf("%s: decoded to %+v", name, s)
		}
	}
}

func TestState_TimesAreKeptToTheMicrosecond(t *testing.T) {
	t.Parallel()
	d := order()
	zone := time.FixedZone("elsewhere", 3600)
	s, _ := d.Start(epoch.Add(1234 * time.Nanosecond).In(zone))
	if want := epoch.Add(time.Minute + time.Microsecond); s.Deadline != want {
		t.Errorf("deadline %v, want %v", s.Deadline, want)
	}
}

func TestState_TextFromOutsideIsBounded(t *testing.T) {
	t.Parallel()
	r := start(t)
	detail := "a\x00b" + strings.Repeat("é", 1000)
	r.in(saga.Reply{Step: "reserve", Op: mainstay.OpDo, Outcome: mainstay.OutcomeRejected, Code: detail, Detail: detail})
	st, _ := r.state.Step("reserve")
	for _, got := range []string{
		st.Code, st.Detail, r.state.Reason.Code, r.state.Reason.Detail, r.fx.Entry.Code, r.fx.Entry.Detail,
	} {
		if len(got) > 256 || !utf8.ValidString(got) || !strings.HasPrefix(got, "abé") {
			t.Errorf("kept %d bytes: %q", len(got), got)
		}
	}
}

func TestState_OwedAndStuck(t *testing.T) {
	t.Parallel()
	r := start(t).done("reserve", "authorise", "book")
	wantNames(t, "owed going forward", r.state.Owed(r.d))
	r.rejected("capture")
	wantNames(t, "owed", r.state.Owed(r.d), "reserve", "authorise", "book")
	r.undoFailed("book")
	wantNames(t, "stuck", r.state.Stuck(), "book")
	r.undone("book").undoFailed("authorise").undone("reserve")
	wantNames(t, "owed", r.state.Owed(r.d), "authorise")
	r.undone("authorise")
	wantNames(t, "owed at the end", r.state.Owed(r.d))
}

func wantNames(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestEntry_TellsTheStory(t *testing.T) {
	t.Parallel()
	r := start(t)
	got := []saga.Entry{r.fx.Entry}
	for _, step := range []func() *run{func() *run { return r.failed("reserve") }, r.tick, r.deadline} {
		got = append(got, step().fx.Entry)
	}
	want := []saga.Entry{
		{Cause: saga.CauseStart, To: saga.Running, Do: []string{"reserve", "authorise"}},
		{
			Cause: saga.CauseReply, From: saga.Running, To: saga.NeedsOperator, Step: "reserve", Op: mainstay.OpDo,
			Outcome: mainstay.OutcomeFailed, Code: "c", Detail: "d",
		},
		{Cause: saga.CauseTimer, From: saga.NeedsOperator, To: saga.NeedsOperator, Do: []string{"authorise"}},
		{
			Cause: saga.CauseDeadline, From: saga.NeedsOperator, To: saga.Compensating,
			Undo: []string{"reserve", "authorise"},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("history (-want +got):\n%s", diff)
	}
	r = start(t).done("reserve")
	for range 4 {
		r.tick()
	}
	wantNames(t, "spent", r.fx.Entry.Spent, "authorise")
}

// FuzzState feeds any stored text to the decoder, and what it lets pass to the transition function.
func FuzzState(f *testing.F) {
	d := order()
	for _, s := range states(d) {
		b, err := json.Marshal(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	inputs := []saga.Input{
		saga.Tick{},
		saga.Cancel{},
		saga.RetryStep{Step: "reserve"},
		saga.MarkDone{Step: "reserve"},
		saga.Reply{Step: "reserve", Op: mainstay.OpDo, Outcome: mainstay.OutcomeRejected},
		saga.Reply{Step: "reserve", Op: mainstay.OpUndo, Outcome: mainstay.OutcomeDone},
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var s, back saga.State
		if json.Unmarshal(b, &s) != nil {
			t.Skip()
		}
		stored, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(stored, &back); err != nil || !reflect.DeepEqual(s, back) {
			t.Fatalf("%s: %v\n%+v\n%+v", stored, err, s, back)
		}
		for _, in := range inputs {
			next, fx := d.Next(s, in, epoch.Add(time.Hour))
			if !fx.Changed && !reflect.DeepEqual(s, next) {
				t.Errorf("%+v changed %s without saying so", in, stored)
			}
		}
	})
}

// states are states of every status.
func states(d *saga.Definition) []saga.State {
	s, _ := d.Start(epoch)
	all := []saga.State{s}
	for _, in := range []saga.Input{
		saga.Reply{Step: "reserve", Op: mainstay.OpDo, Outcome: mainstay.OutcomeFailed},
		saga.Cancel{Detail: "no more"},
		saga.Reply{Step: "reserve", Op: mainstay.OpUndo, Outcome: mainstay.OutcomeVoid},
		saga.Reply{Step: "authorise", Op: mainstay.OpUndo, Outcome: mainstay.OutcomeDone},
	} {
		s, _ = d.Next(s, in, epoch)
		all = append(all, s)
	}
	return all
}

func BenchmarkNext(b *testing.B) {
	d := order()
	s, _ := d.Start(epoch)
	in := saga.Reply{Step: "reserve", Op: mainstay.OpDo, Outcome: mainstay.OutcomeDone}
	b.ReportAllocs()
	for b.Loop() {
		d.Next(s, in, epoch)
	}
}

func BenchmarkState_JSON(b *testing.B) {
	d := order()
	s, _ := d.Start(epoch)
	b.ReportAllocs()
	for b.Loop() {
		text, err := json.Marshal(s)
		if err != nil {
			b.Fatal(err)
		}
		if err := json.Unmarshal(text, &s); err != nil {
			b.Fatal(err)
		}
	}
}
