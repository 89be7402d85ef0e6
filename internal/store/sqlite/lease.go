package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/mainstay-io/mainstay/internal/lease"
)

const (
	leaseRead = `/* lease.read */ select holder, epoch, expires_at from lease where name = $1 and lane = $2`
	leaseTake = `/* lease.take */
insert into lease (name, lane, holder, epoch, expires_at) values ($1, $2, $3, 1, $4)
on conflict (name, lane) do update set holder = excluded.holder, epoch = epoch + 1, expires_at = excluded.expires_at`
	leaseRenew = `/* lease.renew */
update lease set expires_at = $5 where name = $1 and lane = $2 and holder = $3 and epoch = $4`
	leaseCheck = `/* lease.check */ select 1 from lease where name = $1 and lane = $2 and epoch = $3`
)

// Acquire takes the lanes that are free, expired or the holder's own; all of them with force.
func (s *Store) Acquire(ctx context.Context, name string, lanes []int, holder string, ttl time.Duration, force bool) ([]lease.Lease, error) {
	var taken []lease.Lease
	err := s.do(ctx, s.drain, func(ctx context.Context, t *tx) error {
		taken = taken[:0]
		for _, n := range lanes {
			var owner string
			var epoch, expires int64
			err := queryRow(ctx, t, leaseRead, []any{name, n}, &owner, &epoch, &expires)
			if err != nil && !errors.Is(err, sql.ErrNoRows) {
				return err
			}
			held := owner != "" && owner != holder && expires > t.now.UnixMicro()
			if held && !force {
				continue
			}
			if _, err := t.ExecContext(ctx, leaseTake, name, n, holder, t.now.Add(ttl).UnixMicro()); err != nil {
				return err
			}
			if owner == holder {
				owner = ""
			}
			taken = append(taken, lease.Lease{Name: name, Lane: n, Epoch: epoch + 1, Unclean: owner != "", From: owner})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("acquiring leases of %s: %w", name, err)
	}
	return taken, nil
}

// Renew extends leases that are still held.
func (s *Store) Renew(ctx context.Context, holder string, leases []lease.Lease, ttl time.Duration) ([]lease.Lease, error) {
	var kept []lease.Lease
	err := s.do(ctx, s.drain, func(ctx context.Context, t *tx) error {
		kept = kept[:0]
		for _, l := range leases {
			n, err := affected(t.ExecContext(ctx, leaseRenew, l.Name, l.Lane, holder, l.Epoch, t.now.Add(ttl).UnixMicro()))
			if err != nil {
				return err
			}
			if n == 1 {
				kept = append(kept, l)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("renewing leases: %w", err)
	}
	return kept, nil
}

const leaseRelease = `/* lease.release */
update lease set holder = '', expires_at = 0 where name = $1 and lane = $2 and holder = $3 and epoch = $4`

// Release gives leases back.
func (s *Store) Release(ctx context.Context, holder string, leases []lease.Lease) error {
	err := s.do(ctx, s.drain, func(_ context.Context, t *tx) error {
		for _, l := range leases {
			t.Queue(leaseRelease, l.Name, l.Lane, holder, l.Epoch)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("releasing leases: %w", err)
	}
	return nil
}

// Attend answers that the holder is alone: no other process can use the database.
func (*Store) Attend(context.Context, string, string, time.Duration) (lease.Standing, error) {
	return lease.Standing{Members: 1}, nil
}

// Leave does nothing, as nobody else attends.
func (*Store) Leave(context.Context, string, string) error { return nil }

// checkLeases fails with ErrFenced unless every lease is held under its epoch.
func checkLeases(ctx context.Context, t *tx, leases []lease.Lease) error {
	for _, l := range leases {
		var one int
		err := queryRow(ctx, t, leaseCheck, []any{l.Name, l.Lane, l.Epoch}, &one)
		if errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("%s lane %d, epoch %d: %w", l.Name, l.Lane, l.Epoch, lease.ErrFenced)
		}
		if err != nil {
			return fmt.Errorf("checking a lease: %w", err)
		}
	}
	return nil
}

func affected(r sql.Result, err error) (int64, error) {
	if err != nil {
		return 0, err
	}
	return r.RowsAffected()
}
