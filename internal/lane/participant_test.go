package lane_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/lane"
)

// local is a participant with both directions of a thing, whose failures fail decides.
func local(w *world, fail func(m *mainstay.Message) error) lane.Consumer {
	do := batch(func(ctx context.Context, tx mainstay.Tx, ms []*mainstay.Message) ([]error, error) {
		errs := make([]error, len(ms))
		for i, m := range ms {
			if fail != nil {
				if errs[i] = fail(m); errs[i] != nil {
					continue
				}
			}
			if err := effect(ctx, tx, "p", m); err != nil {
				return nil, err
			}
		}
		return errs, nil
	})
	return lane.Consumer{Name: "p", Topics: []string{"things"}, Participant: &lane.Participant{
		Commands: map[string]mainstay.BatchHandler{"thing.do": do, "thing.undo": do}, Source: "test",
	}}
}

func (w *world) wantReplies(t *testing.T, want ...string) {
	t.Helper()
	w.until(fmt.Sprintf("the replies are %q", want), func() bool { return len(w.replies()) >= len(want) })
	if diff := cmp.Diff(want, w.replies()); diff != "" {
		t.Fatalf("replies (-want +got):\n%s", diff)
	}
}

func TestBarrier(t *testing.T) {
	t.Parallel()
	do, undo := mainstay.OpDo, mainstay.OpUndo
	reject := func(m *mainstay.Message) error {
		if m.Header(mainstay.HeaderOp) == do {
			return mainstay.Reject("no", "sold out")
		}
		return nil
	}
	for name, tc := range map[string]struct {
		ops     []string
		fail    func(*mainstay.Message) error
		replies []string
		effects []string
	}{
		"done":                     {ops: []string{do}, replies: []string{"s do done"}, effects: []string{"do s"}},
		"repeated":                 {ops: []string{do, do, do}, replies: []string{"s do done", "s do done", "s do done"}, effects: []string{"do s"}},
		"undone":                   {ops: []string{do, undo, undo}, replies: []string{"s do done", "s undo done", "s undo done"}, effects: []string{"do s", "undo s"}},
		"null compensation":        {ops: []string{undo}, replies: []string{"s undo void"}},
		"hanging":                  {ops: []string{undo, do}, replies: []string{"s undo void", "s do void"}},
		"rejected":                 {ops: []string{do, do}, fail: reject, replies: []string{"s do rejected", "s do rejected"}},
		"rejected, nothing undone": {ops: []string{do, undo}, fail: reject, replies: []string{"s do rejected", "s undo void"}},
	} {
		for _, together := range []bool{true, false} {
			t.Run(fmt.Sprint(name, together), func(t *testing.T) {
				t.Parallel()
				w := setup(t)
				w.run(t, local(w, tc.fail))
				var ms []*mainstay.Message
				for _, op := range tc.ops {
					ms = append(ms, command("s", op))
				}
				if together {
					w.send(ms...)
				} else {
					for i, m := range ms {
						w.send(m)
						w.until("it is answered", func() bool { return len(w.replies()) > i })
					}
				}
				w.wantReplies(t, tc.replies...)
				if diff := cmp.Diff(append([]string{}, tc.effects...), w.effects("p")); diff != "" {
					t.Fatalf("effects (-want +got):\n%s", diff)
				}
			})
		}
	}
}

// TestParticipant_RejectsFromAWholeBatch has a handler that knows single messages only, so a rejection fails its batch.
func TestParticipant_RejectsFromAWholeBatch(t *testing.T) {
	t.Parallel()
	w := setup(t)
	h := batch(func(ctx context.Context, tx mainstay.Tx, ms []*mainstay.Message) ([]error, error) {
		for _, m := range ms {
			if err := effect(ctx, tx, "p", m); err != nil {
				return nil, err
			}
			if m.Header(mainstay.HeaderStep) == "b" {
				return nil, mainstay.Reject("no", "sold out")
			}
		}
		return nil, nil
	})
	w.send(command("a", mainstay.OpDo), command("b", mainstay.OpDo), command("c", mainstay.OpDo))
	w.run(t, lane.Consumer{Name: "p", Topics: []string{"things"}, Participant: &lane.Participant{
		Commands: map[string]mainstay.BatchHandler{"thing.do": h},
	}})
	w.until("all are answered", func() bool { return len(w.replies()) == 3 })
	got := w.rows("select step_key, outcome, code from barrier order by step_key")
	if diff := cmp.Diff([]string{"saga/a done ", "saga/b rejected no", "saga/c done "}, got); diff != "" {
		t.Fatal(diff)
	}
	if n := w.number("select count(*) from effect"); n != 2 {
		t.Fatalf("%d effects, want 2", n)
	}
}

