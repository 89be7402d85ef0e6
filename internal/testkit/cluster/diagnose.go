package cluster

import (
	"context"
	"errors"
	"time"
)

// diagnosis are the queries that say where orders hang that have not ended: a text for each row.
func diagnosis() []string {
	const open = `select id from saga where ended_at is null`
	const lanes = `(select lane from saga where ended_at is null)`
	return []string{
		`select 'saga ' || to_jsonb(s)::text from saga s where ended_at is null`,
		`select 'transition ' || to_jsonb(h)::text from saga_history h where saga_id in (` + open + `) order by saga_id, version`,
		`select 'message ' || (to_jsonb(o) - 'payload' - 'headers')::text || coalesce((select to_jsonb(l)::text from log l where o.position = any(l.positions)), ' not numbered')
from outbox o where key in (select id::text from saga where ended_at is null) order by position`,
		`select 'place ' || to_jsonb(p)::text || ' of ' || coalesce((select max(last_sequence) from log_head h where h.topic = p.topic and h.lane = p.lane), 0)
from place p where lane in ` + lanes + ` order by lane, topic`,
		`select 'published ' || to_jsonb(p)::text from relay_progress p where lane in ` + lanes + ` order by lane, topic`,
		`select 'parked ' || to_jsonb(p)::text from parked p`,
		`select 'crash ' || to_jsonb(c)::text from crash c`,
		`select 'lease ' || to_jsonb(l)::text from lease l`,
		`select 'incarnation ' || to_jsonb(i)::text from incarnation i where lane in ` + lanes,
		`select 'now ' || now()`,
	}
}

// diagnose logs what the database and the processes say of orders that have not ended.
func (c *Cluster) diagnose() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.t.Context()), 10*time.Second)
	defer cancel()
	for _, query := range diagnosis() {
		rows, err := c.DB.QueryContext(ctx, query)
		if err != nil {
			c.t.Log(query, err)
			continue
		}
		for rows.Next() {
			var row string
			if err := rows.Scan(&row); err == nil {
				c.t.Log(row)
			}
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			c.t.Log(query, err)
		}
	}
	for _, name := range c.Names("") {
		status, body := c.Process(name).Readiness(ctx)
		c.t.Logf("%s: %d %s", name, status, body)
	}
}
