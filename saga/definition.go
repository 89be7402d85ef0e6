// Package saga defines sagas: steps that participants carry out on command, and how what was done is undone when a
// later step cannot be. It is data and pure functions; nothing here does I/O. The engine that keeps instances in a
// database and talks to participants runs Definition.Next.
package saga

import "time"

// Definition is one version of a saga. An instance runs to its end on the definition (Name, Version) that it was
// started with.
type Definition struct {
	Name    string
	Version int
	// Topic is where participants send their replies.
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
