// Package orchestrator runs sagas: a consumer of replies that loads the instances of a batch, applies the
// definition's transition function, and writes states, history and the next commands in the batch's transaction.
//
// It does no I/O of its own and holds no state: what an instance waits for, timers included, is in its row.
package orchestrator

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/outbox"
	"github.com/mainstay-io/mainstay/saga"
)

// Hooks observes sagas. Methods must not block. They are called before the transaction commits, so a failed one is
// counted too.
type Hooks interface {
	// Started and Ended count instances; status is the one that was reached.
	Started(definition string, n int)
	Changed(definition string, status saga.Status)
	// Overdue is an instance past its deadline that can no longer be compensated.
	Overdue(definition string)
}

type noHooks struct{}

func (noHooks) Started(string, int)         {}
func (noHooks) Changed(string, saga.Status) {}
func (noHooks) Overdue(string)              {}

// Config is what an orchestrator needs. All Versions of one definition share its name and topic; the last one is what
// new instances run on.
type Config struct {
	Store    Store
	Versions []saga.Definition
	Binding  saga.Binding
	// Lanes is the number of lanes of the database, Source names the orchestrator in its commands.
	Lanes  int
	Source string
	Logger *slog.Logger
	Hooks  Hooks
}

// Orchestrator runs the instances of one definition. It is safe for concurrent use.
type Orchestrator struct {
	cfg      Config
	versions map[int]*saga.Definition
	latest   *saga.Definition
}

// New verifies the definitions.
func New(cfg Config) (*Orchestrator, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Hooks == nil {
		cfg.Hooks = noHooks{}
	}
	o := &Orchestrator{cfg: cfg, versions: map[int]*saga.Definition{}}
	for i := range cfg.Versions {
		d := &cfg.Versions[i]
		if err := d.Verify(); err != nil {
			return nil, fmt.Errorf("saga %s, version %d: %w", d.Name, d.Version, err)
		}
		if d.Name != cfg.Versions[0].Name || d.Topic != cfg.Versions[0].Topic {
			return nil, fmt.Errorf("saga %s: its versions differ in name or topic", d.Name)
		}
		o.versions[d.Version] = d
		o.latest = d
	}
	if o.latest == nil {
		return nil, errors.New("an orchestrator needs a definition")
	}
	return o, nil
}

// Definition is what new instances run on.
func (o *Orchestrator) Definition() *saga.Definition { return o.latest }

// Topics are those that replies come on, to commands of any version.
func (o *Orchestrator) Topics() []string {
	topics := o.latest.ReplyTopics()
	for _, d := range o.versions {
		for _, topic := range d.ReplyTopics() {
			if !slices.Contains(topics, topic) {
				topics = append(topics, topic)
			}
		}
	}
	return topics
}

// CommandTopics are the topics to which instances of any version send commands.
func (o *Orchestrator) CommandTopics() []string {
	var topics []string
	for _, d := range o.versions {
		for _, group := range d.Groups {
			for i := range group {
				topics = append(topics, group[i].Topic)
			}
		}
	}
	slices.Sort(topics)
	return slices.Compact(topics)
}

// Begin is one instance to start.
type Begin struct {
	ID, CorrelationID, Key string
	Data                   []byte
	// CausationID is the id of the message that caused it, empty for none; Traceparent its trace.
	Traceparent string
}

// Start starts instances in tx: their rows, their history, and their first commands.
func (o *Orchestrator) Start(ctx context.Context, tx mainstay.Tx, news []Begin) error {
	b := o.batch(tx)
	rows := make([]*Row, 0, len(news))
	for _, n := range news {
		state, fx := o.latest.Start(tx.Now())
		row := &Row{
			Instance: saga.Instance{
				ID: n.ID, Definition: o.latest.Name, DefinitionVersion: o.latest.Version, CorrelationID: n.CorrelationID,
				Data: n.Data, State: state, CreatedAt: tx.Now(),
			},
			Key: n.Key, Lane: outbox.Lane(n.Key, o.cfg.Lanes),
		}
		b.changed(o.latest, row, state, fx, cause{traceparent: n.Traceparent})
		rows = append(rows, row)
	}
	if err := b.commands(ctx); err != nil {
		return err
	}
	o.cfg.Hooks.Started(o.latest.Name, len(news))
	return o.cfg.Store.Insert(ctx, tx, rows, b.history())
}

// HandleBatch applies replies.
func (o *Orchestrator) HandleBatch(ctx context.Context, tx mainstay.Tx, ms []*mainstay.Message) ([]error, error) {
	ids := make([]string, 0, len(ms))
	for _, m := range ms {
		if id := m.Header(mainstay.HeaderSaga); len(id) == 36 && uuid.Validate(id) == nil {
			ids = append(ids, id)
		}
	}
	rows, err := o.load(ctx, tx, ids)
	if err != nil {
		return nil, err
	}
	b := o.batch(tx)
	errs := make([]error, len(ms))
	for i, m := range ms {
		row := rows[m.Header(mainstay.HeaderSaga)]
		if row == nil {
			errs[i] = mainstay.Terminal(fmt.Errorf("reply %s is for saga %q, which is not known here", m.Type, m.Header(mainstay.HeaderSaga)))
			continue
		}
		errs[i] = o.next(b, row, replyOf(m), cause{m.ID, m.Traceparent})
	}
	return errs, b.save(ctx)
}

