package postgres

import (
	"context"
	"fmt"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/lane"
)

const crashesQuery = `/* crash.read */
select topic, lane, sequence, count, running from crash where consumer = $1 and lane = any($2::int[]) order by lane, topic, sequence`

// Crashes reads what is known of crashes in the given lanes.
func (s *Store) Crashes(ctx context.Context, consumer string, lanes []int) ([]lane.Crash, error) {
	var rows []struct {
		Topic    string
		Lane     int
		Sequence int64
		Count    int
		Running  bool
	}
	if err := s.db.SelectContext(ctx, &rows, crashesQuery, consumer, lanes); err != nil {
		return nil, fmt.Errorf("reading the crashes of %s: %w", consumer, translate(ctx, err))
	}
	cs := make([]lane.Crash, len(rows))
	for i, r := range rows {
		cs[i] = lane.Crash{
			Ref:   lane.Ref{TopicLane: mainstay.TopicLane{Topic: r.Topic, Lane: r.Lane}, Sequence: r.Sequence},
			Count: r.Count, Running: r.Running,
		}
	}
	return cs, nil
}

const (
	putCrashQuery = `/* crash.put */
insert into crash (consumer, topic, lane, sequence, count, running) values ($1, $2, $3, $4, $5, $6)
on conflict (consumer, lane, topic, sequence) do update set count = excluded.count, running = excluded.running`
	dropCrashQuery = `/* crash.drop */ delete from crash where consumer = $1 and topic = $2 and lane = $3 and sequence = $4`
)

func (t *laneTx) PutCrash(c lane.Crash) {
	if c.Count == 0 && !c.Running {
		t.Queue(dropCrashQuery, t.consumer, c.Topic, c.Lane, c.Sequence)
		return
	}
	t.Queue(putCrashQuery, t.consumer, c.Topic, c.Lane, c.Sequence, c.Count, c.Running)
}
