package saga_test

import (
	"fmt"
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/saga"
)

// A trip is booked in two parallel steps and paid for; payment is the point of no return.
func Example() {
	ask := saga.Retry{Timeout: 2 * time.Second, Max: time.Minute, Attempts: 10}
	trip := &saga.Definition{
		Name: "trip", Version: 1, Topic: "trip-replies", Deadline: 10 * time.Minute,
		Groups: [][]saga.Step{
			{
				{
					Name: "flight", Topic: "airline", Command: "airline.hold", Rejects: true, Ask: ask,
					Compensation: &saga.Compensation{Command: "airline.release", Ask: ask},
				},
				{
					Name: "room", Topic: "hotel", Command: "hotel.hold", Rejects: true, Ask: ask,
					Compensation: &saga.Compensation{Command: "hotel.release", Ask: ask},
				},
			},
			{{Name: "pay", Topic: "bank", Command: "bank.charge", Rejects: true, Pivot: true, Ask: ask}},
			{{Name: "ticket", Topic: "airline", Command: "airline.ticket", Ask: ask}},
		},
	}
	if err := trip.Verify(); err != nil {
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
	state := show(trip.Start(now))
	for _, in := range []saga.Input{
		saga.Reply{Step: "flight", Op: mainstay.OpDo, Outcome: mainstay.OutcomeDone},
		saga.Reply{Step: "room", Op: mainstay.OpDo, Outcome: mainstay.OutcomeDone},
		saga.Reply{Step: "pay", Op: mainstay.OpDo, Outcome: mainstay.OutcomeRejected, Code: "card_declined"},
		saga.Reply{Step: "room", Op: mainstay.OpUndo, Outcome: mainstay.OutcomeDone},
		saga.Reply{Step: "flight", Op: mainstay.OpUndo, Outcome: mainstay.OutcomeDone},
	} {
		state = show(trip.Next(state, in, now))
	}
	fmt.Println(state.Reason.Step, state.Reason.Code)
	// Output:
	// running, airline.hold, hotel.hold
	// running
	// running, bank.charge
	// compensating, airline.release, hotel.release
	// compensating
	// compensated
	// pay card_declined
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
