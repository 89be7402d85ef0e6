package demo

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/clock"
)

const (
	redrawEvery = 100 * time.Millisecond
	lineEvery   = time.Second
	barWidth    = 40
)

// screen is where the demo shows what happens: on a terminal a block that is drawn again and again below what was
// said, elsewhere a line each second. It may be used by many goroutines. An error of writing is dropped: what counts
// is the result.
type screen struct {
	env  app.Env
	live bool

	mu    sync.Mutex
	w     io.Writer
	drawn int    // lines of the block that stand on the terminal
	block string // what they are
}

func newScreen(w io.Writer, env app.Env) *screen {
	return &screen{env: env, w: w, live: env.IsTerminal(w) && env.Getenv("TERM") != "dumb"}
}

// paint colours text.
type paint struct{ on bool }

// paint is how to colour what goes to w.
func (s *screen) paint(w io.Writer) paint {
	return paint{s.env.IsTerminal(w) && s.env.Getenv("TERM") != "dumb" && s.env.Getenv("NO_COLOR") == ""}
}

func (p paint) with(code, text string) string {
	if !p.on {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (p paint) good(text string) string { return p.with("32", text) }
func (p paint) fair(text string) string { return p.with("33", text) }
func (p paint) bad(text string) string  { return p.with("1;31", text) }
func (p paint) dim(text string) string  { return p.with("2", text) }

// say prints a line that stays.
func (s *screen) say(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, _ = io.WriteString(s.w, s.erase()+fmt.Sprintf(format, args...)+"\n"+s.put())
}

// erase gives what takes the block away; s.mu is held.
func (s *screen) erase() string {
	if s.drawn == 0 {
		return ""
	}
	return fmt.Sprintf("\x1b[%dA\r\x1b[J", s.drawn)
}

// put gives what draws the block; s.mu is held. Lines that are too long for the terminal are cut, so that a line of
// the block is one of the terminal.
func (s *screen) put() string {
	s.drawn = strings.Count(s.block, "\n")
	if s.drawn == 0 {
		return ""
	}
	return "\x1b[?7l" + s.block + "\x1b[?7h"
}

func (s *screen) draw(block string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.erase()
	s.block = block
	_, _ = io.WriteString(s.w, before+s.put())
}

// follow shows the board until hide is called, which shows it once more as it is then.
func (s *screen) follow(ctx context.Context, b *board, since clock.Mono) (hide func()) {
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	all.Go(func() {
		every := lineEvery
		if s.live {
			every = redrawEvery
		}
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				s.show(b, since.Elapsed())
			case <-ctx.Done():
				return
			}
		}
	})
	return func() {
		cancel()
		all.Wait()
		if s.live {
			s.draw("")
		}
		s.say("%s", progress(b.tally(), since.Elapsed()))
	}
}

func (s *screen) show(b *board, elapsed time.Duration) {
	if s.live {
		s.draw(block(b.tally(), b.latest(), elapsed, s.paint(s.w)))
		return
	}
	s.say("%s", progress(b.tally(), elapsed))
}

// progress is how far all orders are, in a line.
func progress(t tally, elapsed time.Duration) string {
	return fmt.Sprintf("%5.1f s  %3d accepted, %3d ended: %d confirmed, %d cancelled, %s",
		elapsed.Seconds(), t.accepted, t.ended(), t.confirmed, t.cancelled, plural(t.needsOperator, "needs you", "need you"))
}

// block is how far all orders are, on a terminal.
func block(t tally, news []string, elapsed time.Duration, p paint) string {
	var b strings.Builder
	full := barWidth * t.ended() / max(1, t.planned)
	moving := barWidth*(t.ended()+t.inFlight())/max(1, t.planned) - full
	bar := p.good(strings.Repeat("█", full)) + p.fair(strings.Repeat("▒", moving)) + p.dim(strings.Repeat("░", barWidth-full-moving))
	fmt.Fprintf(&b, "\n  %s  %d of %d have ended  %5.1f s\n\n", bar, t.ended(), t.planned, elapsed.Seconds())
	alarm := p.dim
	if t.needsOperator > 0 {
		alarm = p.bad
	}
	fmt.Fprintf(&b, "  %s   %s   %3d cancelled   %s\n\n", p.fair(fmt.Sprintf("%3d under way", t.inFlight())),
		p.good(fmt.Sprintf("%3d confirmed", t.confirmed)), t.cancelled, alarm(plural(t.needsOperator, "needs you", "need you")))
	for i := range newsKept {
		line := ""
		if i < len(news) {
			line = "  " + p.dim(news[i])
		}
		b.WriteString(line + "\n")
	}
	return b.String()
}
