package saga_test

import (
	"fmt"
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/saga"
)

// An order reserves stock and authorises the payment in parallel, books the shipment, captures the payment, which is
// the point of no return, and then takes the stock and dispatches the shipment.
func Example() {
	ask := saga.Retry{Timeout: 2 * time.Second, Max: time.Minute, Attempts: 10}
	compensable := func(name, topic, do, undo string) saga.Step {
		return saga.Step{
			Name: name, Topic: topic, Command: topic + "." + do, Rejects: true, Ask: ask,
			Compensation: &saga.Compensation{Command: topic + "." + undo, Ask: ask},
		}
	}
	order := &saga.Definition{
		Name: "order", Version: 1, Topic: "order-replies", Deadline: 10 * time.Minute,
		Groups: [][]saga.Step{
			{
				compensable("reserve", "inventory", "reserve", "release"),
				compensable("authorise", "payment", "authorise", "void"),
			},
			{compensable("book", "logistics", "book", "cancel")},
			{{Name: "capture", Topic: "payment", Command: "payment.capture", Rejects: true, Pivot: true, Ask: ask}},
			{
				{Name: "commit", Topic: "inventory", Command: "inventory.commit", Ask: ask},
				{Name: "dispatch", Topic: "logistics", Command: "logistics.dispatch", Ask: ask},
			},
		},
	}
	if err := order.Verify(); err != nil {
		fmt.Println(err)
		return
	}

	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	show := func(s saga.State, fx saga.Effects) saga.State {
		fmt.Print(s.Status)
		for _, c := range fx.Commands {
			fmt.Print(", ", c.Type)
		}
		fmt.Println()
		return s
	}
	state := show(order.Start(now))
	for _, in := range []saga.Input{
		saga.Reply{Step: "reserve", Op: mainstay.OpDo, Outcome: mainstay.OutcomeDone},
		saga.Reply{Step: "authorise", Op: mainstay.OpDo, Outcome: mainstay.OutcomeDone},
		saga.Reply{Step: "book", Op: mainstay.OpDo, Outcome: mainstay.OutcomeDone},
		saga.Reply{Step: "capture", Op: mainstay.OpDo, Outcome: mainstay.OutcomeRejected, Code: "capture_rejected"},
		saga.Reply{Step: "book", Op: mainstay.OpUndo, Outcome: mainstay.OutcomeDone},
		saga.Reply{Step: "authorise", Op: mainstay.OpUndo, Outcome: mainstay.OutcomeDone},
		saga.Reply{Step: "reserve", Op: mainstay.OpUndo, Outcome: mainstay.OutcomeDone},
	} {
		state = show(order.Next(state, in, now))
	}
	fmt.Println(state.Reason.Step, state.Reason.Code)
	// Output:
	// running, inventory.reserve, payment.authorise
	// running
	// running, logistics.book
	// running, payment.capture
	// compensating, logistics.cancel
	// compensating, inventory.release, payment.void
	// compensating
	// compensated
	// capture capture_rejected
}

// Verify reports every mistake of a definition at once.
func ExampleDefinition_Verify() {
	ask := saga.Retry{Timeout: time.Second, Max: time.Second, Attempts: 3}
	err := (&saga.Definition{
		Name: "trip", Version: 1, Topic: "trip-replies", Deadline: time.Minute,
		Groups: [][]saga.Step{
			{{Name: "flight", Topic: "airline", Command: "airline.hold", Ask: ask}},
			{{Name: "pay", Topic: "bank", Command: "bank.charge", Pivot: true, Ask: ask}},
			{{Name: "ticket", Topic: "airline", Command: "airline.ticket", Rejects: true, Ask: ask}},
		},
	}).Verify()
	fmt.Println(err)
	// Output:
	// saga "trip" version 1: step "flight": it comes before the pivot and has no compensation
	// saga "trip" version 1: step "ticket": what comes after the pivot cannot be rejected
}

// The unanswered command is sent again when a Tick comes at State.Due.
func ExampleState_Due() {
	d := &saga.Definition{
		Name: "ping", Version: 1, Topic: "ping-replies", Deadline: time.Minute,
		Groups: [][]saga.Step{{{
			Name: "ping", Topic: "net", Command: "net.ping", NoEffect: true,
			Ask: saga.Retry{Timeout: time.Second, Max: 4 * time.Second, Attempts: 3},
		}}},
	}
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	state, _ := d.Start(now)
	for state.Status == saga.Running {
		var fx saga.Effects
		now = state.Due()
		state, fx = d.Next(state, saga.Tick{}, now)
		fmt.Println(now.Format(time.TimeOnly), state.Status, len(fx.Commands))
	}
	// Output:
	// 12:00:01 running 1
	// 12:00:03 running 1
	// 12:00:07 needs_operator 0
}
