package postgres

import (
	"context"
	"database/sql"
	"fmt"
	"hash/crc32"
	"strings"
	"time"
)

// A holder of leases is present as long as one session of its process holds the holder's advisory lock. A process
// that was killed loses it at once, so nobody has to wait for its leases to run out. Safety does not depend on it: a
// living holder whose session was cut is fenced by the epoch like any other.

const presenceQuery = `/* lease.present */ select pg_advisory_lock_shared($1, hashtext($2))`

// Unwatched ends the names of holders that keep no session, as where a pooler stands before the database: nobody can
// see that they are gone, so their leases run out.
const Unwatched = "/unwatched"

// gone is true of a lease l whose holder should have a session and has none; $5 is presenceClass.
const gone = `l.holder not like '%` + Unwatched + `' and not exists (
        select from pg_locks k where k.locktype = 'advisory' and k.objsubid = 2 and k.granted
        and k.classid = ($5::bigint & 4294967295)::oid and k.objid = (hashtext(l.holder)::bigint & 4294967295)::oid
        and k.database = (select oid from pg_database where datname = current_database()))`

// presenceClass is the first number of holders' advisory locks.
func (s *Store) presenceClass() int32 {
	return int32(crc32.ChecksumIEEE([]byte(s.lockSpace + "/holder"))) //nolint:gosec // any 32 bits will do
}

// pingTimeout is how long a holder's session may take to answer before it is given up for another one.
const pingTimeout = 5 * time.Second

// appear makes sure that the holder is present. Many share its session, so a caller that leaves does not end it.
func (s *Store) appear(ctx context.Context, holder string) error {
	if strings.HasSuffix(holder, Unwatched) {
		return nil
	}
	s.presence.mu.Lock()
	defer s.presence.mu.Unlock()
	if conn := s.presence.sessions[holder]; conn != nil {
		if err := ping(ctx, conn); err == nil || ctx.Err() != nil {
			return err
		}
		_ = conn.Close() // it is broken
		delete(s.presence.sessions, holder)
	}
	conn, err := s.presence.db.Conn(ctx)
	if err != nil {
		return fmt.Errorf("opening the session of holder %s: %w", holder, err)
	}
	if _, err := conn.ExecContext(ctx, presenceQuery, s.presenceClass(), holder); err != nil {
		_ = conn.Close()
		return fmt.Errorf("taking the lock of holder %s: %w", holder, err)
	}
	if s.presence.sessions == nil {
		s.presence.sessions = map[string]*sql.Conn{}
	}
	s.presence.sessions[holder] = conn
	return nil
}

// ping fails when ctx has ended or the session is broken; no end of ctx breaks it.
func ping(ctx context.Context, conn *sql.Conn) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), pingTimeout)
	defer cancel()
	return conn.PingContext(ctx)
}

// leave ends all sessions of holders.
func (s *Store) leave() error {
	s.presence.mu.Lock()
	defer s.presence.mu.Unlock()
	for holder, conn := range s.presence.sessions {
		_ = conn.Close()
		delete(s.presence.sessions, holder)
	}
	return s.presence.db.Close()
}
