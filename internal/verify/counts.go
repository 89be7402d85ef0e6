package verify

import (
	"context"
	"fmt"
)

// Counts say how the orders stand.
type Counts struct {
	Accepted      int64 `json:"accepted"`
	Confirmed     int64 `json:"confirmed"`
	Cancelled     int64 `json:"cancelled"`
	NeedsOperator int64 `json:"needs_operator"`
	Pending       int64 `json:"pending"`
	// OpenDeadLetters wait for a person, replaying ones included.
	OpenDeadLetters int64 `json:"open_dead_letters"`
	// Owed is money that is held for orders whose compensation needs an operator, by currency.
	Owed []Amount `json:"owed"`
}

// Amount is money, in minor units.
type Amount struct {
	Currency string `json:"currency"`
	Amount   int64  `json:"amount"`
}

const (
	countOrders = `/* verify.counts */
select count(*), coalesce(sum(case status when 'confirmed' then 1 else 0 end), 0), coalesce(sum(case status when 'cancelled' then 1 else 0 end), 0),
    coalesce(sum(case status when 'needs_operator' then 1 else 0 end), 0), coalesce(sum(case status when 'pending' then 1 else 0 end), 0),
    (select count(*) from dead_letter where state in ('open', 'replaying'))
from orders`
	// owing holds for a saga s, with payment p, that has to give money back and cannot.
	owing = `s.definition = 'order' and s.status = 'needs_operator' and s.state like '%"r":{%'
    and (p.order_id is null or p.status = 'authorised')
    and (s.state like '%"authorise undo%' or s.state like '%"authorise done%' or s.state like '%"authorise failed%')
    and s.state not like '%"authorise undone%'`
	countOwed = `/* verify.owed */
select o.currency, sum(o.total)::bigint from saga s join orders o on o.id::text = s.id
left join payment p on p.order_id = s.id
where ` + owing + `
group by o.currency order by o.currency`
)

// counts reads how the orders stand and which are open, in one snapshot.
func (s *session) counts(ctx context.Context) (Counts, []Open, error) {
	c, open := Counts{Owed: []Amount{}}, []Open{}
	err := s.snapshot(ctx, false, func() error {
		n, err := s.numbers(ctx, countOrders)
		if err != nil {
			return err
		}
		c.Accepted, c.Confirmed, c.Cancelled, c.NeedsOperator, c.Pending, c.OpenDeadLetters = n[0], n[1], n[2], n[3], n[4], n[5]
		if c.Owed, err = s.owed(ctx); err != nil {
			return err
		}
		open, err = s.open(ctx)
		return err
	})
	if err != nil {
		return c, open, fmt.Errorf("counting orders: %w", err)
	}
	return c, open, nil
}

func (s *session) owed(ctx context.Context) ([]Amount, error) {
	rows, err := s.conn.QueryContext(ctx, s.sql(countOwed))
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	owed := []Amount{}
	for rows.Next() {
		var a Amount
		if err := rows.Scan(&a.Currency, &a.Amount); err != nil {
			return nil, err
		}
		owed = append(owed, a)
	}
	return owed, rows.Err()
}