func TestParticipant_FailsForGoodAndSaysSo(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.run(t, local(w, func(m *mainstay.Message) error {
		if m.Header(mainstay.HeaderOp) == mainstay.OpDo {
			return errors.New("down")
		}
		return nil
	}))
	w.send(command("s", mainstay.OpDo))
	w.wantReplies(t, "s do failed")
	w.send(command("s", mainstay.OpDo)) // the saga asks again: it is there already
	w.until("it is coalesced", func() bool { return w.seen("p coalesced") == 1 })
	w.send(command("s", mainstay.OpUndo))
	w.wantReplies(t, "s do failed", "s undo void")
	w.wantParked(t)
	if w.number("select count(*) from dead_letter where state = 'superseded'") != 1 {
		t.Fatal("the case is not superseded")
	}
}

func TestParticipant_CompensationSupersedesARetry(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.run(t, local(w, func(m *mainstay.Message) error {
		if m.Header(mainstay.HeaderOp) == mainstay.OpDo {
			return mainstay.RetryAfter(errors.New("down"), time.Hour)
		}
		return nil
	}))
	w.send(command("s", mainstay.OpDo))
	w.wantParked(t, "k-s retry")
	w.send(command("s", mainstay.OpUndo), command("s", mainstay.OpDo))
	w.wantReplies(t, "s undo void", "s do void")
	w.wantParked(t)
	if len(w.effects("p")) != 0 {
		t.Fatalf("effects: %v", w.effects("p"))
	}
}

func TestParticipant_RefusesWhatIsNoCommand(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.run(t, local(w, nil))
	unknown := command("s", mainstay.OpDo)
	unknown.Type = "thing.other"
	w.send(event("things", "plain", "x"), unknown)
	w.until("both are dead", func() bool { return w.number("select count(*) from dead_letter where kind = 'terminal'") == 2 })
	w.wantReplies(t, "s do failed")
}

// callee is what a remote participant calls; its answers wait for the test where it wants.
type callee struct {
	w    *world
	call func(ctx context.Context, m *mainstay.Message) (any, error)

	mu    sync.Mutex
	calls map[string]int
	now   int
	most  int
}

func (c *callee) Call(ctx context.Context, m *mainstay.Message) (any, error) {
	c.mu.Lock()
	if c.calls == nil {
		c.calls = map[string]int{}
	}
	c.calls[string(m.Payload)]++
	c.now++
	c.most = max(c.most, c.now)
	c.mu.Unlock()
	c.w.poke()
	defer func() {
		c.mu.Lock()
		c.now--
		c.mu.Unlock()
	}()
	return c.call(ctx, m)
}

func (c *callee) called(what string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.calls[what]
}

func (c *callee) Settle(ctx context.Context, tx mainstay.Tx, done []mainstay.Settlement) error {
	for _, d := range done {
		if d.Rejection != nil {
			continue
		}
		if err := effect(ctx, tx, "p", d.Message); err != nil {
			return err
		}
	}
	return nil
}

func remote(c mainstay.Remote) lane.Consumer {
	return lane.Consumer{Name: "p", Topics: []string{"things"}, Participant: &lane.Participant{
		Remote: c, Types: []string{"thing.do", "thing.undo"},
	}}
}

// bothWays runs a test with calls that are parked first, and with calls that are made first.
func bothWays(t *testing.T, test func(t *testing.T, w *world)) {
	for name, first := range map[string]bool{"parked first": false, "called first": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := setup(t)
			w.callsFirst = first
			test(t, w)
		})
	}
}

func TestRemote_RepeatsUntilItIsDefinite(t *testing.T) {
	t.Parallel()
	bothWays(t, repeatsUntilItIsDefinite)
}

func repeatsUntilItIsDefinite(t *testing.T, w *world) {
	c := &callee{w: w}
	c.call = func(_ context.Context, m *mainstay.Message) (any, error) {
		switch n := c.called(string(m.Payload)); {
		case n == 1:
			panic("a callee's bug")
		case n < 4:
			return nil, errors.New("timeout")
		case m.Header(mainstay.HeaderStep) == "no":
			return nil, fmt.Errorf("the callee: %w", mainstay.Reject("declined", ""))
		}
		return "ok", nil
	}
	e := w.start(func(cfg *lane.Config, _ *faultyStore) { cfg.Retry.Budget = time.Hour }, remote(c))
	t.Cleanup(e.end)
	w.send(command("yes", mainstay.OpDo), command("no", mainstay.OpDo))
	w.until("both are answered", func() bool { return len(w.replies()) == 2 })
	got := w.rows("select step_key, outcome, code from barrier order by step_key")
	if diff := cmp.Diff([]string{"saga/no rejected declined", "saga/yes done "}, got); diff != "" {
		t.Fatal(diff)
	}
	if diff := cmp.Diff([]string{"do yes"}, w.effects("p")); diff != "" {
		t.Fatal(diff)
	}
	w.wantParked(t)
}

func TestRemote_DropsTheAnswerOfWhatWasSuperseded(t *testing.T) {
	t.Parallel()
	bothWays(t, dropsTheAnswerOfWhatWasSuperseded)
}

