package order

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/saga"
)

// Topics of the order's own messages.
const (
	// TopicReplies is where replies went before participants had topics of their own; it is still read.
	TopicReplies = "order-replies"
	TopicEvents  = "order-events"
)

// Participants of the order's saga, by the topics of their commands.
const (
	inventory = "inventory"
	payment   = "payment"
	logistics = "logistics"
)

// RepliesOf is the topic on which a participant answers: each has its own, as it may have a database of its own.
func RepliesOf(participant string) string { return participant + "-replies" }

// Types of the order's events.
const (
	EventPlaced        = "order.placed"
	EventConfirmed     = "order.confirmed"
	EventCancelled     = "order.cancelled"
	EventNeedsOperator = "order.needs_operator"
)

// Source names this context in its messages.
const Source = "mainstay/order"

// Steps of the order's saga.
const (
	StepReserve   = "reserve"
	StepAuthorise = "authorise"
	StepBook      = "book"
	StepCapture   = "capture"
	StepCommit    = "commit"
	StepDispatch  = "dispatch"
)

// Times of the order's saga.
type Times struct {
	// Deadline is until when the pivot's command must be sent.
	Deadline time.Duration
	// Ask is the first wait for a reply before a command is repeated.
	Ask time.Duration
}

// Definition is the order's saga: reserve and authorise, book, capture (the point of no return), commit and dispatch.
func Definition(t Times) saga.Definition {
	// Before the pivot the deadline comes first; the number is the exit to an operator where there is no deadline.
	ask := saga.Retry{Timeout: t.Ask, Max: 8 * t.Ask, Attempts: 1000}
	return saga.Definition{
		Name: "order", Version: 1, Topic: TopicReplies, Deadline: t.Deadline,
		Groups: [][]saga.Step{
			{
				{
					Name: StepReserve, Topic: inventory, Replies: RepliesOf(inventory), Command: "inventory.reserve", Rejects: true, Ask: ask,
					Compensation: &saga.Compensation{Command: "inventory.release", Ask: ask},
				},
				{
					Name: StepAuthorise, Topic: payment, Replies: RepliesOf(payment), Command: "payment.authorise", Rejects: true, Ask: ask,
					Compensation: &saga.Compensation{Command: "payment.void", Ask: ask},
				},
			},
			{{
				Name: StepBook, Topic: logistics, Replies: RepliesOf(logistics), Command: "logistics.book", Rejects: true, Ask: ask,
				Compensation: &saga.Compensation{Command: "logistics.cancel", Ask: ask},
			}},
			{{Name: StepCapture, Topic: payment, Replies: RepliesOf(payment), Command: "payment.capture", Rejects: true, Pivot: true, Ask: ask}},
			{
				{Name: StepCommit, Topic: inventory, Replies: RepliesOf(inventory), Command: "inventory.commit", Ask: ask},
				{Name: StepDispatch, Topic: logistics, Replies: RepliesOf(logistics), Command: "logistics.dispatch", Ask: ask},
			},
		},
	}
}

// data is what the saga keeps of the order; it holds no personal data.
type data struct {
	Amount   int64  `json:"amount"`
	Currency string `json:"currency"`
	Country  string `json:"country"`
	Lines    []Line `json:"lines"`
}

// private is the personal data of an order. It stands in one table, and travels only to the participant that needs it.
type private struct {
	Payment
	Shipping
}

// Binding ties the saga to the orders of one database.
type Binding struct {
	store store
	ended func(ids []string)
}

// NewBinding makes the binding; ended, which may be nil, is told about orders that have left the status pending.
func NewBinding(dialect mainstay.Dialect, ended func(ids []string)) *Binding {
	return &Binding{store: storeFor(dialect), ended: ended}
}

type (
	reserveCommand struct {
		OrderID string        `json:"order_id"`
		Lines   []reserveLine `json:"lines"`
	}
	reserveLine struct {
		SKU      string `json:"sku"`
		Quantity int64  `json:"quantity"`
	}
	moneyCommand struct {
		OrderID  string `json:"order_id"`
		Amount   int64  `json:"amount"`
		Currency string `json:"currency"`
		Token    string `json:"token,omitempty"`
	}
	bookCommand struct {
		OrderID    string `json:"order_id"`
		Name       string `json:"name"`
		Line1      string `json:"line1"`
		City       string `json:"city"`
		PostalCode string `json:"postal_code"`
		Country    string `json:"country"`
	}
	orderCommand struct {
		OrderID string `json:"order_id"`
	}
)

