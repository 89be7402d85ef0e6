package sqlite

import (
	"context"
	"database/sql"
	"fmt"

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

// Refills reads the refills under way.
func (s *Store) Refills(ctx context.Context) ([]relay.Refill, error) {
	var fs []relay.Refill
	err := each(ctx, s, func(rows *sql.Rows) error {
		var f relay.Refill
		err := rows.Scan(&f.Topic, &f.Lane, &f.Sequence, &f.Reason)
		fs = append(fs, f)
		return err
	}, refillsQuery)
	if err != nil {
		return nil, fmt.Errorf("reading the refills: %w", err)
	}
	return fs, nil
}

const startRefillQuery = `/* refill.start */
insert into refill (topic, lane, sequence, reason, asked_at) values ($1, $2, $3, $4, $5)
on conflict (topic, lane) do update set sequence = excluded.sequence, reason = excluded.reason, asked_at = excluded.asked_at
where refill.sequence > excluded.sequence`

// StartRefill begins a refill, or takes the one under way back.
func (s *Store) StartRefill(ctx context.Context, f relay.Refill) error {
	return s.do(ctx, s.drain, func(_ context.Context, t *tx) error {
		t.Queue(startRefillQuery, f.Topic, f.Lane, f.Sequence, f.Reason, t.now.UnixMicro())
		return nil
	})
}
