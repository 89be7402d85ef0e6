package demo

import (
	"io"
	"strings"
	"testing"
	"time"

	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/client"
)

// terminal is an environment on a terminal or not, with these variables.
func terminal(is bool, vars ...string) app.Env {
	return app.Env{
		IsTerminal: func(io.Writer) bool { return is },
		Getenv: func(name string) string {
			for _, v := range vars {
				if value, ok := strings.CutPrefix(v, name+"="); ok {
					return value
				}
			}
			return ""
		},
	}
}

func TestScreen(t *testing.T) {
	t.Parallel()
	w := perfect()
	w.board.orders = w.board.orders[:100]
	w.board.news = []string{"bd059fbad8d2  shirt                confirmed"}
	for name, tt := range map[string]struct {
		env           app.Env
		moves, colour bool
	}{
		"terminal":      {terminal(true, "TERM=xterm"), true, true},
		"no colour":     {terminal(true, "TERM=xterm", "NO_COLOR=1"), true, false},
		"dumb terminal": {terminal(true, "TERM=dumb"), false, false},
		"file":          {terminal(false, "TERM=xterm"), false, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var b strings.Builder
			s := newScreen(&b, tt.env)
			s.say("hello")
			s.show(w.board, 3*time.Second)
			s.say("kill -9")
			s.show(w.board, 4*time.Second)
			got := b.String()
			if moves := strings.Contains(got, "\x1b[J"); moves != tt.moves {
				t.Errorf("it moves the cursor: %v", moves)
			}
			if colour := strings.Contains(got, "\x1b[3") || strings.Contains(got, "\x1b[2m"); colour != tt.colour {
				t.Errorf("it has colours: %v", colour)
			}
			if !tt.moves && strings.Contains(got, "\x1b") {
				t.Errorf("there are escape sequences in %q", got)
			}
			golden(t, "screen-"+strings.ReplaceAll(name, " ", "-")+".txt", strings.ReplaceAll(got, "\x1b", "^["))
		})
	}
}

func TestScreen_TakesTheBlockAwayBeforeALine(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	s := newScreen(&b, terminal(true))
	s.draw("one\ntwo\n")
	s.say("stays")
	s.draw("")
	want := "\x1b[?7lone\ntwo\n\x1b[?7h" + "\x1b[2A\r\x1b[J" + "stays\n" + "\x1b[?7lone\ntwo\n\x1b[?7h" + "\x1b[2A\r\x1b[J"
	if b.String() != want {
		t.Errorf("got %q\nwant %q", b.String(), want)
	}
}

func TestSay(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"confirmed": "confirmed", "needs_operator": "needs you", "cancelled/card_declined": "cancelled, card declined",
		"needs_operator/no_carrier": "needs you, no carrier", "not_sent": "not sent",
	} {
		if got := say(in); got != want {
			t.Errorf("say(%q) is %q, want %q", in, got, want)
		}
	}
}

func TestMissing(t *testing.T) {
	t.Parallel()
	r := client.Readiness{Checks: []app.Result{{Name: "database", Ready: true}, {Name: "broker", Reason: "gone"}, {Name: "relay", Reason: "waits"}}}
	if got := missing(r); got != "broker (gone), relay (waits)" {
		t.Errorf("got %q", got)
	}
}
