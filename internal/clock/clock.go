// Package clock is where the time of day comes from. Nothing else in the module reads it, so that a test can set it
// and no two parts of a transaction disagree about its precision.
package clock

import "time"

// Clock tells the present instant. It may be called by many goroutines at once.
type Clock func() time.Time

// System is the machine's wall clock, in UTC and truncated to the microsecond, the precision that both databases
// keep. What it returns carries no monotonic reading: measure durations with Start and Elapsed.
func System() time.Time { return time.Now().UTC().Truncate(time.Microsecond) }

// Mono is a reading of the monotonic clock, for durations within this process; it is never stored.
type Mono struct{ at time.Time }

// Start reads the monotonic clock.
func Start() Mono { return Mono{at: time.Now()} }

// Elapsed is the time since the reading; it does not jump when the wall clock is set.
func (m Mono) Elapsed() time.Duration { return time.Since(m.at) }
