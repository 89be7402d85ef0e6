package mainstay

import "time"

// Message is the envelope that travels from the outbox through the broker to a handler: an event (a past-tense
// fact), a command (an imperative to one participant) or a reply (its answer).
//
// The writer fills everything down to Payload; the log fills Lane, Incarnation, Sequence and CreatedAt. A handler
// must not change a message that it was given: it is shared with other consumers of the same process.
type Message struct {
	// ID is the identity of the message, a UUID (version 7 where this module makes it). It never changes: not in
	// the outbox, the broker, a dead letter or a replay.
	ID string
	// Topic names the log that the message goes to: 1 to 64 of a-z, 0-9 and '-'.
	Topic string
	// Key is what is kept in order, 1 to 255 bytes; it decides the lane.
	Key string
	// Type names what the payload means, in dotted lower case: "order.placed", "inventory.reserve".
	Type string
	// Source names the producer, as a CloudEvents source.
	Source string
	// AggregateType and AggregateID name what changed.
	AggregateType string
	AggregateID   string
	// CorrelationID names the business story (an order's id); CausationID the message that directly caused this
	// one, empty for the first of a story.
	CorrelationID string
	CausationID   string
	// Traceparent is the W3C trace context, empty when there is none.
	Traceparent string
	// DataSchema names the schema and version of the payload, empty when it has none.
	DataSchema string
	// Headers are further attributes; names are 1 to 20 of a-z and 0-9, as CloudEvents extensions are, and none of
	// those that the fields of the envelope have on the wire (see outbox.ReservedHeader).
	Headers map[string]string
	// Payload is the content, JSON unless the header datacontenttype says otherwise.
	Payload []byte

	// CreatedAt is when the row was written, to the microsecond.
	CreatedAt time.Time
	// Lane is the slice of the topic, 0 to N-1.
	Lane int
	// Incarnation and Sequence are the message's place in (Topic, Lane): sequences count 1, 2, 3 ... without gaps.
	Incarnation int64
	Sequence    int64
	// Since is the first sequence of Incarnation in (Topic, Lane); 0 for the first incarnation. Whatever earlier ones
	// have from there on never happened.
	Since int64
}

// Names of the headers that commands and replies of sagas carry.
const (
	// HeaderSaga is the id of the saga instance.
	HeaderSaga = "sagaid"
	// HeaderStep is the name of the saga's step.
	HeaderStep = "sagastep"
	// HeaderOp is the direction of the step: OpDo or OpUndo.
	HeaderOp = "sagaop"
	// HeaderReplyTo is the topic that the reply to a command goes to.
	HeaderReplyTo = "replyto"
	// HeaderOutcome is how a step ended, on replies: one of the Outcome values.
	HeaderOutcome = "outcome"
	// HeaderCode is the stable code of a rejection or failure, on replies.
	HeaderCode = "code"
)

// Directions of a saga's step.
const (
	OpDo   = "do"   // the step's own action
	OpUndo = "undo" // its compensation
)

// Outcome is how a participant's step ended. There is no value for "unknown": a step whose end nobody knows has
// sent no reply yet.
type Outcome string

// Outcomes of a step.
const (
	// OutcomeDone: the effect is committed (of a compensation: nothing of the step is left).
	OutcomeDone Outcome = "done"
	// OutcomeRejected: a business answer, there is no effect.
	OutcomeRejected Outcome = "rejected"
	// OutcomeVoid: the action arrived after its compensation and did nothing (a hanging action), or the
	// compensation arrived though the action never did (a null compensation).
	OutcomeVoid Outcome = "void"
	// OutcomeFailed: the command became a dead letter; a person must act. The outcome is not final: a replay may
	// still turn it into another one.
	OutcomeFailed Outcome = "failed"
)

// Header returns the named header, or "".
func (m *Message) Header(name string) string { return m.Headers[name] }

// StepKey identifies one step of one saga in all its repetitions: the key of the participant's barrier and the
// root of every idempotency key that it uses further out. It is empty for a message that belongs to no saga.
func (m *Message) StepKey() string {
	s, step := m.Headers[HeaderSaga], m.Headers[HeaderStep]
	if s == "" || step == "" {
		return ""
	}
	return s + "/" + step
}

// TopicLane names one ordered log: a lane of a topic.
type TopicLane struct {
	Topic string
	Lane  int
}

// TopicLane says which log the message is in.
func (m *Message) TopicLane() TopicLane { return TopicLane{Topic: m.Topic, Lane: m.Lane} }

// TypeTombstone is the type of the marker that a relay publishes in the place of a message that the broker refuses
// for ever. A consumer in the database that wrote the message reads it from the log; others step over it.
const TypeTombstone = "mainstay.tombstone"