// Due reads which instances want a tick.
func (o *Orchestrator) Due(ctx context.Context, lanes []int, now time.Time, limit int) ([]string, error) {
	return o.cfg.Store.Due(ctx, o.latest.Name, lanes, now, limit)
}

// Urgent reads which of them wait for nobody: those that are past their deadline and not being compensated.
func (o *Orchestrator) Urgent(ctx context.Context, lanes []int, now time.Time, limit int) ([]string, error) {
	deadline := o.latest.Deadline
	for _, d := range o.versions {
		deadline = min(deadline, d.Deadline)
	}
	return o.cfg.Store.Urgent(ctx, o.latest.Name, lanes, now, now.Add(-deadline), limit)
}

// Fire gives instances their tick.
func (o *Orchestrator) Fire(ctx context.Context, tx mainstay.Tx, ids []string) error {
	rows, err := o.load(ctx, tx, ids)
	if err != nil {
		return err
	}
	b := o.batch(tx)
	var early []*Row
	for _, id := range ids {
		row := rows[id]
		if row == nil {
			continue
		}
		if err := o.next(b, row, saga.Tick{}, cause{}); err != nil {
			return err
		}
		if row.Due, row.DueKept = row.State.Due(), false; b.rows[id] == nil {
			early = append(early, row)
		}
	}
	if len(early) > 0 {
		if err := o.cfg.Store.Postpone(ctx, tx, early); err != nil {
			return err
		}
	}
	return b.save(ctx)
}

// Abandon gives an instance up whose tick ends its processes: it needs an operator.
func (o *Orchestrator) Abandon(ctx context.Context, tx mainstay.Tx, id string, why error) error {
	rows, err := o.load(ctx, tx, []string{id})
	if err != nil || rows[id] == nil {
		return err
	}
	b, row := o.batch(tx), rows[id]
	if err := o.next(b, row, saga.GiveUp{Code: saga.CodeCrash, Detail: why.Error()}, cause{}); err != nil {
		return err
	}
	row.Due, row.DueKept = row.State.Due(), false
	return b.save(ctx)
}

// dueBy is when a row that was due at is to be looked at, when its state wants that next. A time that stands there
// already and is earlier will do: to move it with every transition costs more than a tick that finds nothing to do.
func dueBy(at, next time.Time) time.Time {
	if next.IsZero() || at.IsZero() || next.Before(at) {
		return next
	}
	return at
}

func (o *Orchestrator) load(ctx context.Context, tx mainstay.Tx, ids []string) (map[string]*Row, error) {
	ids = slices.Compact(slices.Sorted(slices.Values(ids)))
	rows, err := o.cfg.Store.Load(ctx, tx, ids)
	if err != nil {
		return nil, err
	}
	byID := make(map[string]*Row, len(rows))
	for _, r := range rows {
		byID[r.ID] = r
	}
	return byID, nil
}

func replyOf(m *mainstay.Message) saga.Reply {
	var payload struct {
		Detail string `json:"detail"`
	}
	if len(m.Payload) > len("{}") {
		_ = json.Unmarshal(m.Payload, &payload) // words for people; a reply without them is as good
	}
	return saga.Reply{
		Step: m.Header(mainstay.HeaderStep), Op: m.Header(mainstay.HeaderOp),
		Outcome: mainstay.Outcome(m.Header(mainstay.HeaderOutcome)), Code: m.Header(mainstay.HeaderCode), Detail: payload.Detail,
	}
}

func (o *Orchestrator) next(b *batch, row *Row, in saga.Input, c cause) error {
	d := o.versions[row.DefinitionVersion]
	if d == nil {
		return fmt.Errorf("saga %s runs on version %d of %s, which this binary does not know: start one that does",
			row.ID, row.DefinitionVersion, row.Definition)
	}
	state, fx := d.Next(row.State, in, b.tx.Now())
	if fx.Overdue {
		o.cfg.Hooks.Overdue(d.Name)
		o.cfg.Logger.ErrorContext(context.Background(), "saga is past its deadline and beyond compensation, it goes on", "saga_id", row.ID,
			"order_id", row.CorrelationID)
	}
	if fx.Changed {
		b.changed(d, row, state, fx, c)
	}
	return nil
}

// cause is the message that brought an input.
type cause struct{ messageID, traceparent string }

