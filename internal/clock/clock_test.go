package clock_test

import (
	"testing"
	"time"

	"github.com/mainstay-io/mainstay/internal/clock"
)

func TestSystem_IsWhatADatabaseKeeps(t *testing.T) {
	t.Parallel()
	before := time.Now()
	now := clock.System()
	if now.Location() != time.UTC {
		t.Errorf("location is %v, want UTC", now.Location())
	}
	if now.Nanosecond()%1000 != 0 {
		t.Errorf("%v is finer than a microsecond", now)
	}
	if d := now.Sub(before); d < -time.Millisecond || d > time.Minute {
		t.Errorf("the clock is %v away from the machine's", d)
	}
	if !now.Equal(now.Round(0)) || now != now.Round(0) {
		t.Error("the reading carries a monotonic part, so that equal instants would differ")
	}
}

func TestMono_NeverRunsBackwards(t *testing.T) {
	t.Parallel()
	m := clock.Start()
	first := m.Elapsed()
	if second := m.Elapsed(); first < 0 || second < first {
		t.Errorf("elapsed went from %v to %v", first, second)
	}
}
