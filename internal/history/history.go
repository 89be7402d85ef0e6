// Package history tells what of a log counts after its database was restored to an earlier moment. What the database
// wrote after that moment, and published, is still at the broker; the database goes on in a new incarnation, which is
// recorded with its first sequence in each log.
//
// A message is named by (incarnation, sequence). What an incarnation has from the first sequence of a later one on
// never happened.
package history

import "github.com/mainstay-io/mainstay"

// Incarnation is one that was opened after the first, and where it begins in a log.
type Incarnation struct {
	ID    int64
	First int64
}

// Log is the history of one log: its incarnations but the first, by id. A log without any takes all messages.
type Log []Incarnation

// At is the incarnation of a sequence; 0 stands for those before the first in the list.
func (l Log) At(sequence int64) int64 {
	for i := len(l) - 1; i >= 0; i-- {
		if l[i].First <= sequence {
			return l[i].ID
		}
	}
	return 0
}

// Has says whether the message with this name is part of the log.
func (l Log) Has(incarnation, sequence int64) bool {
	if len(l) == 0 {
		return true
	}
	if at := l.At(sequence); at > 0 {
		return incarnation == at
	}
	return incarnation < l[0].ID
}

// Stale says whether the message with this name was replaced by a later incarnation.
func (l Log) Stale(incarnation, sequence int64) bool {
	return incarnation < l.At(sequence)
}

// Next is the sequence that comes behind a place: the next one, or where a later incarnation begins if the place is
// beyond that.
func (l Log) Next(incarnation, sequence int64) int64 {
	next := sequence + 1
	for _, i := range l {
		if i.ID > incarnation {
			next = min(next, i.First)
		}
	}
	return next
}

// With is the log with one more incarnation, if it does not have it.
func (l Log) With(i Incarnation) Log {
	at := len(l)
	for at > 0 && l[at-1].ID >= i.ID {
		if at--; l[at].ID == i.ID {
			return l
		}
	}
	out := make(Log, 0, len(l)+1)
	return append(append(append(out, l[:at]...), i), l[at:]...)
}

// Seam is what the database says of its own history.
type Seam struct {
	// Era changes whenever the database may have gone back to an earlier moment: with every start of its server, and
	// with every restore of a dump.
	Era string
	// Compared says that in this era a relay has held the broker's logs against the database's. Before that, nobody
	// may take what the broker has for what was committed.
	Compared bool
	// Current is the incarnation of what is numbered now.
	Current int64
	// Logs has the logs in which there is more than one incarnation.
	Logs map[mainstay.TopicLane]Log
}