// batch collects what one transaction does to instances.
type batch struct {
	o       *Orchestrator
	tx      mainstay.Tx
	rows    map[string]*Row
	order   []*Row
	entries map[string][]entry
	cmds    []*saga.Command
	causes  []cause
	changes []saga.Change
	sent    map[string][]string
}

// entry is a line of history with the message that caused it.
type entry struct {
	saga.Entry
	MessageID string `json:"message_id,omitempty"`
}

func (o *Orchestrator) batch(tx mainstay.Tx) *batch {
	return &batch{o: o, tx: tx, rows: map[string]*Row{}, entries: map[string][]entry{}, sent: map[string][]string{}}
}

// changed books one transition.
func (b *batch) changed(d *saga.Definition, row *Row, state saga.State, fx saga.Effects, c cause) {
	from := row.State.Status
	if b.rows[row.ID] == nil {
		b.rows[row.ID] = row
		b.order = append(b.order, row)
		row.Version++
		row.DueKept = true
		if row.Version == 1 {
			from = ""
		}
	}
	due := dueBy(row.Due, state.Due())
	row.DueKept = row.DueKept && due.Equal(row.Due)
	row.State, row.UpdatedAt, row.Due = state, b.tx.Now(), due
	if state.Status.Terminal() {
		row.Ended = b.tx.Now()
	}
	b.entries[row.ID] = append(b.entries[row.ID], entry{fx.Entry, c.messageID})
	for i := range fx.Commands {
		cmd := &fx.Commands[i]
		cmd.Instance = &row.Instance
		b.cmds, b.causes = append(b.cmds, cmd), append(b.causes, c)
	}
	if from != state.Status && from != "" {
		snapshot := row.Instance
		b.changes = append(b.changes, saga.Change{Instance: &snapshot, From: from, Now: b.tx.Now()})
		b.o.report(d, row)
	}
}

func (o *Orchestrator) report(d *saga.Definition, row *Row) {
	o.cfg.Hooks.Changed(d.Name, row.State.Status)
	if row.State.Status == saga.NeedsOperator {
		o.cfg.Logger.ErrorContext(context.Background(), "saga needs an operator", "saga_id", row.ID, "order_id", row.CorrelationID,
			"steps", row.State.Stuck(), "owed", row.State.Owed(d))
	}
}

// commands sends what the transitions ask for.
func (b *batch) commands(ctx context.Context) error {
	if len(b.cmds) == 0 {
		return nil
	}
	if err := b.o.cfg.Binding.Commands(ctx, b.tx, b.cmds); err != nil {
		return fmt.Errorf("making commands: %w", err)
	}
	for i, cmd := range b.cmds {
		m, err := b.message(cmd, b.causes[i])
		if err != nil {
			return err
		}
		b.sent[cmd.Instance.ID] = append(b.sent[cmd.Instance.ID], m.ID)
		b.tx.Send(m)
	}
	return nil
}

func (b *batch) message(cmd *saga.Command, c cause) (*mainstay.Message, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return nil, fmt.Errorf("making a message id: %w", err)
	}
	headers := map[string]string{}
	for k, v := range cmd.Headers {
		headers[k] = v
	}
	headers[mainstay.HeaderSaga], headers[mainstay.HeaderStep] = cmd.Instance.ID, cmd.Step
	headers[mainstay.HeaderOp], headers[mainstay.HeaderReplyTo] = cmd.Op, cmd.ReplyTo
	return &mainstay.Message{
		ID: id.String(), Topic: cmd.Topic, Key: b.rows[cmd.Instance.ID].Key, Type: cmd.Type, Source: b.o.cfg.Source,
		AggregateType: "saga", AggregateID: cmd.Instance.ID, CorrelationID: cmd.Instance.CorrelationID,
		CausationID: c.messageID, Traceparent: c.traceparent, Headers: headers, Payload: cmd.Payload,
	}, nil
}

func (b *batch) history() []History {
	hs := make([]History, 0, len(b.order))
	for _, row := range b.order {
		es := b.entries[row.ID]
		text, err := json.Marshal(es)
		if err != nil {
			panic(err) // strings always encode
		}
		hs = append(hs, History{
			SagaID: row.ID, Version: row.Version, At: b.tx.Now(), MessageID: es[len(es)-1].MessageID,
			Entry: string(text), Sent: b.sent[row.ID],
		})
	}
	return hs
}

// save writes what the batch has done.
func (b *batch) save(ctx context.Context) error {
	if len(b.order) == 0 {
		return nil
	}
	if err := b.commands(ctx); err != nil {
		return err
	}
	if len(b.changes) > 0 {
		if err := b.o.cfg.Binding.Changed(ctx, b.tx, b.changes); err != nil {
			return fmt.Errorf("following changes of sagas: %w", err)
		}
	}
	slices.SortFunc(b.order, func(x, y *Row) int { return cmp.Compare(x.ID, y.ID) })
	return b.o.cfg.Store.Save(ctx, b.tx, b.order, b.history())
}
