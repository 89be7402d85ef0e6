package bench

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/mainstay-io/mainstay/internal/app"
)

// redrawEvery is how often the line of progress is drawn.
const redrawEvery = 200 * time.Millisecond

// Progress is one line on a terminal, drawn again and again. A nil one is never seen.
type Progress struct{ w io.Writer }

// NewProgress draws on standard error where that is a terminal, and nowhere else.
func NewProgress(env app.Env) *Progress {
	if !env.IsTerminal(env.Stderr) || env.Getenv("TERM") == "dumb" {
		return nil
	}
	return &Progress{env.Stderr}
}

// Follow draws the line until hide is called, which takes it away.
func (p *Progress) Follow(line func() string) (hide func()) { return p.follow(line) }

func (p *Progress) follow(line func() string) (hide func()) {
	if p == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() {
		tick := time.NewTicker(redrawEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				p.draw(line())
			case <-ctx.Done():
				p.draw("")
				return
			}
		}
	})
	return func() { cancel(); all.Wait() }
}

// draw replaces the line. An error of writing is dropped: what counts is the result.
func (p *Progress) draw(line string) { _, _ = io.WriteString(p.w, "\r\x1b[K"+line) }

// line says how far the run is.
func (r *run) line() string {
	t, now := r.rec.tally(), r.began.Elapsed()
	phase := "warming up"
	rate := float64(t.good) / now.Seconds()
	if now > r.load.Warmup {
		phase = "measuring"
		rate = float64(t.inWindow) / min(now-r.load.Warmup, r.limit()).Seconds()
	}
	if now > r.load.Warmup+r.limit() {
		phase = "waiting for the last"
	}
	return fmt.Sprintf("%s  %.1f s  %s ended  %s/s  %d under way  %d failed", phase, now.Seconds(), grouped(t.good),
		grouped(int64(rate)), t.begun-t.good-t.failed(), t.failed())
}

// limit is for how long operations begin that are measured, as far as that is known.
func (r *run) limit() time.Duration {
	if r.load.Count > 0 {
		return 1<<62 - r.load.Warmup
	}
	return r.load.Duration
}