func dropsTheAnswerOfWhatWasSuperseded(t *testing.T, w *world) {
	answer := make(chan struct{})
	c := &callee{w: w, call: func(ctx context.Context, m *mainstay.Message) (any, error) {
		if m.Header(mainstay.HeaderOp) == mainstay.OpDo {
			select {
			case <-answer:
			case <-ctx.Done():
			}
		}
		return "ok", nil
	}}
	w.run(t, remote(c))
	w.send(command("s", mainstay.OpDo))
	w.until("the call is under way", func() bool { return c.called("do s") == 1 })
	w.send(command("s", mainstay.OpUndo))
	w.until("the cancel was called", func() bool { return c.called("undo s") == 1 })
	close(answer)
	w.until("the late answer is dropped", func() bool { return w.seen("p call dropped") == 1 })
	w.wantReplies(t, "s undo done")
	w.send(command("s", mainstay.OpDo))
	w.wantReplies(t, "s undo done", "s do void")
	if diff := cmp.Diff([]string{"undo s"}, w.effects("p")); diff != "" {
		t.Fatal(diff)
	}
}

func TestRemote_RepeatsACallAfterACrash(t *testing.T) {
	t.Parallel()
	bothWays(t, repeatsACallAfterACrash)
}

func repeatsACallAfterACrash(t *testing.T, w *world) {
	c := &callee{w: w, call: func(ctx context.Context, _ *mainstay.Message) (any, error) {
		<-ctx.Done()
		return "ok", nil // too late: its process is gone
	}}
	e := w.start(nil, remote(c))
	w.send(command("s", mainstay.OpDo))
	w.until("the call is under way", func() bool { return c.called("do s") == 1 })
	e.kill()
	c2 := &callee{w: w, call: func(context.Context, *mainstay.Message) (any, error) { return "ok", nil }}
	w.run(t, remote(c2))
	w.wantReplies(t, "s do done")
	if c2.called("do s") != 1 {
		t.Fatal("it was not called again")
	}
}

func TestRemote_BoundsCallsAndDelaysNoOtherKey(t *testing.T) {
	t.Parallel()
	bothWays(t, boundsCallsAndDelaysNoOtherKey)
}

func boundsCallsAndDelaysNoOtherKey(t *testing.T, w *world) {
	hang := make(chan struct{})
	c := &callee{w: w, call: func(ctx context.Context, m *mainstay.Message) (any, error) {
		if m.Header(mainstay.HeaderStep) == "hangs" {
			select {
			case <-hang:
			case <-ctx.Done():
			}
		}
		return "ok", nil
	}}
	e := w.start(func(cfg *lane.Config, _ *faultyStore) { cfg.Calls, cfg.CallTimeout = 3, time.Minute }, remote(c))
	t.Cleanup(e.end)
	w.send(command("hangs", mainstay.OpDo))
	w.until("it hangs", func() bool { return c.called("do hangs") == 1 })
	var ms []*mainstay.Message
	for i := range 600 {
		ms = append(ms, command(fmt.Sprint(i), mainstay.OpDo))
	}
	w.send(ms...)
	w.until("the others are answered", func() bool { return len(w.replies()) == 600 })
	name := remote(c).Name
	if now := w.seen(name + " calling"); now != 1 {
		t.Fatalf("%d calls are said to be under way, want the one that hangs", now)
	}
	close(hang)
	w.until("the one that hung as well", func() bool { return len(w.replies()) == 601 })
	if said := w.seen(name + " calling at most"); c.most > 3 || said < c.most || said > 3 {
		t.Fatalf("%d calls at a time, said to be %d, want at most 3", c.most, said)
	}
	if now := w.seen(name + " calling"); now != 0 {
		t.Fatalf("%d calls are said to be under way, want none", now)
	}
	if c.called("do 7") != 1 {
		t.Fatalf("called %d times", c.called("do 7"))
	}
}

// badSettle fails to settle, at first or always.
type badSettle struct {
	callee
	err   error
	times int
}

func (b *badSettle) Settle(ctx context.Context, tx mainstay.Tx, done []mainstay.Settlement) error {
	b.mu.Lock()
	b.times--
	left := b.times
	b.mu.Unlock()
	if left >= 0 {
		return b.err
	}
	return b.callee.Settle(ctx, tx, done)
}

func TestRemote_FailingToSettleIsNobodysAnswer(t *testing.T) {
	t.Parallel()
	ok := func(context.Context, *mainstay.Message) (any, error) { return "ok", nil }
	for name, tc := range map[string]struct {
		err   error
		times int
		want  string
	}{
		"at first":    {errors.New("no"), 1, "s do done"},
		"a rejection": {mainstay.Reject("no", ""), 1000, "s do failed"},
		"for good":    {errors.New("no"), 1000, "s do failed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bothWays(t, func(t *testing.T, w *world) {
				b := &badSettle{callee: callee{w: w, call: ok}, err: tc.err, times: tc.times}
				w.run(t, remote(b))
				w.send(command("s", mainstay.OpDo))
				w.wantReplies(t, tc.want)
			})
		})
	}
}
