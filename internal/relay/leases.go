package relay

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"

	"github.com/mainstay-io/mainstay/internal/clock"
	"github.com/mainstay-io/mainstay/internal/lease"
)

// keepLeases renews what is held and takes what is free, every third of the leases' time.
func (r *Relay) keepLeases(ctx context.Context) error {
	if r.renewed.Elapsed() < r.cfg.TTL/3 {
		return nil
	}
	began := clock.Start()
	if err := r.renew(ctx); err != nil {
		return err
	}
	if err := r.acquire(ctx); err != nil {
		return err
	}
	r.renewed = began
	return nil
}

// renew extends the leases and drops the lanes that others have now.
func (r *Relay) renew(ctx context.Context) error {
	if len(r.leases) == 0 {
		return nil
	}
	ctx, cancel := r.call(ctx, "renewing the relay's leases")
	defer cancel()
	held, err := r.cfg.Leases.Renew(ctx, r.cfg.Holder, slices.Collect(maps.Values(r.leases)), r.cfg.TTL)
	if err != nil {
		return fmt.Errorf("renewing the relay's leases: %w", err)
	}
	kept := map[int]lease.Lease{}
	for _, l := range held {
		kept[l.Lane] = l
	}
	for lane := range r.leases {
		if _, ok := kept[lane]; !ok {
			r.cfg.Logger.DebugContext(ctx, "another relay has the lane now", slog.Int("lane", lane))
			r.dropLane(lane)
		}
	}
	r.leases = kept
	return nil
}

// acquire takes the lanes that are missing, if they are free.
func (r *Relay) acquire(ctx context.Context) error {
	var missing []int
	for lane := range r.cfg.Lanes {
		if _, ok := r.leases[lane]; !ok {
			missing = append(missing, lane)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	ctx, cancel := r.call(ctx, "acquiring the relay's leases")
	defer cancel()
	got, err := r.cfg.Leases.Acquire(ctx, leaseName, missing, r.cfg.Holder, r.cfg.TTL, r.cfg.ForceLeases)
	if err != nil {
		return fmt.Errorf("acquiring the relay's leases: %w", err)
	}
	for _, l := range got {
		r.dropLane(l.Lane)
		r.leases[l.Lane] = l
	}
	return nil
}

// dropLane forgets what is known of the lane's logs; they are compared before anything is published.
func (r *Relay) dropLane(lane int) {
	for log := range r.logs {
		if log.Lane == lane {
			delete(r.logs, log)
		}
	}
}

// release gives the leases back, so that another relay goes on at once.
func (r *Relay) release(ctx context.Context) {
	if len(r.leases) == 0 {
		return
	}
	ctx, cancel := r.call(ctx, "releasing the relay's leases")
	defer cancel()
	if err := r.cfg.Leases.Release(ctx, r.cfg.Holder, slices.Collect(maps.Values(r.leases))); err != nil {
		r.cfg.Logger.WarnContext(ctx, "the relay's leases run out by themselves", slog.Any("err", err))
	}
}
