package postgres

import (
	"context"
	"testing"
	"time"

	"github.com/mainstay-io/mainstay/internal/lease"
)

// TestLease_OfTheDeadIsFree takes over at once from a holder whose process is gone, and not from one that lives.
func TestLease_OfTheDeadIsFree(t *testing.T) {
	t.Parallel()
	living := newStore(t)
	dead, err := Open(t.Context(), living.cfg)
	if err != nil {
		t.Fatal(err)
	}
	acquire := func(s *Store, holder string) []lease.Lease {
		t.Helper()
		ls, err := s.Acquire(t.Context(), "consumer", []int{0, 1}, holder, time.Hour, false)
		if err != nil {
			t.Fatal(err)
		}
		return ls
	}
	if ls := acquire(dead, "dead"); len(ls) != 2 {
		t.Fatalf("the first holder took %v", ls)
	}
	if ls := acquire(living, "living"); len(ls) != 0 {
		t.Fatalf("the leases of a living holder were taken: %v", ls)
	}
	for _, m := range []struct {
		store  *Store
		holder string
		want   int
	}{{dead, "dead", 1}, {living, "living", 2}} {
		if standing, err := m.store.Attend(t.Context(), "consumer", m.holder, time.Hour); err != nil || standing.Members != m.want {
			t.Fatalf("%s sees %+v, %v", m.holder, standing, err)
		}
	}
	if err := dead.Close(); err != nil { // as the end of its process would
		t.Fatal(err)
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		ls := acquire(living, "living")
		if len(ls) == 2 {
			if !ls[0].Unclean || ls[0].Epoch != 2 {
				t.Errorf("took %+v, want an unclean take-over under a new epoch", ls)
			}
			standing, err := living.Attend(t.Context(), "consumer", "living", time.Hour)
			if err != nil || standing.Members != 1 || len(standing.Taken) != 0 {
				t.Errorf("the dead still counts: %+v, %v", standing, err)
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the leases of a dead holder are not free")
		}
	}
}

// TestLease_ACallerThatLeavesDoesNotEndTheHolder: its session is for all that the process holds.
func TestLease_ACallerThatLeavesDoesNotEndTheHolder(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	other := openStore(t, s.cfg.URL)
	if _, err := s.Acquire(t.Context(), "consumer", []int{0}, "holder", time.Hour, false); err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Attend(ended, "another", "holder", time.Hour); err == nil {
		t.Fatal("attended after the end of its context")
	}
	// A session that is closed would end soon, and not at once.
	for range 20 {
		ls, err := other.Acquire(t.Context(), "consumer", []int{0}, "other", time.Hour, false)
		if err != nil || len(ls) != 0 {
			t.Fatalf("another holder took %v, %v", ls, err)
		}
	}
	if conn := s.presence.sessions["holder"]; conn == nil || conn.PingContext(t.Context()) != nil {
		t.Error("the holder's session is gone")
	}
}
