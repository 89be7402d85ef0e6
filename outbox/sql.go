package outbox

import (
	"context"
	"fmt"
	"time"

	"github.com/mainstay-io/mainstay"
)

// Statement is SQL with its arguments.
type Statement struct {
	SQL  string
	Args []any
}

const insertPostgres = `/* outbox.append */
insert into outbox (id, topic, lane, key, type, aggregatetype, aggregateid, headers, payload)
select id, topic, lane, key, type, aggregatetype, aggregateid, headers, payload
from unnest($1::uuid[], $2::text[], $3::int[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[]::jsonb[], $9::bytea[])
     with ordinality as m(id, topic, lane, key, type, aggregatetype, aggregateid, headers, payload, n)
order by n`

// PostgresInsert is the one statement that appends msgs, which must be prepared (see Outbox.Prepare), on PostgreSQL.
func PostgresInsert(msgs []*mainstay.Message) (Statement, error) {
	n := len(msgs)
	ids, topics, lanes := make([]string, n), make([]string, n), make([]int32, n)
	keys, types, aggTypes, aggIDs := make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	headers, payloads := make([]string, n), make([][]byte, n)
	for i, m := range msgs {
		attrs, err := EncodeAttributes(m)
		if err != nil {
			return Statement{}, err
		}
		ids[i], topics[i], lanes[i] = m.ID, m.Topic, int32(m.Lane) //nolint:gosec // lanes are few
		keys[i], types[i], aggTypes[i], aggIDs[i] = m.Key, m.Type, m.AggregateType, m.AggregateID
		headers[i], payloads[i] = string(attrs), m.Payload
		if payloads[i] == nil {
			payloads[i] = []byte{}
		}
	}
	return Statement{insertPostgres, []any{ids, topics, lanes, keys, types, aggTypes, aggIDs, headers, payloads}}, nil
}

const (
	advanceSQLite = `/* outbox.advance */
insert into log_head (topic, lane, last_sequence) values ($1, $2, $3)
on conflict (topic, lane) do update set last_sequence = last_sequence + excluded.last_sequence`
	insertSQLite = `/* outbox.append */
insert into outbox (id, topic, lane, sequence, key, type, aggregatetype, aggregateid, headers, payload, created_at)
values ($1, $2, $3, (select last_sequence - $4 from log_head where topic = $2 and lane = $3), $5, $6, $7, $8, $9, $10,
        coalesce($11, cast(unixepoch('subsec') * 1000000 as integer)))`
)

// appendSQLite numbers and writes: there is one writer, so the sequence is given here.
func appendSQLite(ctx context.Context, tx Execer, now time.Time, msgs []*mainstay.Message) error {
	left := map[mainstay.TopicLane]int64{}
	var logs []mainstay.TopicLane
	for _, m := range msgs {
		if left[m.TopicLane()] == 0 {
			logs = append(logs, m.TopicLane())
		}
		left[m.TopicLane()]++
	}
	for _, l := range logs {
		if _, err := tx.ExecContext(ctx, advanceSQLite, l.Topic, l.Lane, left[l]); err != nil {
			return fmt.Errorf("advancing the log: %w", err)
		}
	}
	var created any
	if !now.IsZero() {
		created = now.UnixMicro()
	}
	for _, m := range msgs {
		attrs, err := EncodeAttributes(m)
		if err != nil {
			return err
		}
		left[m.TopicLane()]--
		payload := m.Payload
		if payload == nil {
			payload = []byte{}
		}
		m.CreatedAt = now.Truncate(time.Microsecond)
		_, err = tx.ExecContext(ctx, insertSQLite, m.ID, m.Topic, m.Lane, left[m.TopicLane()], m.Key, m.Type,
			m.AggregateType, m.AggregateID, string(attrs), payload, created)
		if err != nil {
			return fmt.Errorf("appending to the outbox: %w", err)
		}
	}
	return nil
}
