package verify_test

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/verify"
)

// TestRun_OnARunningSystem checks again and again while orders are taken and worked on: whatever it meets half done
// is no violation. It ends when the last order has, and must have met some under way.
func TestRun_OnARunningSystem(t *testing.T) {
	t.Parallel()
	for _, dialect := range []mainstay.Dialect{mainstay.SQLite, mainstay.Postgres} {
		t.Run(string(dialect), func(t *testing.T) {
			t.Parallel()
			w := &world{dialect: dialect, ids: map[string]string{}}
			b := w.open(t)
			o := verify.Options{DB: b.reads, Dialect: dialect}
			if dialect == mainstay.SQLite {
				o.DB = connect(t, "sqlite", "file:"+filepath.Join(w.place, "mainstay.db")+"?mode=ro&_pragma=busy_timeout(5000)")
				o.GatewayFile = filepath.Join(w.place, "gateway.db")
			}
			ctx, stop := context.WithCancel(t.Context())
			var all, clients sync.WaitGroup
			var met atomic.Int64 // checks that met an order under way
			b.run(t, ctx, &all)
			b.seed(t)
			clients.Go(func() {
				for i := 0; i < 60 || (met.Load() == 0 && i < 3000); i++ {
					for kind, k := range kinds {
						if kind != "stuck" {
							b.accept(t, fmt.Sprint(kind, i), k.token, k.sku)
						}
					}
				}
			})
			watch(t, o, 300, &met)
			clients.Wait()
			stop()
			all.Wait()
			b.close(t)
			if met.Load() == 0 {
				t.Error("inconclusive: no check met an order under way")
			}
		})
	}
}

// watch runs the checks until at least so many orders have been accepted and all have ended, and a check has met one
// that had not, which it counts.
func watch(t *testing.T, o verify.Options, want int64, met *atomic.Int64) {
	t.Helper()
	poll(t, func() (bool, string) {
		r := run(t, o)
		for _, c := range r.Checks {
			for _, v := range c.Violations {
				t.Errorf("%s: %s: %s: %s", c.Name, v.Rule, v.ID, v.Detail)
			}
		}
		if r.Counts.Pending > 0 {
			met.Add(1)
		}
		done := r.Counts.Accepted >= want && r.Counts.Pending == 0 && met.Load() > 0
		return done, fmt.Sprintf("after all this time: %+v", r.Counts)
	})
}
