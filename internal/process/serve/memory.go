package serve

import "runtime/debug"

// gcPercent is how far the heap may grow, in per cent of what lives, before it is collected. What one order leaves
// behind is much and short-lived, and what lives is little, so that an idle process stays below 60 MB at that.
const gcPercent = 400

// tuneGC makes the collector rest longer, unless the operator has said in GOGC how long.
func tuneGC(getenv func(string) string) {
	if getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
}
