package verify_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/retention"
)

// dated are the columns that a day's age is made of.
var dated = map[string][]string{
	"outbox": {"created_at"}, "saga": {"created_at", "updated_at", "ended_at"}, "saga_history": {"at"}, "barrier": {"created_at"},
	"orders": {"created_at", "updated_at"}, "idempotency": {"created_at", "expires_at"}, "dead_letter": {"entered_at", "ended_at"},
	"parked": {"parked_at"},
}

// age makes messages a day older, and all else two days: idempotency records, kept for a day, expire with it.
func age(t *testing.T, b *backbone) {
	t.Helper()
	day := " - interval '%d days'"
	statements := []string{"set local mainstay.rebase = 'on'", "update log set oldest = oldest - interval '1 day', newest = newest - interval '1 day'"}
	if b.Dialect() == mainstay.SQLite {
		day, statements = " - %d * 86400000000", nil
	}
	for table, columns := range dated {
		days := 2
		if table == "outbox" {
			days = 1
		}
		var set []string
		for _, c := range columns {
			set = append(set, c+" = "+c+fmt.Sprintf(day, days))
		}
		statements = append(statements, fmt.Sprintf("update %s set %s", table, strings.Join(set, ", ")))
	}
	must(t, b.Run(t.Context(), func(ctx context.Context, tx mainstay.Tx) error {
		for _, statement := range statements {
			if _, err := tx.ExecContext(ctx, statement); err != nil {
				return fmt.Errorf("%s: %w", statement, err)
			}
		}
		return nil
	}))
}

// clean removes all that may go.
func clean(t *testing.T, b *backbone) {
	t.Helper()
	age(t, b)
	limit := time.Microsecond
	c := retention.New(retention.Config{
		Store: b, Holder: "test", Limits: retention.Limits{Outbox: limit, History: limit, Barrier: limit}, Rest: 1, Force: true,
	})
	removed := map[string]int64{}
	for range 3 { // a day is sealed in one round and removed in another
		r, err := c.Round(t.Context())
		must(t, err)
		if len(r.Holds) > 0 {
			t.Fatalf("held: %+v", r.Holds)
		}
		for table, n := range r.Removed {
			removed[table] += n
		}
	}
	for _, table := range []string{"outbox", "saga", "saga_history", "barrier", "idempotency"} {
		if removed[table] == 0 {
			t.Errorf("nothing was removed of %s: %v", table, removed)
		}
	}
}

// TestRun_OnACleanedDatabase: what the cleaner has removed is not lost, and what was lost is found all the same.
func TestRun_OnACleanedDatabase(t *testing.T) {
	t.Parallel()
	for _, dialect := range []mainstay.Dialect{mainstay.SQLite, mainstay.Postgres} {
		t.Run(string(dialect), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, dialect, clean)
			t.Run("healthy", func(t *testing.T) { cleanedHealthy(t, w) })
			for _, p := range losses {
				if p.only == "" || p.only == dialect {
					t.Run(p.name, func(t *testing.T) {
						t.Parallel()
						planted := w.copy(t)
						statements := p.sql
						if dialect == mainstay.SQLite {
							statements += p.sqlite
						} else {
							statements += p.postgres
						}
						planted.exec(t, statements)
						p.compare(t, w, run(t, planted.options()))
					})
				}
			}
		})
	}
}

func cleanedHealthy(t *testing.T, w *world) {
	t.Parallel()
	p := w.copy(t)
	r := run(t, p.options())
	for _, c := range r.Checks {
		t.Logf("%-16s %s", c.Name, c.Summary)
		for _, v := range c.Violations {
			t.Errorf("%s: %s: %s", v.Rule, v.ID, v.Detail)
		}
	}
	if r.Counts.Accepted != 7 || r.Counts.OpenDeadLetters != 1 || len(r.Open) != 1 {
		t.Errorf("%+v", r.Counts)
	}
	journal := fmt.Sprintf(`{"key":"confirmed","status":202,"order_id":"%s"}`, w.ids["confirmed"])
	o := p.options()
	o.Journal, o.JournalComplete = strings.NewReader(journal), true
	for _, c := range run(t, o).Checks {
		for _, v := range c.Violations {
			if v.Rule != "journal_unknown" || v.ID != w.ids["pending"] {
				t.Errorf("%s: %s: %s", v.Rule, v.ID, v.Detail)
			}
		}
	}
}

// losses are plants in a cleaned world, in which only the orders stuck and pending have their sagas.
var losses = []plant{
	{
		name: "saga of an order that has not ended", sql: `delete from saga where id = '$stuck'`, id: "$stuck",
		rules: []string{"order_without_saga", "history"},
	},
	{
		name: "saga of an order that ended after the last cleaning", id: "$confirmed", rules: []string{"order_without_saga"},
		sqlite:   `update orders set updated_at = updated_at + 2 * 86400000000 where id = '$confirmed'`,
		postgres: `update orders set updated_at = updated_at + interval '2 days' where id = '$confirmed'`,
		also:     []string{"order_ended_silently"},
	},
	{
		name: "order that was accepted after the last cleaning", sql: `delete from idempotency where key = 'pending'`, id: "$pending",
		rules: []string{"order_without_record"},
	},
	{
		name: "message of an order that runs", sql: `delete from outbox where key = '$pending' and topic = 'order-events'`, id: "$pending",
		rules: []string{"order_not_announced"}, also: []string{"gone", "beginning"},
	},
	{
		name: "more than was written down", sql: `delete from log_floor where topic = 'logistics'`, id: "logistics/", rules: []string{"beginning"},
	},
	{
		name: "effect that an order's end forbids", sql: `update booking set status = 'cancelled' where order_id = '$confirmed'`, id: "$confirmed",
		rules: []string{"shipment_of_confirmed", "carrier"},
	},
	{
		name: "stock of an order that ended", sql: `delete from stock_movement where order_id = '$confirmed' and kind = 'ship'`, id: "$confirmed",
		rules: []string{"stock_sum", "stock_confirmed", "stock_held"},
	},
	{
		name: "outcome of a saga that runs", sql: `delete from barrier where step_key like '$stuck/%' and op = 'do'`, id: "$stuck",
		rules: []string{}, also: []string{"money_effect", "stock_effect", "undo_without_do", "command_without_effect"},
	},
}
