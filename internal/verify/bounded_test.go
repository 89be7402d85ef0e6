package verify_test

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/clock"
	"github.com/mainstay-io/mainstay/internal/retention"
	"github.com/mainstay-io/mainstay/internal/testkit/fill"
)

// SQLite's file grows by what is never removed only: what comes takes the pages of what was cleaned.
func TestRetention_BoundsTheFile(t *testing.T) {
	t.Parallel()
	const orders, rounds = 500, 3
	newWorld(t, mainstay.SQLite, func(t *testing.T, b *backbone) {
		limit := time.Microsecond
		cleaner := retention.New(retention.Config{
			Store: b, Holder: "test", Limits: retention.Limits{Outbox: limit, History: limit, Barrier: limit}, Rest: 1, Force: true,
		})
		day := clock.System().UTC().Truncate(24*time.Hour).AddDate(0, 0, -10)
		_, before := filePages(t, b)
		var first, stays int // pages of the file when it was full first, and those that a round leaves in use
		for round := range rounds {
			grow(t, b, orders, day.AddDate(0, 0, round))
			size, _ := filePages(t, b)
			_, err := cleaner.Round(t.Context())
			must(t, err)
			_, used := filePages(t, b)
			t.Logf("round %d: %d pages, %d of them in use after cleaning", round, size, used)
			if round == 0 {
				first, stays = size, used-before
			}
			if most := first + round*stays; size > most+most/10 {
				t.Errorf("the file has %d pages, want at most %d: %d at first and %d of each round", size, most, first, stays)
			}
			if filled := (round + 1) * (first - before); used-before > filled/3 {
				t.Errorf("%d pages are in use after cleaning, of %d that were filled", used-before, filled)
			}
		}
	})
}

// grow places an order, takes it to its end, and makes so many copies of it, of a day.
func grow(t *testing.T, b *backbone, orders int, day time.Time) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	var all sync.WaitGroup
	b.run(t, ctx, &all)
	id := b.accept(t, fmt.Sprint("template of ", day), "tok_ok", "mug-red")
	b.await(t, id, "confirmed")
	poll(t, func() (bool, string) {
		n := b.behind(t)
		return n == 0, fmt.Sprintf("%d places are behind", n)
	})
	stop()
	all.Wait()
	db := b.writes(t)
	defer db.Close()
	must(t, fill.Orders(t.Context(), fill.Config{
		DB: db, Dialect: mainstay.SQLite, GatewayFile: filepath.Join(b.place, "gateway.db"), Orders: orders, From: day, Templates: []string{id},
	}))
}

// filePages counts the pages of SQLite's file, and those of them that are in use.
func filePages(t *testing.T, b *backbone) (all, used int) {
	t.Helper()
	var free int
	must(t, b.reads.QueryRowContext(t.Context(), "select page_count, freelist_count from pragma_page_count, pragma_freelist_count").Scan(&all, &free))
	return all, all - free
}
