package lane

import "testing"

// TestTimerLimit_LeavesRoom for timers that are not fired: as many as fill a batch must not hide those behind them.
func TestTimerLimit_LeavesRoom(t *testing.T) {
	t.Parallel()
	r, ls := reader(t, false, 1, 7)
	lame := &timing{}
	if got := r.timerLimit(lame); got != timerBatch {
		t.Errorf("%d timers are read, want %d", got, timerBatch)
	}
	for _, id := range []string{"a", "b"} {
		ls.deadly[timerRef(1, id)] = 4
	}
	if got := r.timerLimit(lame); got != timerBatch+2 {
		t.Errorf("%d timers are read beside 2 that were given up, want %d", got, timerBatch+2)
	}
}
