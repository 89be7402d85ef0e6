// Package payment holds, takes and gives back money through a gateway, and keeps a double-entry ledger of it. It is
// a participant of sagas, over three commands on its topic:
//
//	payment.authorise {order_id, amount, currency, token}  holds the amount; rejected with the gateway's code
//	payment.capture {order_id, amount, currency}           takes what is held; rejection: capture_rejected
//	payment.void {order_id}                                compensates an authorisation, and must be the
//	                                                       compensation of the same step: the authorisation is
//	                                                       cancelled at the gateway by the step's key
//
// The gateway is called outside any transaction, as often as it takes to know the outcome; the ledger is written when
// the outcome is settled. The token goes to the gateway only: it is not stored here.
package payment

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/mainstay-io/mainstay"
)

// Topic is where the commands are sent to.
const Topic = "payment"

// Types of the commands.
const (
	Authorise = "payment.authorise"
	Capture   = "payment.capture"
	Void      = "payment.void"
)

// Participant handles the commands.
type Participant struct {
	gateway Gateway
	sql     statements
}

var _ mainstay.Remote = (*Participant)(nil)

// New makes the participant for databases of a dialect.
func New(dialect mainstay.Dialect, gateway Gateway) *Participant {
	return &Participant{gateway, statementsOf(dialect)}
}

// Remotes gives the remote handlers by the type of their command: the participant itself for each.
func (p *Participant) Remotes() map[string]mainstay.Remote {
	return map[string]mainstay.Remote{Authorise: p, Capture: p, Void: p}
}

// command is the payload of every command. Its token must not be logged or stored.
type command struct {
	OrderID  string `json:"order_id"`
	Amount   int64  `json:"amount"`
	Currency string `json:"currency"`
	Token    string `json:"token"`
}

func decode(m *mainstay.Message) (command, error) {
	var c command
	if err := json.Unmarshal(m.Payload, &c); err != nil {
		return c, mainstay.Terminal(fmt.Errorf("decoding %s: %w", m.Type, err))
	}
	if c.OrderID == "" {
		return c, mainstay.Terminal(fmt.Errorf("%s has no order_id", m.Type))
	}
	if m.Type != Void && (c.Amount <= 0 || len(c.Currency) != 3) {
		return c, mainstay.Terminal(fmt.Errorf("%s needs an amount above zero and a currency", m.Type))
	}
	return c, nil
}

// Call implements mainstay.Remote. The result of a void is a Cancellation.
func (p *Participant) Call(ctx context.Context, m *mainstay.Message) (any, error) {
	key := m.StepKey()
	if key == "" {
		return nil, mainstay.Terminal(fmt.Errorf("%s belongs to no saga's step, so it has no idempotency key", m.Type))
	}
	c, err := decode(m)
	if err != nil {
		return nil, err
	}
	switch m.Type {
	case Authorise:
		r := AuthoriseRequest{OrderRef: c.OrderID, Amount: c.Amount, Currency: c.Currency, Token: c.Token}
		return nil, answer(p.gateway.Authorise(ctx, key, r))
	case Capture:
		r := CaptureRequest{OrderRef: c.OrderID, Amount: c.Amount, Currency: c.Currency}
		return nil, answer(p.gateway.Capture(ctx, key, r))
	case Void:
		return p.void(ctx, key, c)
	default:
		return nil, mainstay.Terminal(fmt.Errorf("unknown command %q", m.Type))
	}
}

// void cancels the authorisation, whose key is the step's. A compensation cannot be refused: a person must decide.
func (p *Participant) void(ctx context.Context, key string, c command) (any, error) {
	done, err := p.gateway.Cancel(ctx, key, CancelRequest{OrderRef: c.OrderID})
	var rejected *Rejected
	if errors.As(err, &rejected) {
		return nil, mainstay.Terminal(fmt.Errorf("cancelling the authorisation: %w", err))
	}
	if err != nil {
		return nil, answer(err)
	}
	return done, nil
}

// answer translates the gateway's errors; what is unknown stays as it is.
func answer(err error) error {
	var rejected *Rejected
	switch {
	case errors.As(err, &rejected):
		return mainstay.Reject(rejected.Code, rejected.Detail)
	case errors.Is(err, ErrKeyReused):
		return mainstay.Terminal(err)
	default:
		return err
	}
}

// Settle implements mainstay.Remote.
func (p *Participant) Settle(ctx context.Context, tx mainstay.Tx, done []mainstay.Settlement) error {
	commands, orders := make([]command, len(done)), make([]string, len(done))
	for i, d := range done {
		c, err := decode(d.Message)
		if err != nil {
			return err
		}
		commands[i], orders[i] = c, c.OrderID
	}
	b, err := p.sql.lock(ctx, tx, orders)
	if err != nil {
		return fmt.Errorf("locking payments: %w", err)
	}
	for i, d := range done {
		if err := b.settle(d, commands[i]); err != nil {
			return fmt.Errorf("settling %s of order %s: %w", d.Message.Type, commands[i].OrderID, err)
		}
	}
	p.sql.save(tx, b)
	return nil
}
