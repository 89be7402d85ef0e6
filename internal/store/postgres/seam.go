package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/jmoiron/sqlx"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/history"
	"github.com/mainstay-io/mainstay/internal/relay"
)

const (
	seamQuery = `/* seam.read */
select database_era() as era, compared, (select incarnation from sequencer_state) as current from seam`
	incarnationsQuery = `/* seam.incarnations */ select id, topic, lane, first_sequence from incarnation order by id`
	fenceEra          = `/* seam.fence */ select fence(database_era() = $1, 'the database may have gone back to an earlier moment')`
	fenceIncarnation  = `/* seam.fence_incarnation */
select fence((select incarnation from sequencer_state) = $1, 'a new incarnation was opened')`
)

type seamRow struct {
	Era      string
	Compared string
	Current  int64
}

type incarnationRow struct {
	ID    int64
	Topic string
	Lane  int
	First int64 `db:"first_sequence"`
}

// Seam is what the database says of its own history. What this process has in memory of an earlier one it forgets.
func (s *Store) Seam(ctx context.Context) (history.Seam, error) {
	var row seamRow
	var rows []incarnationRow
	if err := s.db.GetContext(ctx, &row, seamQuery); err != nil {
		return history.Seam{}, fmt.Errorf("reading the database's history: %w", translate(ctx, err))
	}
	if err := s.db.SelectContext(ctx, &rows, incarnationsQuery); err != nil {
		return history.Seam{}, fmt.Errorf("reading the database's history: %w", translate(ctx, err))
	}
	seam := history.Seam{Era: row.Era, Compared: row.Compared == row.Era, Current: row.Current}
	if len(rows) > 0 {
		seam.Logs = map[mainstay.TopicLane]history.Log{}
	}
	for _, r := range rows {
		log := mainstay.TopicLane{Topic: r.Topic, Lane: r.Lane}
		seam.Logs[log] = append(seam.Logs[log], history.Incarnation{ID: r.ID, First: r.First})
	}
	s.tail.turn(seam)
	return seam, nil
}

// turn forgets what was read in another era, or before an incarnation was opened. Within an era a history only grows: one
// that ends before what is known was read earlier, and comes late.
func (t *tail) turn(seam history.Seam) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.past.Era == seam.Era && t.past.Current >= seam.Current {
		return
	}
	clear(t.logs)
	t.heads = nil
	t.forget()
	t.past = seam
}

// moment is how much of the database's history is known.
type moment struct {
	era     string
	current int64
}

func (t *tail) moment() moment {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.momentLocked()
}

func (t *tail) momentLocked() moment { return moment{t.past.Era, max(t.past.Current, 1)} }

// since is the first sequence of a message's incarnation, 0 for the first one.
func (t *tail) since(log mainstay.TopicLane, incarnation int64) int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.sinceLocked(log, incarnation)
}

func (t *tail) sinceLocked(log mainstay.TopicLane, incarnation int64) int64 {
	if incarnation < 2 {
		return 0
	}
	for _, i := range t.past.Logs[log] {
		if i.ID == incarnation {
			return i.First
		}
	}
	return 1 // the log is younger than the incarnation
}

const comparedQuery = `/* seam.compared */ update seam set compared = $1 where database_era() = $1`

// Compared notes that log and broker were compared in this era.
func (s *Store) Compared(ctx context.Context, era string) error {
	if _, err := s.db.ExecContext(ctx, comparedQuery, era); err != nil {
		return fmt.Errorf("noting that log and broker were compared: %w", translate(ctx, err))
	}
	return nil
}

const (
	logsUnion = `select topic, lane from log_head union select topic, lane from place where not elsewhere`
	logsQuery = `/* seam.logs */ ` + logsUnion
)

// Logs names every log of this database that somebody writes or reads.
func (s *Store) Logs(ctx context.Context) ([]mainstay.TopicLane, error) {
	var logs []mainstay.TopicLane
	if err := s.db.SelectContext(ctx, &logs, logsQuery); err != nil {
		return nil, fmt.Errorf("listing the logs: %w", translate(ctx, err))
	}
	return logs, nil
}

