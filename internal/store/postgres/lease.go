package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/mainstay-io/mainstay/internal/lease"
)

const (
	takeLocks = `/* lease.wait */ select pg_advisory_xact_lock($1, lane) from unnest($2::int[]) as lane order by lane`
	takeQuery = `/* lease.take */
with was as (
    select lane, case when holder <> $3 then holder end as dead,
           $6 or holder is null or holder = $3 or expires_at <= clock_timestamp() or (` + gone + `) as free
    from lease l where name = $1 and lane = any($2::int[])
), taken as (
    insert into lease as l (name, lane, holder, epoch, expires_at)
    select $1, lane, $3, 1, clock_timestamp() + $4::bigint * interval '1 microsecond'
    from unnest($2::int[]) as lane left join was using (lane) where coalesce(was.free, true) order by lane
    on conflict (name, lane) do update set holder = excluded.holder, epoch = l.epoch + 1, expires_at = excluded.expires_at
    returning lane, epoch
)
select lane, epoch, coalesce(dead, '') from taken left join was using (lane) order by lane`
)

// Acquire takes the lanes that are free, expired or the holder's own; all of them with force. It waits for
// transactions that are still at work under them, and after the lock timeout ends their sessions.
func (s *Store) Acquire(ctx context.Context, name string, lanes []int, holder string, ttl time.Duration, force bool) ([]lease.Lease, error) {
	if err := s.appear(ctx, holder); err != nil {
		return nil, fmt.Errorf("acquiring leases of %s: %w", name, translate(ctx, err))
	}
	var taken []lease.Lease
	try := func() error {
		free, err := s.free(ctx, name, lanes, holder, force)
		if err != nil || len(free) == 0 {
			return err
		}
		taken, err = s.take(ctx, name, free, holder, ttl, force)
		return err
	}
	err := try()
	if pg := pgError(err); pg != nil && pg.Code == codeLockNotAvailable {
		if err = s.evict(ctx, name, lanes, holder, force); err == nil {
			err = try()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("acquiring leases of %s: %w", name, translate(ctx, err))
	}
	return taken, nil
}

const freeQuery = `/* lease.free */
select lane from unnest($2::int[]) as lane
where not exists (
    select from lease l where l.name = $1 and l.lane = lane.lane
    and not ($4 or l.holder is null or l.holder = $3 or l.expires_at <= clock_timestamp() or (` + gone + `)))
order by lane`

// free says which lanes are worth waiting for, so that nobody waits for the work of a living holder.
func (s *Store) free(ctx context.Context, name string, lanes []int, holder string, force bool) ([]int, error) {
	var free []int
	err := s.db.SelectContext(ctx, &free, freeQuery, name, lanes, holder, force, s.presenceClass())
	return free, err
}

func (s *Store) take(ctx context.Context, name string, lanes []int, holder string, ttl time.Duration, force bool) ([]lease.Lease, error) {
	var taken []lease.Lease
	wait := &batch{}
	wait.add(nil, takeLocks, s.lockClass(name), lanes)
	err := s.do(ctx, wait, func(ctx context.Context, t *tx) error {
		rows, err := t.QueryContext(ctx, takeQuery, name, lanes, holder, ttl.Microseconds(), s.presenceClass(), force)
		if err != nil {
			return err
		}
		defer rows.Close() // rows.Err tells
		for rows.Next() {
			l := lease.Lease{Name: name}
			if err := rows.Scan(&l.Lane, &l.Epoch, &l.From); err != nil {
				return err
			}
			l.Unclean = l.From != ""
			taken = append(taken, l)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, err
	}
	return taken, nil
}

const evictQuery = `/* lease.evict */
select pg_terminate_backend(k.pid, 1000)
from pg_locks k
join unnest($2::int[]) as lane on k.objid = lane::oid
where k.locktype = 'advisory' and k.classid = ($1::bigint & 4294967295)::oid and k.objsubid = 2 and k.granted
  and k.mode = 'ShareLock' and k.pid <> pg_backend_pid()
  and k.database = (select oid from pg_database where datname = current_database())`

// evict ends sessions that hold a lane past its lease: a process that was paused inside a transaction.
func (s *Store) evict(ctx context.Context, name string, lanes []int, holder string, force bool) error {
	free, err := s.free(ctx, name, lanes, holder, force)
	if err != nil {
		return err
	}
	s.cfg.Logger.WarnContext(ctx, "ending sessions that hold lanes past their lease", "lease", name)
	_, err = s.db.ExecContext(ctx, evictQuery, s.lockClass(name), free)
	return err
}

const renewQuery = `/* lease.renew */
update lease l set expires_at = clock_timestamp() + $2::bigint * interval '1 microsecond'
from unnest($3::text[], $4::int[], $5::bigint[]) as mine(name, lane, epoch)
where l.name = mine.name and l.lane = mine.lane and l.epoch = mine.epoch and l.holder = $1
returning l.name, l.lane`

// Renew extends leases that are still held.
func (s *Store) Renew(ctx context.Context, holder string, leases []lease.Lease, ttl time.Duration) ([]lease.Lease, error) {
	type held struct {
		Name string
		Lane int
	}
	var rows []held
	if err := s.appear(ctx, holder); err != nil {
		return nil, fmt.Errorf("renewing leases: %w", translate(ctx, err))
	}
	names, lanes, epochs := columns(leases)
	err := s.db.SelectContext(ctx, &rows, renewQuery, holder, ttl.Microseconds(), names, lanes, epochs)
	if err != nil {
		return nil, fmt.Errorf("renewing leases: %w", translate(ctx, err))
	}
	still := map[held]bool{}
	for _, r := range rows {
		still[r] = true
	}
	var kept []lease.Lease
	for _, l := range leases {
		if still[held{l.Name, l.Lane}] {
			kept = append(kept, l)
		}
	}
	return kept, nil
}

const releaseQuery = `/* lease.release */
update lease l set holder = null, expires_at = null
from unnest($2::text[], $3::int[], $4::bigint[]) as mine(name, lane, epoch)
where l.name = mine.name and l.lane = mine.lane and l.epoch = mine.epoch and l.holder = $1`

// Release gives leases back.
func (s *Store) Release(ctx context.Context, holder string, leases []lease.Lease) error {
	names, lanes, epochs := columns(leases)
	if _, err := s.db.ExecContext(ctx, releaseQuery, holder, names, lanes, epochs); err != nil {
		return fmt.Errorf("releasing leases: %w", translate(ctx, err))
	}
	return nil
}

const (
	// Those that share the lanes of a name are kept as leases, too: each has one whose lane is a number that only it
	// has. Should two have the same, they count as one, and share unfairly but soundly. It is written only when a
	// third of the time has passed, so that a look costs no commit to the disk.
	attendQuery = `/* lease.attend */
with mine as (
    insert into lease as l (name, lane, holder, epoch, expires_at)
    values ($1 || '/members', hashtext($2) & 2147483647, $2, 1, clock_timestamp() + $3::bigint * interval '1 microsecond')
    on conflict (name, lane) do update set holder = excluded.holder, expires_at = excluded.expires_at
    where l.holder is distinct from excluded.holder
       or l.expires_at < excluded.expires_at - $4::bigint * interval '1 microsecond'
), past as (
    delete from lease where name = $1 || '/members' and expires_at < clock_timestamp() - interval '1 hour'
)
select 1 + (select count(*) from lease l where l.name = $1 || '/members' and l.holder <> $2
            and l.expires_at > clock_timestamp() and not (` + gone + `)) as members,
       array(select l.lane from lease l where l.name = $1 and l.holder <> $2
             and l.expires_at > clock_timestamp() and not (` + gone + `))::bigint[] as taken`
	leaveQuery = `/* lease.leave */ delete from lease where name = $1 || '/members' and holder = $2`
)

// Attend makes the holder known as one of those that share the lanes of name.
func (s *Store) Attend(ctx context.Context, name, holder string, ttl time.Duration) (lease.Standing, error) {
	if err := s.appear(ctx, holder); err != nil {
		return lease.Standing{}, fmt.Errorf("attending to %s: %w", name, translate(ctx, err))
	}
	var standing lease.Standing
	var taken int64s
	third := ttl / 3
	err := s.db.QueryRowContext(ctx, attendQuery, name, holder, ttl.Microseconds(), third.Microseconds(), s.presenceClass()).
		Scan(&standing.Members, &taken)
	if err != nil {
		return lease.Standing{}, fmt.Errorf("attending to %s: %w", name, translate(ctx, err))
	}
	for _, n := range taken {
		standing.Taken = append(standing.Taken, int(n))
	}
	return standing, nil
}

// Leave ends the holder's membership.
func (s *Store) Leave(ctx context.Context, name, holder string) error {
	if _, err := s.db.ExecContext(ctx, leaveQuery, name, holder); err != nil {
		return fmt.Errorf("leaving %s: %w", name, translate(ctx, err))
	}
	return nil
}

func columns(leases []lease.Lease) (names []string, lanes []int, epochs []int64) {
	for _, l := range leases {
		names, lanes, epochs = append(names, l.Name), append(lanes, l.Lane), append(epochs, l.Epoch)
	}
	return names, lanes, epochs
}

const (
	lockLeases = `/* lease.lock */ select pg_advisory_xact_lock_shared(class, lane) from unnest($1::int[], $2::int[]) as l(class, lane)
order by class, lane`
	checkLeases = `/* lease.check */
select fence(count(*) = cardinality($1::text[]), 'a lease is not held any more')` + heldLeases
	// checkLeasesInEra is checkLeases and fenceEra in one statement.
	checkLeasesInEra = `/* lease.check_in_era */
select fence(count(*) = cardinality($1::text[]), 'a lease is not held any more'),
       fence(database_era() = $4, 'the database may have gone back to an earlier moment')` + heldLeases
	heldLeases = `
from lease l join unnest($1::text[], $2::int[], $3::bigint[]) as mine(name, lane, epoch) using (name, lane)
where l.epoch = mine.epoch and l.holder is not null`
)

// under is the prelude of a transaction under leases, in an era or in any (""): their locks, and then, in a later
// statement so that it sees what was committed meanwhile, their epochs and the era. It is nil where nothing is checked.
func (s *Store) under(leases []lease.Lease, era string) *batch {
	b := &batch{}
	switch {
	case len(leases) == 0 && era == "":
		return nil
	case len(leases) == 0:
		b.add(nil, fenceEra, era)
		return b
	}
	names, lanes, epochs := columns(leases)
	classes := make([]int32, len(names))
	for i, name := range names {
		classes[i] = s.lockClass(name)
	}
	b.add(nil, lockLeases, classes, lanes)
	if era == "" {
		b.add(nil, checkLeases, names, lanes, epochs)
	} else {
		b.add(nil, checkLeasesInEra, names, lanes, epochs, era)
	}
	return b
}
