package verify_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/mainstay-io/mainstay/internal/clock"
	"github.com/mainstay-io/mainstay/internal/verify"
)

// note is a line of a journal.
func note(key string, status int, id string) string {
	return fmt.Sprintf("{\"key\":%q,\"status\":%d,\"order_id\":%q}\n", key, status, id)
}

// whole is a client's record of the whole world: each order answered, one of them late.
func whole(w *world) string {
	var b strings.Builder
	for key, id := range w.ids {
		b.WriteString(note(key, 0, "") + note(key, 202, id) + note(key, 409, ""))
	}
	b.WriteString(note("bad", 422, "") + note("never", 0, ""))
	return b.String()
}

func journals(t *testing.T, w *world) {
	for _, c := range []struct {
		name, add            string
		incomplete, complete bool
		rules                []string
		id                   string
	}{
		{name: "whole", complete: true},
		{name: "torn", add: `{"key":"x","sta`, complete: true},
		{name: "lost", add: note("gone", 202, stranger), rules: []string{"journal_lost"}, id: stranger},
		{name: "two orders", add: note("confirmed", 202, w.ids["flaky"]), rules: []string{"journal_two_orders"}, id: "confirmed"},
		{name: "two keys", add: note("again", 202, w.ids["flaky"]), rules: []string{"journal_two_keys"}, id: w.ids["flaky"]},
		{name: "other order", add: note("confirmed", 202, w.ids["flaky"]), rules: []string{"journal_other_order"}, id: "confirmed"},
		{name: "refused", incomplete: true, add: note("confirmed", 422, ""), rules: []string{"journal_refused"}, id: "confirmed"},
		{name: "unknown", incomplete: true, complete: true, rules: []string{"journal_unknown"}, id: w.ids["pending"]},
		{name: "of somebody else", incomplete: true},
	} {
		t.Run("journal/"+c.name, func(t *testing.T) {
			t.Parallel()
			text := c.add
			if !c.incomplete {
				text = whole(w) + c.add
			}
			o := w.copy(t).options()
			o.Journal, o.JournalComplete = strings.NewReader(text), c.complete
			p := plant{rules: c.rules, also: []string{"journal_two_orders", "journal_two_keys", "journal_other_order"}, id: c.id}
			if c.rules == nil {
				p.also = nil
			}
			r := run(t, o)
			p.compare(t, w, r)
			last := r.Checks[len(r.Checks)-1]
			if c.name == "of somebody else" && !strings.HasSuffix(last.Summary, "; 7 orders are not in the journal") {
				t.Error(last.Summary)
			}
			if c.name == "whole" && last.Summary != "23 answers to 9 keys, 7 of them 2xx, each with its order; 0 orders are not in the journal" {
				t.Error(last.Summary)
			}
			run(t, verify.Options{DB: o.DB, Dialect: o.Dialect, GatewayFile: o.GatewayFile, Journal: strings.NewReader("")})
		})
	}
	t.Run("journal/unreadable", func(t *testing.T) {
		t.Parallel()
		for _, text := range []string{"nonsense\n", "{\"status\":202}\n"} {
			o := w.copy(t).options()
			o.Journal = strings.NewReader(whole(w) + text + whole(w))
			if _, err := verify.Run(t.Context(), o); !errors.Is(err, verify.ErrJournal) || !strings.Contains(err.Error(), "line 24") {
				t.Error(err)
			}
		}
	})
}

func options(t *testing.T, w *world) {
	t.Run("no schema", func(t *testing.T) {
		t.Parallel()
		c := w.copy(t)
		c.exec(t, "drop table goose_db_version")
		if _, err := verify.Run(t.Context(), c.options()); !errors.Is(err, verify.ErrNoSchema) {
			t.Error(err)
		}
	})
	t.Run("no gateway", func(t *testing.T) {
		t.Parallel()
		c := w.copy(t)
		c.exec(t, "drop table sandbox.authorisation")
		r := run(t, c.options())
		for _, check := range r.Checks {
			if (check.Skipped != "") != strings.HasPrefix(check.Name, "gateway") {
				t.Errorf("%s: skipped %q", check.Name, check.Skipped)
			}
		}
		if r.Found() == 0 {
			t.Error("payments without a gateway are no violation")
		}
	})
	t.Run("limit", func(t *testing.T) {
		t.Parallel()
		c := w.copy(t)
		c.exec(t, "delete from idempotency")
		o := c.options()
		o.Limit = 3
		first := run(t, o).Checks[0]
		if len(first.Violations) != 3 || first.Found != 7 {
			t.Errorf("%d of %d violations are named", len(first.Violations), first.Found)
		}
	})
	t.Run("past retention", func(t *testing.T) {
		t.Parallel()
		c := w.copy(t)
		c.exec(t, "delete from idempotency")
		o := c.options()
		o.Clock = func() time.Time { return clock.System().Add(25 * time.Hour) }
		if r := run(t, o); r.Found() != 0 {
			t.Errorf("forgotten keys are violations: %+v", r.Checks[0])
		}
	})
}
