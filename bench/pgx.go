package main

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/mainstay-io/mainstay/internal/clock"
)

// insertSide inserts rows of the payload's size with 64 connections, so many in each commit.
func (w *world) insertSide(each, n int) side {
	name := "pgx: one row, one commit"
	if each > 1 {
		name = fmt.Sprintf("pgx: batches of %d rows, one commit each", each)
	}
	return side{name, "64 connections, one table, one index; no HTTP", func(ctx context.Context) (float64, error) {
		pool, drop, err := w.database(ctx, clients)
		if err != nil {
			return 0, err
		}
		defer drop()
		if _, err := pool.Exec(ctx, `create table row (id uuid primary key, body bytea not null, created_at timestamptz not null default now())`); err != nil {
			return 0, err
		}
		content, left, began := body(), atomic.Int64{}, clock.Start()
		left.Store(int64(n / each))
		var all errgroup.Group
		for range clients {
			all.Go(func() error {
				for left.Add(-1) >= 0 {
					err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error { return insertRows(ctx, tx, each, content) })
					if err != nil {
						return err
					}
				}
				return nil
			})
		}
		err = all.Wait()
		return perSecond(n/each*each, began.Elapsed()), err
	}}
}

// insertRows inserts rows in one round trip.
func insertRows(ctx context.Context, tx pgx.Tx, n int, content []byte) error {
	ids, bodies := make([]uuid.UUID, n), make([][]byte, n)
	for i := range ids {
		ids[i], bodies[i] = uuid.New(), content
	}
	_, err := tx.Exec(ctx, `insert into row (id, body) select * from unnest($1::uuid[], $2::bytea[])`, ids, bodies)
	return err
}
