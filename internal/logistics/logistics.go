// Package logistics books shipments with carriers and dispatches them. It is a participant of sagas, over three
// commands on its topic:
//
//	logistics.book {order_id, country, ...}  books; rejection: no_carrier, when the country's carrier takes no more
//	logistics.cancel {order_id}              compensates a booking
//	logistics.dispatch {order_id}            hands the shipment over, which makes room at the carrier
//
// A booking carries the recipient's name and address, which are not stored here: personal data stands in one place.
//
// Whoever runs the handlers keeps duplicates, and commands that arrive after their compensation, away from them.
// Beneath that an order has one booking, which ends once.
package logistics

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/mainstay-io/mainstay"
)

// Topic is where the commands are sent to.
const Topic = "logistics"

// Types of the commands.
const (
	Book     = "logistics.book"
	Cancel   = "logistics.cancel"
	Dispatch = "logistics.dispatch"
)

// CodeNoCarrier is the code of the rejection of a booking.
const CodeNoCarrier = "no_carrier"

// Statuses of a booking.
const (
	statusBooked     = "booked"
	statusCancelled  = "cancelled"
	statusDispatched = "dispatched"
)

// Carrier is what is known of a country's carrier.
type Carrier struct {
	// Capacity is how many bookings may be open at once; nil for no limit.
	Capacity *int64
	// Booked is how many are open. It may exceed a capacity that was lowered.
	Booked int64
	// Dispatched is how many have been handed over, ever.
	Dispatched int64
}

func (c Carrier) full() bool { return c.Capacity != nil && c.Booked >= *c.Capacity }

// booking is a row.
type booking struct {
	order, country, status, tracking string
}

// load is what a batch adds to a carrier's counters.
type load struct{ booked, dispatched int64 }

// statements is the SQL of a dialect.
type statements interface {
	// lockCarriers reads the carriers of the countries, which are made if they are not there, and keeps others from
	// changing them until the transaction ends. Locks are taken in the order of the countries.
	lockCarriers(ctx context.Context, tx mainstay.Tx, countries []string) (map[string]Carrier, error)
	// bookings reads the bookings of the orders that have one.
	bookings(ctx context.Context, tx mainstay.Tx, orders []string) (map[string]booking, error)
	// save queues bookings, new or changed, and what they add to the carriers' counters.
	save(tx mainstay.Tx, bookings []booking, loads map[string]load)
	// setCapacity sets the limit of a carrier that is there.
	setCapacity(ctx context.Context, tx mainstay.Tx, country string, capacity *int64) error
}

func statementsOf(d mainstay.Dialect) statements {
	if d == mainstay.Postgres {
		return postgres{}
	}
	return sqlite{}
}

// Participant handles the commands.
type Participant struct{ sql statements }

// New makes the participant for databases of a dialect.
func New(dialect mainstay.Dialect) *Participant { return &Participant{statementsOf(dialect)} }

// Handlers gives the handlers by the type of their command.
func (p *Participant) Handlers() map[string]mainstay.BatchHandler {
	return map[string]mainstay.BatchHandler{
		Book: batch(p.book),
		Cancel: batch(func(ctx context.Context, tx mainstay.Tx, ms []*mainstay.Message) ([]error, error) {
			return p.end(ctx, tx, ms, statusCancelled)
		}),
		Dispatch: batch(func(ctx context.Context, tx mainstay.Tx, ms []*mainstay.Message) ([]error, error) {
			return p.end(ctx, tx, ms, statusDispatched)
		}),
	}
}

type batch func(context.Context, mainstay.Tx, []*mainstay.Message) ([]error, error)

func (f batch) HandleBatch(ctx context.Context, tx mainstay.Tx, ms []*mainstay.Message) ([]error, error) {
	return f(ctx, tx, ms)
}

// command is what is read of every command's payload; only a booking has a country.
type command struct {
	OrderID string `json:"order_id"`
	Country string `json:"country"`
}

