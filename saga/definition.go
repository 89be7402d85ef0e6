// Package saga defines sagas: steps that participants carry out on command, and how what was done is undone when a
// later step cannot be. It is data and pure functions; nothing here does I/O. The engine that keeps instances in a
// database and talks to participants runs Definition.Next.
//
// # An instance
//
// Groups are carried out in order, the steps of a group in parallel. Before the pivot's command is sent, a
// rejection, the deadline or a Cancel turns the instance round: it is compensated, in the reverse order of groups,
// in parallel inside a group. After that only the pivot's own rejection does; the deadline only raises an alert.
//
//	status          what happens                                 becomes
//	running         every step of the last group is done         completed
//	                a step is rejected, the pivot or before it   compensating
//	                deadline or Cancel, pivot not sent           compensating
//	                an action fails for good                     needs_operator
//	                a step after the pivot is rejected           needs_operator
//	compensating    nothing is owed any more                     compensated
//	                a compensation fails or is rejected          needs_operator
//	needs_operator  a replayed command is answered               running or compensating, or the end
//	                RetryStep, MarkDone, Skip                    running or compensating, or the end
//	                a parallel step is rejected                  compensating
//	                deadline or Cancel, pivot not sent           compensating
//	completed       anything                                     completed
//	compensated     anything                                     compensated
//
// # A step
//
// No answer is never taken for "not done": the command is sent again with the same step key, and what stays unknown
// is undone like what is done.
//
//	status       what happens                                          becomes
//	pending      the groups before it are done                         asked
//	asked        reply done                                            done
//	             reply rejected or void, up to the pivot               rejected
//	             reply rejected or void, after the pivot               failed
//	             reply failed, or no answer to the last command        failed
//	             the instance compensates                              undoing
//	failed       reply done; MarkDone, Skip                            done
//	             reply rejected or void, up to the pivot               rejected
//	             RetryStep                                             asked
//	             the instance compensates                              undoing
//	done         the instance compensates, its group's turn has come   undoing
//	rejected     anything                                              rejected
//	undoing      reply done or void to the compensation                undone
//	             reply rejected or failed, or no answer to the last    undo_failed
//	undo_failed  reply done or void to the compensation                undone
//	             MarkDone, Skip                                        undone
//	             RetryStep                                             undoing
//	undone       anything                                              undone
//
// A step without effect is never undone. Once a step is undoing, answers to its action no longer count.
//
// # What participants must hold to
//
// Each guards its effect with a barrier under the step key: a repeated command is answered as the first was, a
// compensation without action leaves a mark, and an action that finds the mark does nothing (void). Package worker
// does this for its handlers.
//
// # Operators
//
// A step that failed has its command as a dead letter, as a rule: when that is replayed and answered, the instance
// goes on by itself. RetryStep, MarkDone and Skip are the other ways out; State.Stuck and State.Owed say what for.
package saga

import (
	"cmp"
	"slices"
	"time"
)

// Definition is one version of a saga. An instance runs to its end on the definition (Name, Version) that it was
// started with.
type Definition struct {
	Name    string
	Version int
	// Topic is where participants send their replies to steps that name no topic of their own.
	Topic string
	// Groups are carried out one after the other; the steps of a group in parallel.
	Groups [][]Step
	// Deadline bounds the time until the pivot's command is sent, counted from the start: past it the saga
	// compensates. After the pivot it only alerts.
	Deadline time.Duration
}

// Step is one command to one participant.
type Step struct {
	Name string
	// Topic is the participant's topic, Command the type of the message that starts the action.
	Topic   string
	Command string
	// Replies is where the participant sends its replies, the definition's topic when empty. A topic is written by one
	// database only, so participants with databases of their own need topics of their own.
	Replies string
	// Rejects says that the participant may refuse the action for a business reason.
	Rejects bool
	// Pivot marks the point of no return: once its command is sent, only its own rejection compensates.
	Pivot bool
	// Ask says when the command is repeated for want of a reply, and for how long.
	Ask Retry
	// NoEffect says that the action changes nothing at the participant (a check), so that there is nothing to undo.
	NoEffect bool
	// Compensation undoes the step; nil for one without effect, for the pivot, and after it.
	Compensation *Compensation
}

// ReplyTopics are all topics that replies come on, the definition's own first.
func (d *Definition) ReplyTopics() []string {
	topics := []string{d.Topic}
	for _, group := range d.Groups {
		for i := range group {
			if topic := d.replies(&group[i]); !slices.Contains(topics, topic) {
				topics = append(topics, topic)
			}
		}
	}
	return topics
}

func (d *Definition) replies(s *Step) string { return cmp.Or(s.Replies, d.Topic) }

// Compensation is the command that undoes a step.
type Compensation struct {
	Command string
	Ask     Retry
}

// Retry bounds how a command is repeated for want of a reply: first after Timeout, then each time after twice as
// long, at most Max; after Attempts commands in all, and one more wait, the saga needs an operator.
type Retry struct {
	Timeout  time.Duration
	Max      time.Duration
	Attempts int
}
