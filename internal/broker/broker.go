// Package broker is the contract between the backbone and whatever carries its messages: a set of logs by
// (topic, lane). There are no acknowledgements, no redelivery and no consumer groups; a consumer's place is kept
// in its own database, and a broker that lost everything is filled again from the outbox.
//
// Every adapter passes the one suite in brokertest; the database's own log, which is only read, passes its half about
// reading.
package broker

import (
	"context"
	"errors"

	"github.com/mainstay-io/mainstay"
)

// Errors of the contract. Adapters wrap them around the vendor's own.
var (
	// ErrConflict: the log's last record is not the expected one: another relay published, or the log went back.
	ErrConflict = errors.New("broker: the log is not where it was expected to be")
	// ErrUnknown: nobody knows which of the messages were stored (timeout, lost connection). Look at the Tail.
	ErrUnknown = errors.New("broker: outcome of the publish is unknown")
	// ErrFull: the log refuses more until it ages out.
	ErrFull = errors.New("broker: the log is full")
	// ErrClosed: the adapter or the subscription was closed.
	ErrClosed = errors.New("broker: closed")
)

// RefusedError says that the broker will never take one message (its size, its subject). Nothing of the call that
// it failed was stored from that message on.
type RefusedError struct {
	MessageID string
	Err       error
}

// Error names the message and the broker's reason.
func (e *RefusedError) Error() string {
	return "broker refuses message " + e.MessageID + ": " + e.Err.Error()
}

// Unwrap gives the broker's reason.
func (e *RefusedError) Unwrap() error { return e.Err }

// Tail is the last record of a log, or another one that was looked at; the zero value means that there is none. Of a
// record that is not readable only the position is known.
type Tail struct {
	Incarnation int64
	Sequence    int64
	MessageID   string
	// Position is the broker's own number of the record: positive, increasing within a log.
	Position int64
	// Origin names the database that wrote it; empty when the record does not say.
	Origin string
}

// Publisher appends to logs. Only relays do.
type Publisher interface {
	// Publish appends msgs, in this order within each log. expect holds, by log, the position of the last record
	// that the caller knows there (0: the log is empty); a log without an entry is not checked. It answers with
	// the position of the last record by log. It blocks until the broker has acknowledged everything, or ctx
	// ends. After an error nothing is known of any message, but what the error says; a log may then hold a
	// prefix of its messages, never a hole.
	Publish(ctx context.Context, msgs []*mainstay.Message, expect map[mainstay.TopicLane]int64) (map[mainstay.TopicLane]int64, error)
	// Tail looks at the last record of a log.
	Tail(ctx context.Context, log mainstay.TopicLane) (Tail, error)
	// At looks at the record that has this position; the zero value when there is none of this log.
	At(ctx context.Context, log mainstay.TopicLane, position int64) (Tail, error)
	// Generation grows when the connection, or what it leads to, was made anew: nothing is known of the logs then.
	// It does not block.
	Generation() int64
}

// Start says where reading of a log begins: after the record with this sequence, 0 for all that the broker has.
type Start struct {
	mainstay.TopicLane
	Incarnation int64
	Sequence    int64
}

// Reader reads logs.
type Reader interface {
	// Subscribe reads the given logs, each from its start, and then what is published to them. A record may come
	// twice, and records below the start may come too; a record that the broker no longer has, or not yet, is
	// simply not delivered: the caller sees the gap in the sequences. Subscribe may block on the network until ctx
	// ends; the subscription outlives ctx.
	Subscribe(ctx context.Context, from []Start) (Subscription, error)
}

// Subscription is a running read of some logs, for one goroutine; Close may be called from another one.
type Subscription interface {
	// Next blocks until there are records and gives all that have arrived, at most a bounded number, in order
	// within each log. Messages are shared and must not be changed. It reconnects by itself; an error other than
	// ctx's means that the subscription is of no more use.
	Next(ctx context.Context) ([]*mainstay.Message, error)
	// Close ends the subscription; Next answers ErrClosed. It may be called twice.
	Close() error
}

// Broker is a publisher and a reader over one connection.
type Broker interface {
	Publisher
	Reader
	// Ready answers nil when the broker can be used now, else what is wrong in words for an operator.
	Ready(ctx context.Context) error
	// Close releases everything. It may be called twice.
	Close() error
}
