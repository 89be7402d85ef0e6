// Package demo shows the backbone at work: it starts a server of its own, sends it orders of every kind from clients
// that retry blindly with the same key, kills it at the height of the load, starts it again, and says what became of
// each order, and why.
//
// # What it claims, and where that comes from
//
// An order is accepted when a client was answered so. After all have ended, every key is sent once more and must name
// the order that it named before, every order is read once more, and the stock that was shipped is compared with what
// the confirmed orders contain. On a server of its own, and where it is told where the data is, the invariants of the
// database are checked as well, against the journal of the demo's clients. Nothing of the closing line is a constant.
//
// # What it leaves behind
//
// Nothing, on a server of its own, but for the directory when something is wrong: that is the evidence. On a running
// server its orders, its articles (their names begin with "demo-") and the capacity of one country stay; what was set
// is said. A running server is never killed.
package demo
