package migrate

import (
	"fmt"
	"strings"
	"time"
)

// NewerError says that the schema was made by a newer binary for such as itself: nobody knows here what it means.
type NewerError struct{ Have, Want int64 }

// Error names both versions.
func (e *NewerError) Error() string {
	return fmt.Sprintf("the schema has version %d, newer than the %d that this program knows", e.Have, e.Want)
}

// Session is a session of PostgreSQL as an operator would look for it.
type Session struct {
	PID int
	// Application and Client say whose it is; Client is "" for a local one.
	Application, Client string
	// State and Since say what it does, and since when its transaction is open; zero when none is.
	State string
	Since time.Time
	// Query is the beginning of its statement, the last one where it is idle.
	Query string
}

// String is one line.
func (s Session) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "session %d (%s", s.PID, s.Application)
	if s.Client != "" {
		b.WriteString(" on " + s.Client)
	}
	if s.State != "" {
		b.WriteString(", " + s.State)
	}
	b.WriteString(")")
	if !s.Since.IsZero() {
		b.WriteString(", in a transaction since " + s.Since.UTC().Format(time.RFC3339))
	}
	if s.Query != "" {
		fmt.Fprintf(&b, ": %s", strings.Join(strings.Fields(s.Query), " "))
	}
	return b.String()
}

func lines(ss []Session) string {
	texts := make([]string, len(ss))
	for i, s := range ss {
		texts[i] = s.String()
	}
	return strings.Join(texts, "; ")
}

// WaitError says that other sessions were in the way for too long. Nothing is half done: it may be run again.
type WaitError struct {
	Waited   time.Duration
	Sessions []Session
}

// Error names the sessions.
func (e *WaitError) Error() string {
	return fmt.Sprintf("gave up after waiting for %v for %s", e.Waited.Round(time.Second), lines(e.Sessions))
}

// OlderProgramsError says that programs are connected that a contraction would break. Nothing was changed.
type OlderProgramsError struct {
	Migration string
	Needs     int64
	Sessions  []Session
}

// Error names the sessions.
func (e *OlderProgramsError) Error() string {
	return fmt.Sprintf("%s is for programs that know migration %d, and older ones are connected: %s", e.Migration, e.Needs, lines(e.Sessions))
}

// EarlierError says that an earlier migration is missing, which is not a contraction.
type EarlierError struct{ Missing string }

// Error names it.
func (e *EarlierError) Error() string { return e.Missing + " was not applied yet" }
