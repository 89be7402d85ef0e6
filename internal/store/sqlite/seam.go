package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"maps"
	"strconv"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/history"
	"github.com/mainstay-io/mainstay/internal/relay"
)

// era is the only one of a store: while it is open, nobody can put another file in the place of its own.
const era = "open"

const incarnationsQuery = `/* seam.incarnations */ select id, topic, lane, first_sequence from incarnation order by id`

// readHistory reads the incarnations of the file.
func readHistory(ctx context.Context, q queryer) (*history.Seam, error) {
	seam := &history.Seam{Era: era, Current: 1}
	err := each(ctx, q, func(rows *sql.Rows) error {
		var log mainstay.TopicLane
		var i history.Incarnation
		if err := rows.Scan(&i.ID, &log.Topic, &log.Lane, &i.First); err != nil {
			return err
		}
		if seam.Logs == nil {
			seam.Logs = map[mainstay.TopicLane]history.Log{}
		}
		seam.Logs[log], seam.Current = append(seam.Logs[log], i), i.ID
		return nil
	}, incarnationsQuery)
	if err != nil {
		return nil, fmt.Errorf("reading the database's history: %w", err)
	}
	return seam, nil
}

// incarnation is that of a sequence, and where it begins.
func (s *Store) incarnation(log mainstay.TopicLane, sequence int64) (id, since int64) {
	past := s.past.Load()
	for _, i := range past.Logs[log] {
		if i.First <= sequence {
			id, since = i.ID, i.First
		}
	}
	switch {
	case id > 0:
		return id, since
	case len(past.Logs[log]) == 0 && past.Current > 1:
		return past.Current, 1 // the log is younger than the incarnation
	default:
		return 1, 0
	}
}

// Seam is what the file says of its own history.
func (s *Store) Seam(context.Context) (history.Seam, error) {
	past := *s.past.Load()
	past.Logs = maps.Clone(past.Logs)
	past.Compared = s.compared.Load()
	return past, nil
}

// Compared notes that log and broker were compared since the file was opened.
func (s *Store) Compared(context.Context, string) error {
	s.compared.Store(true)
	return nil
}

const logsQuery = `/* seam.logs */
select topic, lane from log_head union select topic, lane from place where elsewhere = 0`

// Logs names every log of this database that somebody writes or reads.
func (s *Store) Logs(ctx context.Context) ([]mainstay.TopicLane, error) {
	var logs []mainstay.TopicLane
	err := each(ctx, s.reads, func(rows *sql.Rows) error {
		var log mainstay.TopicLane
		err := rows.Scan(&log.Topic, &log.Lane)
		logs = append(logs, log)
		return err
	}, logsQuery)
	if err != nil {
		return nil, fmt.Errorf("listing the logs: %w", err)
	}
	return logs, nil
}

const (
	openIncarnation = `/* seam.open */
insert into incarnation (id, topic, lane, first_sequence, opened_at, reason)
select $1, k.topic, k.lane, 1 + max(
    coalesce((select sequence from relay_progress r where r.topic = k.topic and r.lane = k.lane), 0),
    coalesce((select max(sequence) from place p where p.topic = k.topic and p.lane = k.lane and p.elsewhere = 0), 0)), $2, $3
from (select topic, lane from log_head union select topic, lane from place where elsewhere = 0
      union select value ->> 0, value ->> 1 from json_each($4)) as k`
	fenceReaders = `/* seam.fence_readers */ update lease set epoch = epoch + 1 where name not in ('relay', 'sequencer')`
)

// OpenIncarnation lets every log go on in a new incarnation, unless somebody has opened one meanwhile. Whoever sees that
// his leases were ended by it sees the incarnation, too.
func (s *Store) OpenIncarnation(ctx context.Context, o relay.Opening) (opened bool, err error) {
	logs := make([][2]string, len(o.Logs))
	for i, log := range o.Logs {
		logs[i] = [2]string{log.Topic, strconv.Itoa(log.Lane)}
	}
	err = s.do(ctx, s.drain, func(ctx context.Context, t *tx) error {
		past, err := readHistory(ctx, t)
		opened = err == nil && past.Current == o.Seen
		if !opened {
			return err
		}
		t.Queue(openIncarnation, max(past.Current, o.Above)+1, t.now.UnixMicro(), o.Reason, array(logs))
		t.Queue(fenceReaders)
		if err := t.flush(); err != nil {
			return err
		}
		if past, err = readHistory(ctx, t); err != nil {
			return err
		}
		t.OnCommit(func() { s.turn(past) })
		return nil
	})
	if err != nil {
		return false, fmt.Errorf("opening an incarnation: %w", err)
	}
	return opened, nil
}

// turn takes a history that begins, and forgets what has the incarnation of before.
func (s *Store) turn(past *history.Seam) {
	s.tail.mu.Lock()
	defer s.tail.mu.Unlock()
	s.past.Store(past)
	clear(s.tail.logs)
}

const originQuery = `/* outbox.origin */ select created_at from meta`

// Origin names this database among all, and the copies that were made of it like itself.
func (s *Store) Origin() string { return s.origin }