// Commands fills in what the participants need to know.
func (b *Binding) Commands(ctx context.Context, tx mainstay.Tx, cmds []*saga.Command) error {
	private, err := b.private(ctx, tx, cmds)
	if err != nil {
		return err
	}
	for _, cmd := range cmds {
		payload, err := payloadOf(cmd, private[cmd.Instance.ID])
		if err != nil {
			return fmt.Errorf("order %s, step %s: %w", cmd.Instance.ID, cmd.Step, err)
		}
		if cmd.Payload, err = json.Marshal(payload); err != nil {
			return fmt.Errorf("encoding a command: %w", err)
		}
	}
	return nil
}

// private reads the personal data of the orders of those commands that need it.
func (b *Binding) private(ctx context.Context, tx mainstay.Tx, cmds []*saga.Command) (map[string]private, error) {
	var ids []string
	for _, cmd := range cmds {
		if cmd.Op == mainstay.OpDo && (cmd.Step == StepBook || cmd.Step == StepAuthorise) {
			ids = append(ids, cmd.Instance.ID)
		}
	}
	if len(ids) == 0 {
		return nil, nil
	}
	if known, ok := ctx.Value(privateKey{}).(map[string]private); ok {
		return known, nil
	}
	return b.store.private(ctx, tx, ids)
}

func payloadOf(cmd *saga.Command, p private) (any, error) {
	id := cmd.Instance.ID
	if cmd.Op == mainstay.OpUndo || cmd.Step == StepCommit || cmd.Step == StepDispatch {
		return orderCommand{id}, nil
	}
	var d data
	if err := json.Unmarshal(cmd.Instance.Data, &d); err != nil {
		return nil, fmt.Errorf("decoding the saga's data: %w", err)
	}
	switch cmd.Step {
	case StepReserve:
		c := reserveCommand{OrderID: id}
		for _, l := range d.Lines {
			c.Lines = append(c.Lines, reserveLine{l.SKU, l.Quantity})
		}
		return c, nil
	case StepAuthorise:
		return moneyCommand{id, d.Amount, d.Currency, p.Token}, nil
	case StepBook:
		return bookCommand{id, p.Name, p.Line1, p.City, p.PostalCode, d.Country}, nil
	case StepCapture:
		return moneyCommand{OrderID: id, Amount: d.Amount, Currency: d.Currency}, nil
	default:
		return nil, mainstay.Terminal(fmt.Errorf("the order's saga has no command for this step"))
	}
}

// Changed brings the orders to where their sagas are, and says so to the world.
func (b *Binding) Changed(ctx context.Context, tx mainstay.Tx, changes []saga.Change) error {
	var news []change
	var ids []string
	for _, c := range changes {
		n := changeOf(c)
		if n.status == "" {
			continue
		}
		news = append(news, n)
		ids = append(ids, n.id)
		m, err := n.event()
		if err != nil {
			return err
		}
		tx.Send(m)
	}
	if len(news) == 0 {
		return nil
	}
	if b.ended != nil {
		tx.OnCommit(func() { b.ended(ids) })
	}
	return b.store.change(ctx, tx, news)
}

// change is an order's new status.
type change struct {
	id, code, detail string
	status           Status
	at               time.Time
}

func changeOf(c saga.Change) change {
	n := change{id: c.Instance.ID, at: c.Now}
	s := &c.Instance.State
	switch {
	case s.Status == saga.Completed:
		n.status = Confirmed
	case s.Status == saga.Compensated:
		n.status = Cancelled
	case s.Status == saga.NeedsOperator:
		n.status = NeedsOperator
	case c.From == saga.NeedsOperator: // it goes on
		n.status = Pending
	default:
		return change{}
	}
	if s.Reason != nil && n.status != Confirmed {
		n.code, n.detail = s.Reason.Code, s.Reason.Detail
	}
	if n.status == NeedsOperator && n.code == "" {
		n.code = "needs_operator"
	}
	return n
}

var eventOf = map[Status]string{ //nolint:gochecknoglobals // a constant table
	Confirmed: EventConfirmed, Cancelled: EventCancelled, NeedsOperator: EventNeedsOperator, Pending: "order.resumed",
}

func (n change) event() (*mainstay.Message, error) {
	payload, err := json.Marshal(struct {
		OrderID string `json:"order_id"`
		Status  Status `json:"status"`
		Code    string `json:"code,omitempty"`
	}{n.id, n.status, n.code})
	if err != nil {
		return nil, fmt.Errorf("encoding an event: %w", err)
	}
	return eventMessage(n.id, eventOf[n.status], payload), nil
}

func eventMessage(orderID, typ string, payload []byte) *mainstay.Message {
	return &mainstay.Message{
		Topic: TopicEvents, Key: orderID, Type: typ, Source: Source, AggregateType: "order", AggregateID: orderID,
		CorrelationID: orderID, Payload: payload,
	}
}
