package outbox

import (
	"context"
	"fmt"

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
func PostgresInsert(msgs []*mainstay.Message) Statement {
	n := len(msgs)
	ids, topics, lanes := make([]string, n), make([]string, n), make([]int32, n)
	keys, types, aggTypes, aggIDs := make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	headers, payloads := make([]string, n), make([][]byte, n)
	for i, m := range msgs {
		ids[i], topics[i], lanes[i] = m.ID, m.Topic, int32(m.Lane) //nolint:gosec // lanes are few
		keys[i], types[i], aggTypes[i], aggIDs[i] = m.Key, m.Type, m.AggregateType, m.AggregateID
		headers[i], payloads[i] = string(EncodeAttributes(m)), payloadOf(m)
	}
	return Statement{insertPostgres, []any{ids, topics, lanes, keys, types, aggTypes, aggIDs, headers, payloads}}
}

const (
	advanceSQLite = `/* outbox.advance */
insert into log_head (topic, lane, last_sequence) values ($1, $2, $3)
on conflict (topic, lane) do update set last_sequence = last_sequence + excluded.last_sequence
returning last_sequence`
	insertSQLite = `/* outbox.insert */
insert into outbox (id, topic, lane, sequence, key, type, aggregatetype, aggregateid, headers, payload, created_at)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`
	appendSQLite = `/* outbox.append */
insert into outbox (id, topic, lane, sequence, key, type, aggregatetype, aggregateid, headers, payload, created_at)
values ($1, $2, $3, (select last_sequence from log_head where topic = $2 and lane = $3), $4, $5, $6, $7, $8, $9,
        cast(unixepoch('subsec') * 1000000 as integer))`
)

// SQLiteAdvance takes the next n sequences of a log, and answers with the last of them. There is one writer, so
// sequences are given here.
func SQLiteAdvance(log mainstay.TopicLane, n int64) Statement {
	return Statement{advanceSQLite, []any{log.Topic, log.Lane, n}}
}

// SQLiteInsert appends m, which must be prepared (see Outbox.Prepare) and have its Sequence (see SQLiteAdvance) and
// CreatedAt.
func SQLiteInsert(m *mainstay.Message) Statement {
	return Statement{insertSQLite, []any{
		m.ID, m.Topic, m.Lane, m.Sequence, m.Key, m.Type, m.AggregateType, m.AggregateID, string(EncodeAttributes(m)), payloadOf(m),
		m.CreatedAt.UnixMicro(),
	}}
}

func payloadOf(m *mainstay.Message) []byte {
	if m.Payload == nil {
		return []byte{}
	}
	return m.Payload
}

// appendTo numbers and writes msgs one by one, at the database's clock, through a transaction that need not be able
// to read.
func appendTo(ctx context.Context, tx Tx, msgs []*mainstay.Message) error {
	for _, m := range msgs {
		advance := SQLiteAdvance(m.TopicLane(), 1)
		if _, err := tx.ExecContext(ctx, advance.SQL, advance.Args...); err != nil {
			return fmt.Errorf("advancing the log: %w", err)
		}
		_, err := tx.ExecContext(ctx, appendSQLite, m.ID, m.Topic, m.Lane, m.Key, m.Type, m.AggregateType, m.AggregateID,
			string(EncodeAttributes(m)), payloadOf(m))
		if err != nil {
			return fmt.Errorf("appending to the outbox: %w", err)
		}
	}
	return nil
}
