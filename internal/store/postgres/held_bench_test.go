package postgres

import (
	"context"
	"testing"
	"time"

	"github.com/mainstay-io/mainstay/internal/clock"
)

// BenchmarkHeld is one message's way through the machinery while a transaction that has written is held open, all
// that time. Times are of the first and of the last tenth.
func BenchmarkHeld(b *testing.B) {
	url := newDatabase(b)
	w := newWay(b, openStore(b, url))
	hold(b, url)
	steps := map[string]func(context.Context) error{"round": w.round, "save": w.save, "unit": w.unit}
	took := map[string][]time.Duration{}
	for b.Loop() {
		if err := w.append(b.Context()); err != nil {
			b.Fatal(err)
		}
		for _, name := range []string{"round", "save", "unit"} {
			began := clock.Start()
			if err := steps[name](b.Context()); err != nil {
				b.Fatal(name, err)
			}
			took[name] = append(took[name], began.Elapsed())
		}
	}
	for name, all := range took {
		tenth := len(all) / 10
		b.ReportMetric(mean(all[:tenth]), name+"-first-us")
		b.ReportMetric(mean(all[len(all)-tenth:]), name+"-last-us")
	}
}

func mean(ds []time.Duration) float64 {
	var sum time.Duration
	for _, d := range ds {
		sum += d
	}
	return float64(sum.Microseconds()) / float64(max(1, len(ds)))
}
