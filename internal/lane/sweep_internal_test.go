package lane

import (
	"bytes"
	"log/slog"
	"testing"

	"github.com/mainstay-io/mainstay"
)

// TestSweep_SaysItEverMoreSeldom that a lane does not move, and of one that moves nothing.
func TestSweep_SaysItEverMoreSeldom(t *testing.T) {
	t.Parallel()
	r, ls := reader(t, false, 1, 7)
	delete(ls.away, "t")
	var said bytes.Buffer
	r.e.cfg.Logger = slog.New(slog.NewTextHandler(&said, nil))
	heads := map[mainstay.TopicLane]int64{ls.places["t"].TopicLane: 9}
	sweep := func(times int) (lines int) {
		said.Reset()
		for range times {
			r.sweep(t.Context(), heads)
		}
		return bytes.Count(said.Bytes(), []byte("\n"))
	}
	if got := sweep(stillSweeps); got != 0 || r.still() != "" { // the first one sees where it is
		t.Errorf("it was said %d times before its time: %s", got, r.still())
	}
	if got := sweep(9 * stillSweeps); got != 4 || r.still() == "" {
		t.Errorf("it was said %d times: %s%s", got, r.still(), said.String())
	}
	p := ls.places["t"]
	p.Sequence++
	ls.places["t"] = p
	if got := sweep(stillSweeps); got != 0 || r.still() != "" {
		t.Errorf("of a lane that has moved it was said %d times: %s", got, r.still())
	}
	heads[p.TopicLane] = p.Sequence
	if got := sweep(2 * stillSweeps); got != 0 || r.still() != "" {
		t.Errorf("of a lane that is not behind it was said %d times: %s", got, r.still())
	}
}
