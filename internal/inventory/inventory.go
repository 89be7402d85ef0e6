// Package inventory keeps stock and reserves it for orders. It is a participant of sagas, over three commands on
// its topic:
//
//	inventory.reserve {order_id, lines: [{sku, quantity}]}  moves units from on hand to reserved, all lines or none;
//	                                                        rejections: unknown_sku, out_of_stock
//	inventory.release {order_id}                            compensates a reservation
//	inventory.commit {order_id}                             moves what was reserved to shipped
//
// Whoever runs the handlers keeps duplicates, and commands that arrive after their compensation, away from them.
// Beneath that the tables' constraints make an order reserve once, and release or ship once.
package inventory

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/mainstay-io/mainstay"
)

// Topic is where the commands are sent to.
const Topic = "inventory"

// Types of the commands.
const (
	Reserve = "inventory.reserve"
	Release = "inventory.release"
	Commit  = "inventory.commit"
)

// Codes of rejections.
const (
	CodeUnknownSKU = "unknown_sku"
	CodeOutOfStock = "out_of_stock"
)

// Stock is the units of a SKU.
type Stock struct {
	// OnHand can still be reserved.
	OnHand int64
	// Reserved is held by orders that have not ended.
	Reserved int64
	// Shipped has left the house.
	Shipped int64
}

// Kinds of movements.
const (
	kindReceive = "receive" // an operator gave a new SKU its first units
	kindAdjust  = "adjust"  // an operator corrected on hand
	kindReserve = "reserve"
	kindRelease = "release"
	kindShip    = "ship"
)

// movement is a row of the ledger; order is empty for an operator's.
type movement struct {
	order, sku, kind string
	quantity         int64
}

// delta is what a movement adds to its SKU's stock.
func (m movement) delta() Stock {
	switch m.kind {
	case kindReserve:
		return Stock{OnHand: -m.quantity, Reserved: m.quantity}
	case kindRelease:
		return Stock{OnHand: m.quantity, Reserved: -m.quantity}
	case kindShip:
		return Stock{Reserved: -m.quantity, Shipped: m.quantity}
	default:
		return Stock{OnHand: m.quantity}
	}
}

func (s Stock) plus(d Stock) Stock {
	return Stock{OnHand: s.OnHand + d.OnHand, Reserved: s.Reserved + d.Reserved, Shipped: s.Shipped + d.Shipped}
}

// deltas sums movements by SKU.
func deltas(moves []movement) map[string]Stock {
	sums := make(map[string]Stock, len(moves))
	for _, m := range moves {
		sums[m.sku] = sums[m.sku].plus(m.delta())
	}
	return sums
}

// statements is the SQL of a dialect.
type statements interface {
	// lockStock reads the stock of those SKUs that exist and keeps others from changing it until the transaction
	// ends. Locks are taken in the order of the SKUs.
	lockStock(ctx context.Context, tx mainstay.Tx, skus []string) (map[string]Stock, error)
	// reservations reads what each order has reserved, whether or not that has ended.
	reservations(ctx context.Context, tx mainstay.Tx, orders []string) (map[string][]movement, error)
	// move queues the movements and what they do to the stock.
	move(tx mainstay.Tx, moves []movement)
	// create makes an empty SKU unless it exists, and says whether it did.
	create(ctx context.Context, tx mainstay.Tx, sku string) (bool, error)
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
		Reserve: batch(p.reserve),
		Release: batch(func(ctx context.Context, tx mainstay.Tx, ms []*mainstay.Message) ([]error, error) {
			return p.end(ctx, tx, ms, kindRelease)
		}),
		Commit: batch(func(ctx context.Context, tx mainstay.Tx, ms []*mainstay.Message) ([]error, error) {
			return p.end(ctx, tx, ms, kindShip)
		}),
	}
}

type batch func(context.Context, mainstay.Tx, []*mainstay.Message) ([]error, error)

func (f batch) HandleBatch(ctx context.Context, tx mainstay.Tx, ms []*mainstay.Message) ([]error, error) {
	return f(ctx, tx, ms)
}

// command is the payload of every command; only a reservation has lines.
type command struct {
	OrderID string `json:"order_id"`
	Lines   []line `json:"lines"`
}

