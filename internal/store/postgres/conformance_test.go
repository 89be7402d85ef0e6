package postgres

import (
	"testing"

	"github.com/mainstay-io/mainstay/internal/store/storetest"
)

func fixture(t *testing.T) *storetest.Fixture {
	t.Helper()
	s := newStore(t)
	l := lead(t, s)
	return &storetest.Fixture{Machinery: s, Settle: func(t *testing.T) {
		t.Helper()
		drain(t, s, l)
	}}
}

func TestStore_Sharing(t *testing.T) { t.Parallel(); storetest.Sharing(t, fixture) }
func TestStore_Leases(t *testing.T)  { t.Parallel(); storetest.Leases(t, fixture) }
func TestStore_Log(t *testing.T)     { t.Parallel(); storetest.Log(t, fixture) }
func TestStore_Lanes(t *testing.T)   { t.Parallel(); storetest.Lanes(t, fixture) }
func TestStore_Sagas(t *testing.T)   { t.Parallel(); storetest.Sagas(t, fixture) }
