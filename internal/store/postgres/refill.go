package postgres

import (
	"context"
	"fmt"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/relay"
)

const (
	advanceQuery = `/* refill.advance */
update refill set sequence = $4 where topic = $1 and lane = $2 and sequence = $3`
	endRefillQuery = `/* refill.end */
delete from refill where topic = $1 and lane = $2 and sequence = $3`
)

// queueAdvance moves a refill that is still where it is believed to be.
func queueAdvance(t *tx, a relay.Advance) {
	if a.Done {
		t.Queue(endRefillQuery, a.Topic, a.Lane, a.From)
		return
	}
	t.Queue(advanceQuery, a.Topic, a.Lane, a.From, a.To)
}

const refillsQuery = `/* refill.list */ select topic, lane, sequence, reason from refill`

type refillRow struct {
	Topic    string
	Lane     int
	Sequence int64
	Reason   string
}

// Refills reads the refills under way.
func (s *Store) Refills(ctx context.Context) ([]relay.Refill, error) {
	var rows []refillRow
	if err := s.db.SelectContext(ctx, &rows, refillsQuery); err != nil {
		return nil, fmt.Errorf("reading the refills: %w", translate(ctx, err))
	}
	fs := make([]relay.Refill, len(rows))
	for i, r := range rows {
		fs[i] = relay.Refill{TopicLane: mainstay.TopicLane{Topic: r.Topic, Lane: r.Lane}, Sequence: r.Sequence, Reason: r.Reason}
	}
	return fs, nil
}

const startRefillQuery = `/* refill.start */
insert into refill (topic, lane, sequence, reason) values ($1, $2, $3, $4)
on conflict (topic, lane) do update set sequence = excluded.sequence, reason = excluded.reason, asked_at = excluded.asked_at
where refill.sequence > excluded.sequence`

// StartRefill begins a refill, or takes the one under way back.
func (s *Store) StartRefill(ctx context.Context, f relay.Refill) error {
	if _, err := s.db.ExecContext(ctx, startRefillQuery, f.Topic, f.Lane, f.Sequence, text(f.Reason)); err != nil {
		return fmt.Errorf("beginning a refill: %w", translate(ctx, err))
	}
	return nil
}
