package verify

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/mainstay-io/mainstay/internal/order"
	"github.com/mainstay-io/mainstay/saga"
)

// Rules of what SQL cannot see.
const (
	ruleHistory = "history" // the history is broken, or is not what the definition allows
	ruleState   = "state"   // the state is not what the status or the definition says
)

// sagas: each one's history is whole, was walked along the definition, and ends where the saga stands.
func sagas() check {
	return check{
		name:    "sagas",
		summary: "%d {saga|sagas} with %d {transition|transitions}, in unbroken order; what was undone is all that was done, and nothing past the pivot",
		count:   `/* verify.sagas */ select (select count(*) from saga), (select count(*) from saga_history)`,
		scan:    scanSagas,
	}
}

const sagasQuery = `/* verify.histories */
select s.id, s.definition, s.status, s.version, s.state, h.version, h.entry, h.sent::text
from saga s left join saga_history h on h.saga_id = s.id
union all
select h.saga_id, '', '', 0, '', h.version, h.entry, h.sent::text
from saga_history h left join saga s on s.id = h.saga_id where s.id is null
order by 1, 6`

// story is one saga while its history is read.
type story struct {
	id, definition, status, state string
	version                       int64

	plan     map[string]plan // nil for a definition that is not known here
	last     int64           // version of the history
	at       string          // status that the history has reached
	messages map[string]bool // that caused a transition
}

// plan is what a definition says of a step.
type plan struct{ undoable, pivot, afterPivot bool }

func plansOf(d saga.Definition) map[string]plan {
	plans, after := map[string]plan{}, false
	for _, group := range d.Groups {
		pivot := false
		for _, step := range group {
			plans[step.Name] = plan{step.Compensation != nil, step.Pivot, after}
			pivot = pivot || step.Pivot
		}
		after = after || pivot
	}
	return plans
}

// scanSagas reads all histories, a saga at a time.
func scanSagas(ctx context.Context, s *session, found finder) error {
	rows, err := s.conn.QueryContext(ctx, s.sql(sagasQuery))
	if err != nil {
		return fmt.Errorf("reading histories: %w", err)
	}
	defer func() { _ = rows.Close() }()
	plans := plansOf(order.Definition(order.Times{Deadline: time.Hour, Ask: time.Second}))
	var current *story
	for rows.Next() {
		var st story
		var version sql.NullInt64
		var entries, sent sql.NullString
		if err := rows.Scan(&st.id, &st.definition, &st.status, &st.version, &st.state, &version, &entries, &sent); err != nil {
			return fmt.Errorf("reading histories: %w", err)
		}
		if current == nil || current.id != st.id {
			current.end(found)
			current = &st
			current.messages = map[string]bool{}
			if st.definition == "order" {
				current.plan = plans
			}
		}
		if version.Valid {
			current.transition(version.Int64, entries.String, sent.String, found)
		}
	}
	current.end(found)
	if err := rows.Err(); err != nil {
		return fmt.Errorf("reading histories: %w", err)
	}
	return nil
}

// entry is a line of history as it is stored.
type entry struct {
	saga.Entry
	MessageID string `json:"message_id"`
}

// transition reads the next row of history.
func (st *story) transition(version int64, text, sent string, found finder) {
	if version != st.last+1 {
		found(ruleHistory, st.id, fmt.Sprintf("version %d of the history comes after %d", version, st.last))
	}
	st.last = version
	var entries []entry
	var ids []string
	if err := json.Unmarshal([]byte(text), &entries); err != nil {
		found(ruleHistory, st.id, fmt.Sprintf("version %d of the history cannot be read: %v", version, err))
		return
	}
	if err := json.Unmarshal([]byte(sent), &ids); err != nil {
		found(ruleHistory, st.id, fmt.Sprintf("the messages of version %d of the history cannot be read: %v", version, err))
		return
	}
	commands := 0
	for i := range entries {
		st.entry(version, &entries[i], found)
		commands += len(entries[i].Do) + len(entries[i].Undo)
	}
	if commands != len(ids) {
		found(ruleHistory, st.id, fmt.Sprintf("version %d of the history commands %d steps with %d messages", version, commands, len(ids)))
	}
}

func (st *story) entry(version int64, e *entry, found finder) {
	if saga.Status(st.at).Terminal() {
		found(ruleHistory, st.id, fmt.Sprintf("version %d of the history goes on after %s", version, st.at))
	}
	if string(e.From) != st.at {
		found(ruleHistory, st.id, fmt.Sprintf("version %d of the history goes from %q, and the one before led to %q", version, e.From, st.at))
	}
	st.at = string(e.To)
	if e.MessageID != "" {
		if st.messages[e.MessageID] {
			found(ruleHistory, st.id, fmt.Sprintf("version %d of the history applies message %s again", version, e.MessageID))
		}
		st.messages[e.MessageID] = true
	}
	for _, step := range e.Undo {
		if st.plan != nil && !st.plan[step].undoable {
			found(ruleHistory, st.id, fmt.Sprintf("version %d of the history compensates step %s, which has no compensation", version, step))
		}
	}
}

// end compares what the history has reached with the saga.
func (st *story) end(found finder) {
	switch {
	case st == nil:
		return
	case st.status == "":
		found(ruleHistory, st.id, "there is history of this saga, and no saga")
		return
	case st.last != st.version:
		found(ruleHistory, st.id, fmt.Sprintf("the saga is at version %d, its history at %d", st.version, st.last))
	case st.at != st.status:
		found(ruleHistory, st.id, fmt.Sprintf("the saga is %s, its history ends with %s", st.status, st.at))
	}
	var state saga.State
	if err := json.Unmarshal([]byte(st.state), &state); err != nil {
		found(ruleState, st.id, err.Error())
		return
	}
	if string(state.Status) != st.status {
		found(ruleState, st.id, fmt.Sprintf("the saga is %s, its state says %s", st.status, state.Status))
	}
	if st.plan != nil {
		st.steps(&state, found)
	}
}

// steps checks the statuses of steps against the definition.
func (st *story) steps(state *saga.State, found finder) {
	if len(state.Steps) != len(st.plan) {
		found(ruleState, st.id, fmt.Sprintf("the state has %d steps, the definition %d", len(state.Steps), len(st.plan)))
		return
	}
	for i := range state.Steps {
		step := &state.Steps[i]
		if why := wrong(state.Status, st.plan[step.Name], step.Status); why != "" {
			found(ruleState, st.id, fmt.Sprintf("the saga is %s, and step %s is %s: %s", state.Status, step.Name, step.Status, why))
		}
	}
}

// wrong says what is wrong about a step's status in a saga's, "" when nothing is.
func wrong(status saga.Status, p plan, step saga.StepStatus) string {
	undo := []saga.StepStatus{saga.StepUndoing, saga.StepUndone, saga.StepUndoFailed}
	switch {
	case !p.undoable && slices.Contains(undo, step):
		return "it has no compensation"
	case status == saga.Completed && step != saga.StepDone:
		return "it was not done"
	case status != saga.Compensated:
		return ""
	case p.afterPivot && step != saga.StepPending:
		return "a saga that compensates has not passed its pivot"
	case p.pivot && step != saga.StepPending && step != saga.StepRejected:
		return "a saga compensates only when its pivot was not asked for or was refused"
	case p.undoable && step != saga.StepPending && step != saga.StepRejected && step != saga.StepUndone:
		return "it was not undone"
	}
	return ""
}