type line struct {
	SKU      string `json:"sku"`
	Quantity int64  `json:"quantity"`
}

// decode reads the payloads; what cannot be read has a terminal error in its place.
func decode(ms []*mainstay.Message) ([]command, []error) {
	commands, errs := make([]command, len(ms)), make([]error, len(ms))
	for i, m := range ms {
		if err := json.Unmarshal(m.Payload, &commands[i]); err != nil {
			errs[i] = mainstay.Terminal(fmt.Errorf("decoding %s: %w", m.Type, err))
		} else if commands[i].OrderID == "" {
			errs[i] = mainstay.Terminal(fmt.Errorf("%s has no order_id", m.Type))
		}
	}
	return commands, errs
}

// quantities sums the lines by SKU.
func (c command) quantities() (map[string]int64, error) {
	sums := make(map[string]int64, len(c.Lines))
	for _, l := range c.Lines {
		if l.SKU == "" || l.Quantity <= 0 {
			return nil, mainstay.Terminal(errors.New("a line needs a sku and a quantity above zero"))
		}
		sums[l.SKU] += l.Quantity
		if sums[l.SKU] < l.Quantity {
			return nil, mainstay.Terminal(errors.New("the quantities are out of range"))
		}
	}
	if len(sums) == 0 {
		return nil, mainstay.Terminal(errors.New("there are no lines to reserve"))
	}
	return sums, nil
}

// reserve decides for all orders in memory, in their order, over stock that is locked last.
func (p *Participant) reserve(ctx context.Context, tx mainstay.Tx, ms []*mainstay.Message) ([]error, error) {
	commands, errs := decode(ms)
	wanted, skus := make([]map[string]int64, len(ms)), map[string]bool{}
	for i, c := range commands {
		if errs[i] == nil {
			wanted[i], errs[i] = c.quantities()
		}
		for sku := range wanted[i] {
			skus[sku] = true
		}
	}
	stock, err := p.sql.lockStock(ctx, tx, slices.Sorted(maps.Keys(skus)))
	if err != nil {
		return nil, fmt.Errorf("locking stock: %w", err)
	}
	var moves []movement
	for i, c := range commands {
		if errs[i] != nil {
			continue
		}
		var taken []movement
		taken, errs[i] = take(stock, c.OrderID, wanted[i])
		moves = append(moves, taken...)
	}
	p.sql.move(tx, moves)
	return errs, nil
}

// take reserves all of wanted in stock, or nothing: then the error is the rejection.
func take(stock map[string]Stock, order string, wanted map[string]int64) ([]movement, error) {
	skus := slices.Sorted(maps.Keys(wanted))
	for _, sku := range skus {
		s, known := stock[sku]
		if !known {
			return nil, mainstay.Reject(CodeUnknownSKU, fmt.Sprintf("sku %q is not known", sku))
		}
		if s.OnHand < wanted[sku] {
			return nil, mainstay.Reject(CodeOutOfStock,
				fmt.Sprintf("sku %q: %d wanted, %d on hand", sku, wanted[sku], s.OnHand))
		}
	}
	moves := make([]movement, len(skus))
	for i, sku := range skus {
		moves[i] = movement{order: order, sku: sku, kind: kindReserve, quantity: wanted[sku]}
		stock[sku] = stock[sku].plus(moves[i].delta())
	}
	return moves, nil
}

// end ends reservations by movements of kind: release or ship.
func (p *Participant) end(ctx context.Context, tx mainstay.Tx, ms []*mainstay.Message, kind string) ([]error, error) {
	commands, errs := decode(ms)
	var orders []string
	for i, c := range commands {
		if errs[i] == nil {
			orders = append(orders, c.OrderID)
		}
	}
	reserved, err := p.sql.reservations(ctx, tx, orders)
	if err != nil {
		return nil, fmt.Errorf("reading reservations: %w", err)
	}
	var moves []movement
	for i, c := range commands {
		if errs[i] != nil {
			continue
		}
		if len(reserved[c.OrderID]) == 0 {
			errs[i] = fmt.Errorf("order %s has no reservation to %s", c.OrderID, kind)
		}
		for _, m := range reserved[c.OrderID] {
			m.kind = kind
			moves = append(moves, m)
		}
	}
	p.sql.move(tx, moves)
	return errs, nil
}