// decode reads the payloads; what cannot be read has a terminal error in its place.
func decode(ms []*mainstay.Message) ([]command, []error) {
	commands, errs := make([]command, len(ms)), make([]error, len(ms))
	for i, m := range ms {
		c := &commands[i]
		switch err := json.Unmarshal(m.Payload, c); {
		case err != nil:
			errs[i] = mainstay.Terminal(fmt.Errorf("decoding %s: %w", m.Type, err))
		case c.OrderID == "":
			errs[i] = mainstay.Terminal(fmt.Errorf("%s has no order_id", m.Type))
		case m.Type == Book && !isCountry(c.Country):
			errs[i] = mainstay.Terminal(errors.New("a booking needs a country of two capital letters"))
		}
	}
	return commands, errs
}

func isCountry(s string) bool {
	return len(s) == 2 && s[0] >= 'A' && s[0] <= 'Z' && s[1] >= 'A' && s[1] <= 'Z'
}

// book decides for all orders in memory, in their order, over carriers that are locked last.
func (p *Participant) book(ctx context.Context, tx mainstay.Tx, ms []*mainstay.Message) ([]error, error) {
	commands, errs := decode(ms)
	countries := map[string]bool{}
	for i, c := range commands {
		if errs[i] == nil {
			countries[c.Country] = true
		}
	}
	carriers, err := p.sql.lockCarriers(ctx, tx, slices.Sorted(maps.Keys(countries)))
	if err != nil {
		return nil, fmt.Errorf("locking carriers: %w", err)
	}
	var booked []booking
	loads := map[string]load{}
	for i, c := range commands {
		if errs[i] != nil {
			continue
		}
		carrier := carriers[c.Country]
		if carrier.full() {
			errs[i] = mainstay.Reject(CodeNoCarrier, "the carrier for "+c.Country+" takes no more bookings")
			continue
		}
		carrier.Booked++
		carriers[c.Country] = carrier
		loads[c.Country] = load{booked: loads[c.Country].booked + 1}
		booked = append(booked, booking{c.OrderID, c.Country, statusBooked, tracking(c.OrderID, c.Country)})
	}
	p.sql.save(tx, booked, loads)
	return errs, nil
}

// tracking is the number of an order's shipment: the same however often it is asked for. It begins with the time in the
// order's id, if that is a UUID of version 7: numbers at random would each be written to another page of an index that
// only grows, to be read from the disk first when that is larger than memory.
func tracking(order, country string) string {
	sum := sha256.Sum256([]byte(order))
	number := base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:10])
	if digits := strings.ReplaceAll(order, "-", ""); len(order) == 36 && len(digits) == 32 && digits[12] == '7' {
		return country + strings.ToUpper(digits[:12]) + number[:12]
	}
	return country + number
}

// end ends bookings with a status: cancelled or dispatched.
func (p *Participant) end(ctx context.Context, tx mainstay.Tx, ms []*mainstay.Message, status string) ([]error, error) {
	commands, errs := decode(ms)
	var orders []string
	for i, c := range commands {
		if errs[i] == nil {
			orders = append(orders, c.OrderID)
		}
	}
	found, err := p.sql.bookings(ctx, tx, orders)
	if err != nil {
		return nil, fmt.Errorf("reading bookings: %w", err)
	}
	var ended []booking
	loads := map[string]load{}
	for i, c := range commands {
		if errs[i] != nil {
			continue
		}
		b := found[c.OrderID]
		if b.status != statusBooked {
			errs[i] = fmt.Errorf("order %s has no open booking to end as %s", c.OrderID, status)
			continue
		}
		b.status = status
		found[c.OrderID] = b
		ended = append(ended, b)
		loads[b.country] = loads[b.country].ended(status)
	}
	p.sql.save(tx, ended, loads)
	return errs, nil
}

// ended is l after one more booking has ended.
func (l load) ended(status string) load {
	l.booked--
	if status == statusDispatched {
		l.dispatched++
	}
	return l
}
