package postgres

import (
	"context"
	"database/sql"
	"fmt"
	"strings"

	"github.com/jmoiron/sqlx"

	"github.com/mainstay-io/mainstay/internal/lease"
)

const (
	prepareState = `/* sequencer.prepare */
update sequencer_state set epoch = $1, version = version + 1 where epoch <= $1 returning incarnation`
	identityQuery = `/* sequencer.identity */ select identity as was, database_identity() as is, database_era() as era from meta`
	openQuery     = `/* sequencer.open_incarnation */
insert into incarnation (id, topic, lane, first_sequence, reason)
select $1, k.topic, k.lane, coalesce((select max(last_sequence) from log_head h where h.topic = k.topic and h.lane = k.lane), 0) + 1, $2
from (` + logsUnion + `) as k`
	adoptQuery     = `/* sequencer.adopt */ update meta set identity = $1`
	incarnateQuery = `/* sequencer.incarnate */ update sequencer_state set incarnation = $1`
)

// Prepare takes the state row for the lease and compares the database's identity with the one that was numbered so
// far. Another one opens a new incarnation: this is a restored or promoted copy, and what the old one has published
// since may differ from what is here. Where it is another cluster or database, transaction ids have lost their
// meaning too, and the outbox is based anew.
func (s *Store) Prepare(ctx context.Context, l lease.Lease) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forgetState()
	tx, err := s.seqDB.BeginTxx(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted})
	if err != nil {
		return fmt.Errorf("beginning: %w", translate(ctx, err))
	}
	defer tx.Rollback() // after the commit it does nothing
	if err := s.prepare(ctx, tx, l); err != nil {
		return translate(ctx, err)
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("committing: %w", translate(ctx, err))
	}
	return s.readState(ctx, l)
}

func (s *Store) prepare(ctx context.Context, tx *sqlx.Tx, l lease.Lease) error {
	var incarnations []int64
	if err := tx.SelectContext(ctx, &incarnations, prepareState, l.Epoch); err != nil {
		return fmt.Errorf("taking the sequencer's state: %w", err)
	}
	if len(incarnations) == 0 {
		return fmt.Errorf("taking the sequencer's state: %w", lease.ErrFenced)
	}
	var identity struct{ Was, Is, Era string }
	if err := tx.GetContext(ctx, &identity, identityQuery); err != nil {
		return fmt.Errorf("reading the database's identity: %w", err)
	}
	s.prepared = identity.Era
	if identity.Was == identity.Is {
		return nil
	}
	next := incarnations[0] + 1
	reason := "identity " + identity.Was + " became " + identity.Is
	s.cfg.Logger.WarnContext(ctx, "this database is a copy of the one that was numbered: a new incarnation begins",
		"incarnation", next, "was", identity.Was, "is", identity.Is)
	if !sameXids(identity.Was, identity.Is) {
		if err := rebase(ctx, tx); err != nil {
			return err
		}
	}
	if _, err := tx.ExecContext(ctx, openQuery, next, reason); err != nil {
		return fmt.Errorf("opening incarnation %d: %w", next, err)
	}
	if _, err := tx.ExecContext(ctx, incarnateQuery, next); err != nil {
		return fmt.Errorf("opening incarnation %d: %w", next, err)
	}
	if _, err := tx.ExecContext(ctx, adoptQuery, identity.Is); err != nil {
		return fmt.Errorf("adopting the database's identity: %w", err)
	}
	return nil
}

// sameXids tells that two identities (cluster/timeline/database) share one history of transaction ids: only the
// timeline differs, as after a promotion or a restore to a point in time.
func sameXids(was, is string) bool {
	a, b := strings.Split(was, "/"), strings.Split(is, "/")
	return len(a) == 3 && len(b) == 3 && a[0] == b[0] && a[2] == b[2]
}

const (
	// rebaseLock waits for everybody who is writing to the outbox, and keeps them out.
	rebaseLock = `/* rebase.lock */ lock table outbox in share row exclusive mode`
	rebaseMode = `/* rebase.mode */
select set_config('mainstay.rebase', 'on', true), set_config('statement_timeout', '0', true),
       set_config('lock_timeout', '0', true), set_config('enable_seqscan', 'on', true)`
	rebaseState = `/* rebase.state */
update sequencer_state set snapshot = (pg_snapshot_xmin(pg_current_snapshot())::text || ':' ||
    pg_snapshot_xmin(pg_current_snapshot())::text || ':')::pg_snapshot, upper = null, after_position = null`
	// rebaseRows gives what the log lacks this transaction's id, which is beyond the new snapshot, so that the next
	// rounds number it; everything else the id that all snapshots have seen.
	rebaseRows = `/* rebase.rows */
update outbox o set xid = case when l.position is null then pg_current_xact_id() else '3'::xid8 end
from outbox r left join (select unnest(positions) as position from log) as l on l.position = r.position
where o.position = r.position and o.created_at = r.created_at
  and (o.xid <> '3'::xid8 or l.position is null)`
)

// rebase makes the outbox's transaction ids meaningful again, in a database that has another history of them.
func rebase(ctx context.Context, tx *sqlx.Tx) error {
	for _, query := range []string{rebaseMode, rebaseLock, rebaseState, rebaseRows} {
		if _, err := tx.ExecContext(ctx, query); err != nil {
			return fmt.Errorf("basing the outbox anew: %w", err)
		}
	}
	return nil
}
