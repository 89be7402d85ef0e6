package obs_test

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mainstay-io/mainstay/internal/obs"
)

func TestSparing_SaysAWarningOnceInSoLong(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out strings.Builder
		log := obs.Sparing(slog.New(slog.NewTextHandler(&out, nil)), 5*time.Second)
		lines := func() (n int) {
			n = strings.Count(out.String(), "\n")
			out.Reset()
			return n
		}
		for i := range 100 {
			log.Warn("the database did not take a batch", "consumer", fmt.Sprint(i))
			log.With("other", i).Warn("the log could not be read")
		}
		if n := lines(); n != 2 {
			t.Errorf("%d lines of 200 alike, want one of each kind", n)
		}
		for range 10 {
			log.Error("message is a dead letter")
			log.Info("a log is published again")
		}
		if n := lines(); n != 20 {
			t.Errorf("%d lines of 20 that are no warnings", n)
		}
		time.Sleep(5 * time.Second) // bubble time
		log.Warn("the database did not take a batch", "consumer", "orders")
		if got := out.String(); !strings.Contains(got, "consumer=orders others_not_logged=99") {
			t.Errorf("after a while: %q", got)
		}
		lines()
		time.Sleep(5 * time.Second)
		log.Warn("the database did not take a batch")
		if got := out.String(); lines() != 1 || strings.Contains(got, "others") {
			t.Errorf("a single one later: %q", got)
		}
		for i := range 300 { // what is kept in mind is bounded, and nothing is lost by it
			log.Warn(fmt.Sprint("kind ", i))
		}
		if n := lines(); n != 300 {
			t.Errorf("%d lines of 300 different ones", n)
		}
	})
}
