// Package bench offers load to a system and measures what becomes of it.
//
// An open load begins operations at a rate, whether or not earlier ones have ended, and measures each from the instant
// at which it was to begin: a system that stalls is charged for all who would have come meanwhile. A closed load is a
// number of clients; each begins its next operation when its last one has ended, or posts on while no more than a
// bounded number is unfinished. A closed load tells how much a system can do, an open one how long somebody waits.
//
// Every operation is accounted for: it ends well, fails with the name of a kind, or is unfinished when the patience
// ends. A Result says so, and a run with any of the latter is not good.
//
// Nothing here knows a database or a broker.
package bench