const (
	nextIncarnation = `/* seam.next */
update sequencer_state set incarnation = greatest(incarnation, $2) + 1, version = version + 1
where incarnation = $1 returning incarnation`
	// openIncarnation lets every log begin anew at the first row of the log behind what was published or handled: what
	// stands there may be younger than the moment that the database went back to.
	openIncarnation = `/* seam.open */
insert into incarnation (id, topic, lane, first_sequence, reason)
select $1, k.topic, k.lane, coalesce(
    (select l.first_sequence from log l where l.topic = k.topic and l.lane = k.lane and l.last_sequence > h.handled and l.first_sequence > h.handled
     order by l.last_sequence limit 1),
    (select max(e.last_sequence) from log_head e where e.topic = k.topic and e.lane = k.lane) + 1, 1), $2
from (` + logsUnion + ` union select * from unnest($3::text[], $4::int[])) as k(topic, lane)
cross join lateral (select greatest(
    (select max(sequence) from relay_progress r where r.topic = k.topic and r.lane = k.lane),
    (select max(sequence) from place p where p.topic = k.topic and p.lane = k.lane and not elsewhere), 0) as handled) as h`
	relabelLog = `/* seam.relabel */
update log l set incarnation = i.id from incarnation i
where i.id = $1 and l.topic = i.topic and l.lane = i.lane and l.last_sequence >= i.first_sequence and l.first_sequence >= i.first_sequence`
	readersQuery = `/* seam.readers */ select distinct consumer, lane from place where not elsewhere`
	lockReaders  = `/* seam.lock_readers */
select pg_advisory_xact_lock(class, lane) from unnest($1::int[], $2::int[]) as l(class, lane) order by class, lane`
	// fenceReaders ends the work of those who know nothing of the incarnation.
	fenceReaders = `/* seam.fence_readers */
update lease set epoch = epoch + 1, holder = null, expires_at = null where name not in ('relay', 'sequencer')`
)

// OpenIncarnation lets every log go on in a new incarnation, unless somebody has opened one meanwhile.
func (s *Store) OpenIncarnation(ctx context.Context, o relay.Opening) (opened bool, err error) {
	tx, err := s.db.BeginTxx(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted})
	if err != nil {
		return false, fmt.Errorf("opening an incarnation: %w", translate(ctx, err))
	}
	defer tx.Rollback() // after the commit it does nothing
	if opened, err = s.openNext(ctx, tx, o); err != nil {
		return false, fmt.Errorf("opening an incarnation: %w", translate(ctx, err))
	}
	if err := tx.Commit(); err != nil {
		return false, fmt.Errorf("opening an incarnation: %w", translate(ctx, err))
	}
	return opened, nil
}

// waitForReaders ends when no reader's transaction is under way, so that no place moves until tx ends: one that had
// passed its checks would move behind the first sequence of an incarnation that it knows nothing of.
func (s *Store) waitForReaders(ctx context.Context, tx *sqlx.Tx) error {
	var readers []struct {
		Consumer string
		Lane     int
	}
	if err := tx.SelectContext(ctx, &readers, readersQuery); err != nil {
		return err
	}
	classes, lanes := make([]int32, len(readers)), make([]int, len(readers))
	for i, r := range readers {
		classes[i], lanes[i] = s.lockClass(r.Consumer), r.Lane
	}
	_, err := tx.ExecContext(ctx, lockReaders, classes, lanes)
	return err
}

func (s *Store) openNext(ctx context.Context, tx *sqlx.Tx, o relay.Opening) (opened bool, err error) {
	if err := s.waitForReaders(ctx, tx); err != nil {
		return false, err
	}
	var next int64
	err = tx.GetContext(ctx, &next, nextIncarnation, o.Seen, o.Above)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	topics, lanes := make([]string, len(o.Logs)), make([]int, len(o.Logs))
	for i, log := range o.Logs {
		topics[i], lanes[i] = log.Topic, log.Lane
	}
	if _, err := tx.ExecContext(ctx, openIncarnation, next, text(o.Reason), topics, lanes); err != nil {
		return false, err
	}
	if _, err := tx.ExecContext(ctx, relabelLog, next); err != nil {
		return false, err
	}
	_, err = tx.ExecContext(ctx, fenceReaders)
	return err == nil, err
}

const originQuery = `/* check.origin */ select (extract(epoch from created_at) * 1000000)::bigint from meta`

// Origin names this database among all, and the copies that were made of it like itself.
func (s *Store) Origin() string { return s.origin }
