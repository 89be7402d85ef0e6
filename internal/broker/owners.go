package broker

import (
	"context"
	"errors"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/history"
)

// ErrNobody: no database that has written to the topic has answered.
var ErrNobody = errors.New("broker: nobody answers for the topic")

// Question is for the database that writes a topic, from a reader that has another one.
type Question struct {
	Topic string
	Logs  []Wanted
}

// Wanted is a log that a reader has read up to After. Again asks for what comes behind that to be published once more,
// since the broker does not bring it.
type Wanted struct {
	Lane  int
	After int64
	Again bool
}

// Answer is what the topic's database says of the logs in question.
type Answer struct {
	// Origin names the database.
	Origin string
	Logs   []Held
}

// Held is what a database has of a log: the first and the last sequence, and their incarnations. Of one that was never
// written to the last is 0.
type Held struct {
	Lane                              int
	First, Last                       int64
	FirstIncarnation, LastIncarnation int64
	// Past is the log's history.
	Past history.Log
}

// Answerer answers for a database; false when it has never written to the topic, and another one is to answer.
type Answerer func(ctx context.Context, q Question) (Answer, bool)

// Owners is what a broker may offer besides: readers ask the database that a topic comes from. Questions and answers
// may be lost; neither is kept.
type Owners interface {
	// Ask blocks until the topic's database has answered, or ctx ends; ErrNobody when that is known at once.
	Ask(ctx context.Context, q Question) (Answer, error)
	// Answer answers questions, one at a time, until ctx ends or the broker is closed. Of several that answer for one
	// origin each question goes to one.
	Answer(ctx context.Context, origin string, a Answerer) error
}

// Log names the log of a lane.
func (q *Question) Log(lane int) mainstay.TopicLane {
	return mainstay.TopicLane{Topic: q.Topic, Lane: lane}
}
