package benchmark

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/bench"
	"github.com/mainstay-io/mainstay/internal/lane"
	"github.com/mainstay-io/mainstay/worker"
)

const createEffects = `/* bench.create */ create table bench_effect (
	message_id text not null primary key, key text not null, sequence bigint not null, bytes int not null)`

// MeasureHop fills an outbox, has it carried, and measures how a handler that writes one row for each message works
// it off; the place moves in the transaction of those rows. At the end there must be a row for each message.
func MeasureHop(ctx context.Context, o Options, show *bench.Progress) (_ bench.Result, err error) {
	p, err := newPlace(ctx, o.Config)
	if err != nil {
		return bench.Result{}, err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	if err := p.prepareHop(ctx, o); err != nil {
		return bench.Result{}, err
	}
	carried := newDrain(0, o.Warmup+o.Messages)
	if p.publisher != nil { // else there is nobody who carries, and the first to see the log is the handler
		res, err := carried.measure(ctx, nil, show, p.carry(relayHooks{carried})...)
		if err != nil || res.Interrupted || len(res.Faults) > 0 {
			return res, err
		}
	}
	d := newDrain(o.Warmup, o.Messages)
	m, done := p.meter(ctx)
	defer done()
	res, err := d.measure(ctx, m, show, append(p.carry(relayHooks{newDrain(0, o.Warmup+o.Messages)}), p.consume(o, d))...)
	res.Unit, res.LatencyOf, res.Load, res.Config = "messages", "a batch", "messages that wait", drainConfig(o)
	res.Config["handler"] = map[bool]string{false: "a batch at a time", true: "a message at a time"}[o.Single]
	res.Config["sends"] = strconv.FormatBool(o.Send)
	if err == nil && !res.Interrupted {
		err = p.checkEffects(ctx, &res)
	}
	return res, err
}

func (p *place) prepareHop(ctx context.Context, o Options) error {
	err := p.with(func(db *sql.DB) error { _, err := db.ExecContext(ctx, createEffects); return err })
	if err != nil {
		return fmt.Errorf("making the handler's table: %w", err)
	}
	if err := p.fill(ctx, topic, o.Warmup+o.Messages, o.Keys, o.Payload); err != nil {
		return err
	}
	return p.open(ctx, o.Config, slog.New(slog.DiscardHandler))
}

// consume is a worker with the handler.
func (p *place) consume(o Options, d *drain) service {
	w := worker.New(worker.Config{
		Store: p.store, Reader: p.reader, Lanes: p.store.Lanes(), Holder: holder, ForceLeases: true, Hooks: laneHooks{d: d},
	})
	effect := effects{send: o.Send}
	if o.Single {
		w.Handle("bench", []string{topic}, worker.Each(effect))
	} else {
		w.Handle("bench", []string{topic}, effect)
	}
	return w.Run
}

// checkEffects counts what the handler has written: a row for each message, no more and no fewer.
func (p *place) checkEffects(ctx context.Context, res *bench.Result) error {
	var rows int64
	err := p.with(func(db *sql.DB) error {
		return db.QueryRowContext(ctx, `/* bench.count */ select count(*) from bench_effect`).Scan(&rows)
	})
	if err != nil {
		return fmt.Errorf("counting what the handler has written: %w", err)
	}
	if rows != res.Good {
		res.Faults["without their effect"] += max(res.Good-rows, rows-res.Good)
	}
	return nil
}

// effects is the handler: a row for each message, and a message where asked.
type effects struct{ send bool }

const insertEffects = `/* bench.effects */ insert into bench_effect (message_id, key, sequence, bytes)
	select * from unnest($1::text[], $2::text[], $3::bigint[], $4::int[])`

const insertEffect = `/* bench.effect */ insert into bench_effect (message_id, key, sequence, bytes) values ($1, $2, $3, $4)`

// HandleBatch writes the rows of all messages.
func (e effects) HandleBatch(ctx context.Context, tx mainstay.Tx, ms []*mainstay.Message) ([]error, error) {
	if tx.Dialect() == mainstay.SQLite {
		for _, m := range ms {
			if err := e.Handle(ctx, tx, m); err != nil {
				return nil, err
			}
		}
		return nil, nil
	}
	ids, keys := make([]string, len(ms)), make([]string, len(ms))
	sequences, sizes := make([]int64, len(ms)), make([]int32, len(ms))
	for i, m := range ms {
		ids[i], keys[i], sequences[i], sizes[i] = m.ID, m.Key, m.Sequence, int32(len(m.Payload)) //nolint:gosec // at most half a megabyte
		e.answer(tx, m)
	}
	tx.Queue(insertEffects, ids, keys, sequences, sizes)
	return nil, nil
}

// Handle writes the row of one message.
func (e effects) Handle(ctx context.Context, tx mainstay.Tx, m *mainstay.Message) error {
	e.answer(tx, m)
	_, err := tx.ExecContext(ctx, insertEffect, m.ID, m.Key, m.Sequence, len(m.Payload))
	return err
}

func (e effects) answer(tx mainstay.Tx, m *mainstay.Message) {
	if e.send {
		tx.Send(&mainstay.Message{Topic: topic + "-out", Key: m.Key, Type: "bench.handled", Source: "bench", CausationID: m.ID, Payload: m.Payload})
	}
}

// laneHooks counts what a worker does.
type laneHooks struct{ d *drain }

// Handled counts what was handled for good.
func (h laneHooks) Handled(_, outcome string, n int) {
	if outcome == lane.HandledDone {
		h.d.add(n)
	}
}

// Batch notes a transaction.
func (h laneHooks) Batch(_ string, _ int, took time.Duration) { h.d.note(took) }

// Called is for remote calls, which there are none of.
func (laneHooks) Called(string, string, time.Duration) {}

// Calling is likewise.
func (laneHooks) Calling(string, int) {}

// Gap counts nothing here: what comes from the database is handled like the rest.
func (laneHooks) Gap(string, int) {}
