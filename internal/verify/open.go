package verify

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/mainstay-io/mainstay/saga"
)

// Open is an order that needs an operator.
type Open struct {
	OrderID  string `json:"order_id"`
	Currency string `json:"currency"`
	// Owed is money that is held for the order and must be voided, in minor units; zero for none.
	Owed int64 `json:"owed"`
	// Steps are those that are stuck.
	Steps []Stuck `json:"steps"`
	// DeadLetterSince is when the oldest open dead letter of the order became one; nil when there is none.
	DeadLetterSince *time.Time `json:"dead_letter_since"`
}

// Stuck is a step whose action ("do") or compensation ("undo") has failed, and why.
type Stuck struct {
	Step   string `json:"step"`
	Op     string `json:"op"`
	Code   string `json:"code"`
	Detail string `json:"detail"`
}

const openOrders = `/* verify.open */
with o as materialized (
    select id::text as id, currency, total from orders where status = 'needs_operator' order by id limit $1
)
select o.id, o.currency, case when ` + owing + ` then o.total else 0 end, coalesce(s.state, ''),
    coalesce((select min({micros d.entered_at}) from dead_letter d where d.key = o.id and d.state in ('open', 'replaying')), 0)
from o left join saga s on s.id = o.id and s.definition = 'order' left join payment p on p.order_id = o.id
order by o.id`

// open reads the oldest orders that need an operator.
func (s *session) open(ctx context.Context) ([]Open, error) {
	rows, err := s.conn.QueryContext(ctx, s.sql(openOrders), s.o.Limit)
	if err != nil {
		return nil, fmt.Errorf("naming open orders: %w", err)
	}
	defer func() { _ = rows.Close() }()
	all := []Open{}
	for rows.Next() {
		var o Open
		var state string
		var since int64
		if err := rows.Scan(&o.OrderID, &o.Currency, &o.Owed, &state, &since); err != nil {
			return nil, fmt.Errorf("naming open orders: %w", err)
		}
		if since > 0 {
			at := time.UnixMicro(since).UTC()
			o.DeadLetterSince = &at
		}
		o.Steps = stuckSteps(state)
		all = append(all, o)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("naming open orders: %w", err)
	}
	return all, nil
}

// stuckSteps are the steps that keep a saga from its end; none of a state that cannot be read, which is a violation of
// its own.
func stuckSteps(stored string) []Stuck {
	steps := []Stuck{}
	var state saga.State
	if json.Unmarshal([]byte(stored), &state) != nil {
		return steps
	}
	for _, name := range state.Stuck() {
		step, _ := state.Step(name)
		op := "do"
		if step.Status == saga.StepUndoFailed {
			op = "undo"
		}
		steps = append(steps, Stuck{Step: name, Op: op, Code: step.Code, Detail: step.Detail})
	}
	return steps
}
