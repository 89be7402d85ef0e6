package saga

import (
	"context"
	"time"

	"github.com/mainstay-io/mainstay"
)

// Instance is one saga under way, as it is stored.
type Instance struct {
	ID string
	// Definition and DefinitionVersion name the definition that the instance runs on.
	Definition        string
	DefinitionVersion int
	CorrelationID     string
	// Version counts the stored transitions; every change is a compare-and-set on it.
	Version int64
	// Data is the business's own, fixed when the instance is started. It must hold no personal data.
	Data                 []byte
	State                State
	CreatedAt, UpdatedAt time.Time
}

// Command is one command to a participant. Definition.Next fills Step to Repeat, the engine Instance, the Binding
// Payload and, where it wants, Headers.
type Command struct {
	Instance *Instance
	// Step names the step, Op its direction: mainstay.OpDo or mainstay.OpUndo.
	Step, Op string
	// Type and Topic are those of the message to send.
	Type, Topic string
	// ReplyTo is the topic that the reply is to go to.
	ReplyTo string
	// Repeat says that the same command was sent before, and is sent again as a new message with the same step key.
	Repeat bool
	// Payload is the message's content.
	Payload []byte
	// Headers are added to those that the engine sets, and cannot replace them.
	Headers map[string]string
}

// Change is one change of an instance's status. Instance is as it will be stored.
type Change struct {
	Instance *Instance
	From     Status
	Now      time.Time
}

// Binding is what the business whose saga it is adds to a definition. Its methods run in the transaction that
// stores the instances, which are of one definition name and any of its versions; an error fails the transaction,
// which is then repeated. They are called by several goroutines at once, each with a transaction of its own.
type Binding interface {
	// Commands fills the payloads of commands, of many instances at once. It may read in tx what must not be in
	// the instance's data.
	Commands(ctx context.Context, tx mainstay.Tx, cmds []*Command) error
	// Changed is called when the status of instances changes: to update the business's own rows and send its
	// events. An instance may occur more than once, in the order of its changes.
	Changed(ctx context.Context, tx mainstay.Tx, changes []Change) error
}
