package postgres

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/jmoiron/sqlx"
)

// What the sequencer has not numbered yet, as it sees it itself (see Round): what its stored snapshot does not show,
// and of a difference that it takes in chunks what is behind the last one. The first such row of the index stands for
// the oldest, so that the answer costs the same however much waits.
const (
	unnumberedState = `/* backlog.sequencer */
select pg_snapshot_xmax(snapshot)::text as xmax, array(select pg_snapshot_xip(snapshot))::text as xip, after_position
from sequencer_state order by version desc limit 1`
	// unnumberedFresh: by transaction, the one that began to write first.
	unnumberedFresh = `/* backlog.unnumbered */
select extract(epoch from now() - min(created_at))::float8 from (
    (select created_at from outbox where xid >= $1::xid8 order by xid limit 1)
    union all
    select o.created_at from unnest($2::xid8[]) as late(xid)
    cross join lateral (select created_at from outbox where xid = late.xid limit 1) as o
) as waiting`
	// unnumberedChunk: by position, behind the last chunk.
	unnumberedChunk = `/* backlog.unnumbered_chunk */
select extract(epoch from now() - min(created_at))::float8 from (
    select created_at from outbox where position > $3::bigint and (xid >= $1::xid8 or xid = any($2::xid8[]))
    order by position limit 1
) as waiting`
)

// unnumbered is for how long the oldest committed message without a sequence has waited; 0 when there is none.
func unnumbered(ctx context.Context, tx *sqlx.Tx) (time.Duration, error) {
	var at struct {
		Xmax, Xip string
		After     *int64 `db:"after_position"`
	}
	if err := tx.GetContext(ctx, &at, unnumberedState); err != nil {
		return 0, fmt.Errorf("reading the sequencer's state: %w", err)
	}
	query, args := unnumberedFresh, []any{at.Xmax, at.Xip}
	if at.After != nil {
		query, args = unnumberedChunk, append(args, *at.After)
	}
	var oldest sql.NullFloat64 // seconds
	if err := tx.GetContext(ctx, &oldest, query, args...); err != nil {
		return 0, fmt.Errorf("looking for what is not numbered: %w", err)
	}
	return depthRow{Oldest: oldest}.depth().Oldest, nil
}
