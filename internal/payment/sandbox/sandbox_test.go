package sandbox_test

import (
	"database/sql"
	"fmt"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/payment"
	"github.com/mainstay-io/mainstay/internal/payment/sandbox"
	"github.com/mainstay-io/mainstay/internal/payment/sandbox/sandboxtest"
	"github.com/mainstay-io/mainstay/internal/testkit/txkit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestSQLite(t *testing.T) {
	t.Parallel()
	sandboxtest.Run(t, sandboxtest.Config{
		Dialect: mainstay.SQLite,
		Open:    func(t testing.TB) *sql.DB { return txkit.SQLite(t).DB },
	})
}

func TestPostgres(t *testing.T) {
	t.Parallel()
	sandboxtest.Run(t, sandboxtest.Config{
		Dialect: mainstay.Postgres,
		Open:    func(t testing.TB) *sql.DB { return txkit.Postgres(t).DB },
		Shared:  true,
	})
}

// BenchmarkAuthorise is meant for -cpu 2: the callers are spread over as many processors.
func BenchmarkAuthorise(b *testing.B) {
	for name, open := range map[string]func(testing.TB) *txkit.DB{"sqlite": txkit.SQLite, "postgres": txkit.Postgres} {
		for _, callers := range []int{2, 64} {
			b.Run(fmt.Sprintf("%s/callers=%d", name, callers), func(b *testing.B) {
				db := open(b)
				g, err := sandbox.Open(b.Context(), db.DB, db.Dialect, sandbox.Options{})
				if err != nil {
					b.Fatal(err)
				}
				defer func() { _ = g.Close() }()
				var n atomic.Int64
				b.SetParallelism(callers / 2)
				b.ResetTimer()
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						ref := fmt.Sprint("o-", n.Add(1))
						r := payment.AuthoriseRequest{OrderRef: ref, Amount: 100, Currency: "EUR", Token: sandbox.TokenOK}
						if err := g.Authorise(b.Context(), ref, r); err != nil {
							b.Error(err)
						}
					}
				})
			})
		}
	}
}
