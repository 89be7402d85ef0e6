package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"

	"github.com/mainstay-io/mainstay/internal/clock"
)

// stall bounds the wait for a peer that does not end.
const stall = 5 * time.Minute

// job is a job with the payload of a message.
type job struct {
	Key  string `json:"key"`
	Body string `json:"body"`
}

// Kind names the jobs.
func (job) Kind() string { return "bench" }

// noop does nothing; River marks the jobs done in batches.
type noop struct{ river.WorkerDefaults[job] }

func (noop) Work(context.Context, *river.Job[job]) error { return nil }

// effect writes a row and marks the job done in one transaction.
type effect struct {
	river.WorkerDefaults[job]
	pool *pgxpool.Pool
	left *atomic.Int64
	done chan struct{}
}

func (e *effect) Work(ctx context.Context, j *river.Job[job]) error {
	err := pgx.BeginFunc(ctx, e.pool, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `insert into bench_effect (message_id, key, sequence, bytes) values ($1, $2, $3, $4)`,
			fmt.Sprint(j.ID), j.Args.Key, j.ID, len(j.Args.Body))
		if err != nil {
			return err
		}
		_, err = river.JobCompleteTx[*riverpgxv5.Driver](ctx, tx, j)
		return err
	})
	if err == nil && e.left.Add(-1) == 0 {
		close(e.done)
	}
	return err
}

func (w *world) riverNoopSide(n int) side {
	return side{"River: no-op jobs", "2,000 workers, fetch cooldown 1 ms, batch completer, InsertManyFast before", func(ctx context.Context) (float64, error) {
		return w.river(ctx, n, 2000, func(*pgxpool.Pool, *river.Workers) chan struct{} { return nil })
	}}
}

func (w *world) riverTxSide(n int) side {
	return side{"River: one row and JobCompleteTx in a transaction", "64 workers, fetch cooldown 1 ms, pool of 80", func(ctx context.Context) (float64, error) {
		return w.river(ctx, n, clients, func(pool *pgxpool.Pool, workers *river.Workers) chan struct{} {
			e := &effect{pool: pool, left: &atomic.Int64{}, done: make(chan struct{})}
			e.left.Store(int64(n))
			river.AddWorker(workers, e)
			return e.done
		})
	}}
}

// river inserts jobs, then starts a client and measures until all are done. add registers a worker that says when that
// is; without one the jobs do nothing, and River's own events say it.
func (w *world) river(ctx context.Context, n, atATime int, add func(*pgxpool.Pool, *river.Workers) chan struct{}) (rate float64, err error) {
	pool, drop, err := w.database(ctx, clients+16)
	if err != nil {
		return 0, err
	}
	defer drop()
	driver, workers := riverpgxv5.New(pool), river.NewWorkers()
	if err := prepareRiver(ctx, pool, driver); err != nil {
		return 0, err
	}
	done := add(pool, workers)
	if done == nil {
		river.AddWorker(workers, &noop{})
	}
	client, err := river.NewClient(driver, &river.Config{
		Logger: slog.New(slog.DiscardHandler), Workers: workers, FetchCooldown: time.Millisecond, FetchPollInterval: 20 * time.Millisecond,
		Queues: map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: atATime}},
	})
	if err != nil {
		return 0, err
	}
	if err := insertJobs(ctx, client, n); err != nil {
		return 0, err
	}
	events, cancel := client.SubscribeConfig(&river.SubscribeConfig{ChanSize: n + 1000, Kinds: []river.EventKind{river.EventKindJobCompleted}})
	defer cancel()
	began := clock.Start()
	if err := client.Start(ctx); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, client.StopAndCancel(context.WithoutCancel(ctx))) }()
	err = awaitJobs(ctx, n, done, events)
	return perSecond(n, began.Elapsed()), err
}

func prepareRiver(ctx context.Context, pool *pgxpool.Pool, driver *riverpgxv5.Driver) error {
	migrator, err := rivermigrate.New(driver, &rivermigrate.Config{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	if _, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return err
	}
	_, err = pool.Exec(ctx, `create table bench_effect (message_id text not null primary key, key text not null, sequence bigint not null, bytes int not null)`)
	return err
}

func insertJobs(ctx context.Context, client *river.Client[pgx.Tx], n int) error {
	const atATime = 1000
	text := string(body())
	for from := 0; from < n; from += atATime {
		params := make([]river.InsertManyParams, min(atATime, n-from))
		for i := range params {
			params[i].Args = job{Key: fmt.Sprint("key-", (from+i)%1000), Body: text}
		}
		if _, err := client.InsertManyFast(ctx, params); err != nil {
			return err
		}
	}
	return nil
}

// awaitJobs waits until all jobs are done: until done is closed, or until there was an event for each.
func awaitJobs(ctx context.Context, n int, done <-chan struct{}, events <-chan *river.Event) error {
	ctx, cancel := context.WithTimeoutCause(ctx, stall, errors.New("River's jobs did not end in time"))
	defer cancel()
	if done != nil {
		events = nil
	}
	for seen := 0; seen < n; {
		select {
		case <-done:
			return nil
		case <-events:
			seen++
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}
