package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mainstay-io/mainstay/internal/ingest"
	"github.com/mainstay-io/mainstay/internal/lane"
)

const (
	// acceptQuery inserts what is new. A key that another transaction is inserting is waited for; a record past its
	// time is replaced.
	acceptQuery = `/* ingest.accept */
insert into idempotency as i (principal, route, key, fingerprint, status, header, body, expires_at, created_at)
select principal, route, key, fingerprint, status, header, body, expires_at, $9
from unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::int[], $6::text[]::jsonb[], $7::bytea[], $8::timestamptz[])
    with ordinality as r(principal, route, key, fingerprint, status, header, body, expires_at, n)
order by n
on conflict (principal, route, key) do update set fingerprint = excluded.fingerprint, status = excluded.status,
    header = excluded.header, body = excluded.body, created_at = excluded.created_at, expires_at = excluded.expires_at
where i.expires_at <= $9`
	// existingQuery reads, with a later view than the insert's, the records of others.
	existingQuery = `/* ingest.existing */
select r.n - 1, i.fingerprint, i.status, i.header, i.body, i.created_at
from unnest($1::text[], $2::text[], $3::text[]) with ordinality as r(principal, route, key, n)
join idempotency i using (principal, route, key)
where i.xmin <> pg_current_xact_id()::xid`
)

// Accept stores the records of a group and runs write for those that won, in one transaction.
func (s *Store) Accept(ctx context.Context, group []*ingest.Request, write ingest.WriteFunc) ([]ingest.Result, error) {
	if len(group) == 0 {
		return nil, nil
	}
	now := s.cfg.Clock()
	results := make([]ingest.Result, len(group))
	prelude, err := acceptBatch(group, now, results)
	if err != nil {
		return nil, err
	}
	writing := false
	err = s.do(ctx, prelude, func(ctx context.Context, t *tx) error {
		if err := t.begin(ctx); err != nil {
			return err
		}
		writing, t.now = true, now
		var winners []*ingest.Request
		for i, r := range results {
			if r.Fresh {
				winners = append(winners, group[i])
			}
		}
		if len(winners) == 0 {
			return nil
		}
		return write(ctx, t, winners)
	})
	if err != nil {
		return nil, ingestError(ctx, err, writing)
	}
	return results, nil
}

// acceptBatch inserts the group's records and fills in results: who won, and what the others found.
func acceptBatch(group []*ingest.Request, now time.Time, results []ingest.Result) (*batch, error) {
	n := len(group)
	principals, routes, keys := make([]string, n), make([]string, n), make([]string, n)
	fingerprints, bodies := make([][]byte, n), make([][]byte, n)
	statuses, headers, expires := make([]int, n), make([]string, n), make([]time.Time, n)
	for i, r := range group {
		header, err := json.Marshal(r.Answer.Header)
		if err != nil {
			return nil, fmt.Errorf("encoding the header of an answer: %w", err)
		}
		principals[i], routes[i], keys[i] = r.Principal, r.Route, r.Key
		fingerprints[i], bodies[i] = r.Fingerprint[:], bytesOf(r.Answer.Body)
		statuses[i], headers[i], expires[i] = r.Answer.Status, string(header), now.Add(r.Retention)
	}
	found, settled := make([]bool, n), 0
	b := &batch{}
	b.add(func(rows pgx.Rows) error {
		rows.Close()
		settled = int(rows.CommandTag().RowsAffected())
		return rows.Err()
	}, acceptQuery, principals, routes, keys, fingerprints, statuses, headers, bodies, expires, now)
	b.add(func(rows pgx.Rows) error {
		for rows.Next() {
			i, record, err := scanRecord(rows)
			if err != nil {
				return err
			}
			results[i], found[i] = ingest.Result{Existing: record}, true
			settled++
		}
		if err := rows.Err(); err != nil {
			return err
		}
		if settled != n {
			return errVanished
		}
		for i := range results {
			results[i].Fresh = !found[i]
		}
		return nil
	}, existingQuery, principals, routes, keys)
	return b, nil
}

// errVanished: a record that was in the way of the insert was cleaned away before it could be read.
var errVanished = fmt.Errorf("%w: an idempotency record has just been removed", lane.ErrTransient)

func scanRecord(rows pgx.Rows) (int, ingest.Record, error) {
	var i int
	var r ingest.Record
	var fingerprint, header []byte
	err := rows.Scan(&i, &fingerprint, &r.Answer.Status, &header, &r.Answer.Body, &r.CreatedAt)
	if err != nil {
		return 0, r, err
	}
	copy(r.Fingerprint[:], fingerprint)
	r.CreatedAt = r.CreatedAt.UTC()
	return i, r, json.Unmarshal(header, &r.Answer.Header)
}

// ingestError says which of the contract's errors it was.
func ingestError(ctx context.Context, err error, writing bool) error {
	switch pg := pgError(err); {
	case errors.Is(err, errAmbiguous):
		return fmt.Errorf("%w: %w", ingest.ErrAmbiguous, err)
	case pg != nil && pg.Code == codeLockNotAvailable && !writing:
		return fmt.Errorf("%w: %w", ingest.ErrKeyBusy, err)
	case errors.Is(err, lane.ErrTransient), ctx.Err() != nil:
		return fmt.Errorf("%w: %w", ingest.ErrUnavailable, err)
	default:
		return err
	}
}
