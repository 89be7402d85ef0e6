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

// keepLeases takes this relay's part in sharing the lanes, when it is time.
func (r *Relay) keepLeases(ctx context.Context) error {
	if r.shared.Elapsed() < lease.TurnEvery(r.cfg.TTL) {
		return nil
	}
	began := clock.Start()
	if err := r.share(ctx); err != nil {
		return err
	}
	r.shared = began
	return nil
}

// share renews what is held, drops the lanes that others have now, takes what is free and gives back what is more than
// this relay's part: nothing is under way in any lane between two rounds.
func (r *Relay) share(ctx context.Context) error {
	ctx, cancel := r.call(ctx, "sharing the lanes")
	defer cancel()
	change, err := r.member.Turn(ctx, slices.Collect(maps.Values(r.leases)))
	for _, l := range change.Lost {
		r.cfg.Logger.DebugContext(ctx, "another relay has the lane now", slog.Int("lane", l.Lane))
		r.dropLane(l.Lane)
	}
	lease.LogTaken(ctx, r.cfg.Logger, change.Taken)
	for _, l := range change.Taken {
		r.dropLane(l.Lane)
		r.leases[l.Lane] = l
	}
	if err != nil {
		return fmt.Errorf("sharing the relay's lanes: %w", err)
	}
	return r.giveBack(ctx, change.Surplus)
}

// shareNow asks at once which lanes are still held.
func (r *Relay) shareNow(ctx context.Context) error {
	r.member.Hurry()
	return r.share(ctx)
}

// giveBack gives so many lanes to the others.
func (r *Relay) giveBack(ctx context.Context, surplus int) error {
	if surplus == 0 {
		return nil
	}
	if err := r.saveUnrecorded(ctx); err != nil {
		return err
	}
	leases := slices.Collect(maps.Values(r.leases))
	leases = leases[:min(surplus, len(leases))]
	for _, l := range leases {
		r.dropLane(l.Lane)
	}
	if err := r.cfg.Leases.Release(ctx, r.cfg.Holder, leases); err != nil {
		return fmt.Errorf("giving back the relay's lanes: %w", err)
	}
	return nil
}

// dropLane forgets the lane's lease and what is known of its logs; they are compared before anything is published.
func (r *Relay) dropLane(lane int) {
	delete(r.leases, lane)
	for log := range r.logs {
		if log.Lane == lane {
			delete(r.logs, log)
			delete(r.unrecorded, log)
		}
	}
}

// leave gives all lanes back, so that another relay goes on at once.
func (r *Relay) leave(ctx context.Context) {
	if err := r.saveUnrecorded(ctx); err != nil {
		r.cfg.Logger.WarnContext(ctx, "the next relay finds out by itself how far this one came", slog.Any("err", err))
	}
	ctx, cancel := r.call(ctx, "giving back the relay's lanes")
	defer cancel()
	if err := r.member.Leave(ctx, slices.Collect(maps.Values(r.leases))); err != nil {
		r.cfg.Logger.WarnContext(ctx, "the relay's leases run out by themselves", slog.Any("err", err))
	}
}
