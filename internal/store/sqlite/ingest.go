package sqlite

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/mainstay-io/mainstay/internal/ingest"
	"github.com/mainstay-io/mainstay/internal/lane"
)

const (
	insertKeyQuery = `/* idempotency.insert */
insert into idempotency (principal, route, key, fingerprint, status, header, body, created_at, expires_at)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
on conflict (principal, route, key) do update set fingerprint = excluded.fingerprint, status = excluded.status,
    header = excluded.header, body = excluded.body, created_at = excluded.created_at, expires_at = excluded.expires_at
where idempotency.expires_at <= excluded.created_at`
	readKeyQuery = `/* idempotency.read */
select fingerprint, status, header, body, created_at from idempotency where principal = $1 and route = $2 and key = $3`
)

// Accept stores the group's records and what they are for.
func (s *Store) Accept(ctx context.Context, group []*ingest.Request, write ingest.WriteFunc) ([]ingest.Result, error) {
	var results []ingest.Result
	err := s.do(ctx, s.intake, func(ctx context.Context, t *tx) error {
		results = make([]ingest.Result, len(group))
		var winners []*ingest.Request
		for i, r := range group {
			won, err := t.insertKey(ctx, r)
			if err != nil {
				return fmt.Errorf("inserting an idempotency record: %w", err)
			}
			if won {
				results[i].Fresh = true
				winners = append(winners, r)
				continue
			}
			if results[i].Existing, err = t.readKey(ctx, r); err != nil {
				return fmt.Errorf("reading an idempotency record: %w", err)
			}
		}
		if len(winners) == 0 {
			return nil
		}
		return write(ctx, t, winners)
	})
	switch {
	case err == nil:
		return results, nil
	case errors.Is(err, errUnknown):
		return nil, fmt.Errorf("%w: %w", ingest.ErrAmbiguous, err)
	case errors.Is(err, lane.ErrTransient), errors.Is(err, ErrClosed):
		return nil, fmt.Errorf("%w: %w", ingest.ErrUnavailable, err)
	default:
		return nil, err
	}
}

func (t *tx) insertKey(ctx context.Context, r *ingest.Request) (bool, error) {
	header, err := json.Marshal(r.Answer.Header)
	if err != nil {
		return false, err
	}
	n, err := affected(t.ExecContext(ctx, insertKeyQuery, r.Principal, r.Route, r.Key, r.Fingerprint[:], r.Answer.Status,
		string(header), r.Answer.Body, t.now.UnixMicro(), t.now.Add(max(r.Retention, 0)).UnixMicro()))
	return n == 1, err
}

func (t *tx) readKey(ctx context.Context, r *ingest.Request) (ingest.Record, error) {
	var rec ingest.Record
	var fingerprint, header []byte
	var created int64
	err := queryRow(ctx, t, readKeyQuery, []any{r.Principal, r.Route, r.Key},
		&fingerprint, &rec.Answer.Status, &header, &rec.Answer.Body, &created)
	if err != nil {
		return rec, err
	}
	copy(rec.Fingerprint[:], fingerprint)
	rec.CreatedAt = fromMicros(created)
	return rec, json.Unmarshal(header, &rec.Answer.Header)
}
