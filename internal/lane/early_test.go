package lane_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/lane"
)

// TestRemote_WhatIsAnsweredAtOnceIsNotParked counts transactions: one for each command that is called first.
func TestRemote_WhatIsAnsweredAtOnceIsNotParked(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, w *world) {
		c := &callee{w: w, call: func(context.Context, *mainstay.Message) (any, error) { return "ok", nil }}
		e := w.start(nil, remote(c))
		w.send(command("s", mainstay.OpDo))
		w.wantReplies(t, "s do done")
		w.send(command("s", mainstay.OpDo)) // the barrier knows the step
		w.wantReplies(t, "s do done", "s do done")
		w.send(command("s", mainstay.OpUndo)) // parked in either way
		w.wantReplies(t, "s do done", "s do done", "s undo done")
		e.end()
		units := 5
		if w.callsFirst {
			units = 4
		}
		if c.called("do s") != 1 {
			t.Errorf("called %d times, want once", c.called("do s"))
		}
		if got := w.seen("batch"); got != units {
			t.Errorf("%d transactions, want %d", got, units)
		}
	})
}

// TestRemote_IsAnsweredWhileItIsParked: a call that was made first comes back after it was waited for, and before the unit
// that parks it has committed.
func TestRemote_IsAnsweredWhileItIsParked(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.callsFirst = true
	goOn := make(chan struct{})
	c := &callee{w: w, call: func(ctx context.Context, _ *mainstay.Message) (any, error) {
		select {
		case <-goOn:
			return "ok", nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}}
	var once sync.Once
	back := func() {
		close(goOn)
		again := time.NewTicker(time.Millisecond)
		defer again.Stop()
		limit := time.After(time.Minute)
		for w.seen("p calling") > 0 {
			select {
			case <-again.C:
			case <-limit:
				t.Error("the call does not come back")
				return
			}
		}
	}
	e := w.start(func(cfg *lane.Config, fs *faultyStore) {
		cfg.CallTimeout = time.Minute
		fs.before = func(lane.Unit) error { once.Do(back); return nil }
	}, remote(c))
	w.send(command("s", mainstay.OpDo))
	w.wantReplies(t, "s do done")
	e.end()
	if got := w.seen("batch"); got != 2 || c.called("do s") != 1 {
		t.Errorf("%d calls, %d transactions, want one that is parked, and settled", c.called("do s"), got)
	}
}

// TestRemote_TheLogRemembersACall: a process dies between the answer to a call that it made first and the unit that was
// to book it. The compensation that was sent meanwhile reaches the callee all the same.
func TestRemote_TheLogRemembersACall(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.callsFirst = true
	died := make(chan struct{})
	var store *faultyStore
	c := &callee{w: w, call: func(context.Context, *mainstay.Message) (any, error) {
		store.dead.Store(true)
		close(died)
		return "ok", nil
	}}
	first := w.start(func(_ *lane.Config, fs *faultyStore) { store = fs }, remote(c))
	w.send(command("s", mainstay.OpDo))
	<-died
	first.kill()
	w.send(command("s", mainstay.OpUndo))
	c2 := &callee{w: w, call: func(context.Context, *mainstay.Message) (any, error) { return "ok", nil }}
	w.run(t, remote(c2))
	w.until("the compensation is answered", func() bool { return slices.Contains(w.replies(), "s undo done") })
	if c2.called("undo s") != 1 {
		t.Error("the callee was not told of the compensation")
	}
	if done := w.number("select count(*) from barrier where op = 'do' and outcome = 'done'"); done != c2.called("do s") {
		t.Errorf("%d actions are booked, and %d were called again", done, c2.called("do s"))
	}
}
