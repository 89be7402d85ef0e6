package sqlite

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/mainstay-io/mainstay/internal/lane"
)

const crashesQuery = `/* crash.read */
select topic, lane, sequence, count, running from crash
where consumer = $1 and lane in (select value from json_each($2)) order by lane, topic, sequence`

// Crashes reads what is known of crashes in the given lanes.
func (s *Store) Crashes(ctx context.Context, consumer string, lanes []int) ([]lane.Crash, error) {
	var cs []lane.Crash
	err := each(ctx, s.reads, func(rows *sql.Rows) error {
		var c lane.Crash
		if err := rows.Scan(&c.Topic, &c.Lane, &c.Sequence, &c.Count, &c.Running); err != nil {
			return err
		}
		cs = append(cs, c)
		return nil
	}, crashesQuery, consumer, array(lanes))
	if err != nil {
		return nil, fmt.Errorf("reading the crashes of %s: %w", consumer, err)
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
