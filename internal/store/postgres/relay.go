package postgres

import (
	"context"
	"fmt"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/lane"
	"github.com/mainstay-io/mainstay/internal/lease"
	"github.com/mainstay-io/mainstay/internal/relay"
)

const progressQuery = `/* relay.progress */
select topic, lane, incarnation, sequence, message_id, broker_position from relay_progress`

type progressRow struct {
	Topic          string
	Lane           int
	Incarnation    int64
	Sequence       int64
	MessageID      string `db:"message_id"`
	BrokerPosition int64  `db:"broker_position"`
}

// Progress reads how far every log was published.
func (s *Store) Progress(ctx context.Context) ([]relay.Progress, error) {
	var rows []progressRow
	if err := s.db.SelectContext(ctx, &rows, progressQuery); err != nil {
		return nil, fmt.Errorf("reading the relay's progress: %w", translate(ctx, err))
	}
	ps := make([]relay.Progress, len(rows))
	for i, r := range rows {
		ps[i] = relay.Progress{
			TopicLane: mainstay.TopicLane{Topic: r.Topic, Lane: r.Lane}, Incarnation: r.Incarnation,
			Sequence: r.Sequence, MessageID: r.MessageID, BrokerPosition: r.BrokerPosition,
		}
	}
	return ps, nil
}

// savesLock is the class of the locks, one for each lane, under which progress is saved: the server may still be at a save
// that the relay has given up, and what that makes or moves could not be seen.
const savesLock = "saves"

// saveProgressQuery finds rows from the end of their log, as rounds find heads.
const (
	lockSaves = `/* relay.lock */ select pg_advisory_xact_lock($1, lane) from unnest($2::int[]) as lane order by lane`

	saveProgressQuery = `/* relay.save_progress */
with given as materialized (
    select s.*, p.ctid as at
    from unnest($1::text[], $2::int[], $3::bigint[], $4::bigint[], $5::text[], $6::bigint[], $7::bigint[])
        as s(topic, lane, incarnation, sequence, message_id, broker_position, epoch)
    left join lateral (
        select ctid from relay_progress where topic = s.topic and lane = s.lane order by sequence desc limit 1
    ) as p on true
), moved as (
    update relay_progress p set incarnation = g.incarnation, sequence = g.sequence, message_id = g.message_id,
        broker_position = g.broker_position, epoch = g.epoch
    from given g where p.ctid = g.at
)
insert into relay_progress (topic, lane, incarnation, sequence, message_id, broker_position, epoch)
select topic, lane, incarnation, sequence, message_id, broker_position, epoch from given where at is null`
)

// SaveProgress writes progress, and moves refills, under the leases of their lanes.
func (s *Store) SaveProgress(ctx context.Context, save relay.Save) error {
	leases, ps := save.Leases, save.Progress
	epochs := map[int]int64{}
	for _, l := range leases {
		epochs[l.Lane] = l.Epoch
	}
	topics, ids := make([]string, len(ps)), make([]string, len(ps))
	lanes := make([]int, len(ps))
	incarnations, sequences := make([]int64, len(ps)), make([]int64, len(ps))
	positions, under := make([]int64, len(ps)), make([]int64, len(ps))
	for i, p := range ps {
		epoch, ok := epochs[p.Lane]
		if !ok {
			return fmt.Errorf("saving progress of %s/%d without a lease: %w", p.Topic, p.Lane, lease.ErrFenced)
		}
		topics[i], lanes[i], ids[i] = p.Topic, p.Lane, p.MessageID
		incarnations[i], sequences[i], positions[i], under[i] = p.Incarnation, p.Sequence, p.BrokerPosition, epoch
	}
	err := s.do(ctx, s.under(leases, save.Era), func(_ context.Context, t *tx) error {
		if save.Incarnation > 0 {
			t.Queue(fenceIncarnation, save.Incarnation)
		}
		if len(ps) > 0 {
			t.Queue(lockSaves, s.lockClass(savesLock), lanes)
			t.Queue(saveProgressQuery, topics, lanes, incarnations, sequences, ids, positions, under)
		}
		for _, a := range save.Refills {
			queueAdvance(t, a)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("saving the relay's progress: %w", err)
	}
	return nil
}

const minPlacesQuery = `/* relay.min_places */ select topic, lane, min(sequence) as last_sequence from place group by topic, lane`

// MinPlaces answers with the lowest place of any consumer by log.
func (s *Store) MinPlaces(ctx context.Context) (map[mainstay.TopicLane]int64, error) {
	return s.readHeads(ctx, minPlacesQuery)
}

// relayConsumer is the consumer in whose name the relay's dead letters are kept.
const relayConsumer = "relay"

// DeadLetter records that the broker refuses m for ever; a case that is there already stays as it is.
func (s *Store) DeadLetter(ctx context.Context, m *mainstay.Message, reason error) error {
	err := s.do(ctx, nil, func(_ context.Context, t *tx) error {
		lt := &laneTx{tx: t, consumer: relayConsumer}
		return lt.queueDeadLetter(deadLetterInsert+"do nothing", lane.DeadLetter{
			Ref: lane.Ref{TopicLane: m.TopicLane(), Sequence: m.Sequence}, Message: m,
			Kind: mainstay.KindTerminal, Error: reason.Error(), Attempts: 1, At: t.now,
		})
	})
	if err != nil {
		return fmt.Errorf("recording a dead letter of the relay: %w", err)
	}
	return nil
}
