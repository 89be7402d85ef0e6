package serve

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/ingest"
	"github.com/mainstay-io/mainstay/internal/inventory"
	"github.com/mainstay-io/mainstay/internal/store/sqlite"
)

// walkthrough is the document that TestWalkthrough holds to what happens.
const walkthrough = "../../../docs/walkthrough.md"

// shown are the columns that the document shows of a table, in this order; times and lanes differ from run to run.
var shown = []struct { //nolint:gochecknoglobals // a constant table
	table   string
	columns []string
}{
	{"idempotency", []string{"principal", "route", "status"}},
	{"orders", []string{"status", "reason_code", "total", "currency"}},
	{"order_private", []string{"token", "city"}},
	{"saga", []string{"status", "version", "state"}}, // of the state, the steps
	{"saga_history", []string{"version", "message_id", "sent"}},
	{"outbox", []string{"topic", "sequence", "type"}},
	{"place", []string{"consumer", "topic", "sequence", "message_id"}},
	{"barrier", []string{"participant", "step_key", "op", "outcome", "code"}},
	{"parked", []string{"consumer", "state", "step_key", "op", "attempts", "message_id"}},
	{"dead_letter", []string{"consumer", "state"}},
	{"stock", []string{"sku", "on_hand", "reserved", "shipped"}},
	{"stock_movement", []string{"sku", "kind", "quantity"}},
	{"payment", []string{"status", "amount", "currency"}},
	{"payment_entry", []string{"kind", "account", "amount"}},
	{"carrier", []string{"country", "capacity", "booked", "dispatched"}},
	{"booking", []string{"country", "status"}},
}

// TestWalkthrough takes the document's two orders through a server whose tables tell each of their changes, and wants
// every row that the document shows, and no row that it does not. Replies to parallel steps come in any order, and
// some together: what depends on that (the saga's intermediate states, how its place moves) is shown as one run had
// it, and compared at the end only. With -v it prints what happened, as the document has it.
func TestWalkthrough(t *testing.T) {
	t.Parallel()
	for _, token := range []string{"tok_ok", "tok_capture_rejected"} {
		t.Run(token, func(t *testing.T) {
			t.Parallel()
			got := tracedOrder(t, token)
			t.Logf("what happened to an order with %s:\n%s", token, strings.Join(got, "\n"))
			if diff := cmp.Diff(settled(documented(t, token)), settled(got)); diff != "" {
				t.Errorf("the document differs from what happened (-document +run):\n%s", diff)
			}
		})
	}
}

// tracedOrder takes one order to its end on a database of its own and gives the changes of rows, one line each.
func tracedOrder(t *testing.T, token string) []string {
	t.Helper()
	dir := t.TempDir()
	traced := withTrace(t, filepath.Join(dir, "mainstay.db"))
	b := runBackbone(t, dir)
	desk := inventory.NewDesk(b.db.Dialect(), b.db, b.db.Reads)
	if _, err := desk.Set(t.Context(), "mug-red", 100); err != nil {
		t.Fatal(err)
	}
	if _, err := traced.ExecContext(t.Context(), `delete from trace`); err != nil {
		t.Fatal(err)
	}
	o := placed(t, token, "mug-red")
	answer := ingest.Answer{Status: 202, Body: []byte(o.ID)}
	request := &ingest.Request{Principal: o.Principal, Route: "POST /v1/orders", Key: "k-1", Answer: answer, Item: o}
	if _, _, err := b.intake.Ingest.Accept(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	if err := b.intake.Waiters.Wait(ctx, o.ID, nil); err != nil {
		t.Fatal(err)
	}
	return changes(t, traced, o.ID)
}

// withTrace makes the database with triggers that write every change of a row into the table trace.
func withTrace(t *testing.T, path string) *sql.DB {
	t.Helper()
	if err := migrateSQLite(t.Context(), path, 0); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", sqlite.DSN(path, "FULL", false))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	if _, err := db.ExecContext(t.Context(), `create table trace (n integer primary key, line text)`); err != nil {
		t.Fatal(err)
	}
	for _, s := range shown {
		for op, image := range map[string]struct{ sign, row string }{"insert": {"+", "new"}, "update": {"~", "new"}, "delete": {"-", "old"}} {
			line := "'" + image.sign + " " + s.table + "'"
			for _, c := range s.columns {
				value := image.row + "." + c
				if c == "state" && s.table == "saga" {
					value = "json_extract(" + value + ", '$.p')"
				}
				line += fmt.Sprintf(" || ' %s=' || coalesce(nullif(%s, ''), '-')", c, value)
			}
			trigger := fmt.Sprintf("create trigger trace_%s_%s after %s on %s begin insert into trace (line) values (%s); end",
				s.table, op, op, s.table, line)
			if _, err := db.ExecContext(t.Context(), trigger); err != nil {
				t.Fatalf("%s: %v", trigger, err)
			}
		}
	}
	return db
}

// runBackbone runs everything but the servers until the test ends.
func runBackbone(t *testing.T, dir string) *backbone {
	t.Helper()
	cfg, err := app.LoadConfig(app.Env{Getenv: func(string) string { return "" }}, nil)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Data = dir
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	group := app.NewGroup(log, app.NewHealth(log), 10*time.Second)
	b, err := open(t.Context(), cfg, log, group, hooks{latency: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range b.services() {
		group.Add(s)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- group.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return b
}

// changes reads the trace, with the order's id and the ids of messages replaced by what they are.
func changes(t *testing.T, db *sql.DB, orderID string) []string {
	t.Helper()
	names := []string{orderID, "ORDER"}
	for _, pair := range column2(t, db, `select id, type from outbox`) {
		names = append(names, pair[0], "<"+pair[1]+">")
	}
	var lines []string
	const registered = "+ place" // of a consumer that is new to the database, when it starts
	for _, pair := range column2(t, db, `select n, line from trace order by n`) {
		if strings.HasPrefix(pair[1], registered) {
			continue
		}
		lines = append(lines, withoutTimes(strings.NewReplacer(names...).Replace(pair[1])))
	}
	return lines
}

func column2(t *testing.T, db *sql.DB, query string) (pairs [][2]string) {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), query)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var p [2]string
		if err := rows.Scan(&p[0], &p[1]); err != nil {
			t.Fatal(err)
		}
		pairs = append(pairs, p)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return pairs
}

// documented gives the lines of the document's blocks about an order.
func documented(t *testing.T, token string) (lines []string) {
	t.Helper()
	text, err := os.ReadFile(walkthrough)
	if err != nil {
		t.Fatal(err)
	}
	_, story, found := bytes.Cut(text, []byte("<!-- rows of "+token+" -->"))
	story, _, ended := bytes.Cut(story, []byte("<!-- end of "+token+" -->"))
	if !found || !ended {
		t.Fatalf("%s has no marks around the story of %s", walkthrough, token)
	}
	for line := range strings.Lines(string(story)) {
		line = strings.TrimSpace(line)
		if len(line) > 2 && strings.Contains("+~-", line[:1]) && line[1] == ' ' && isShown(strings.Fields(line)[1]) {
			lines = append(lines, line)
		}
	}
	return lines
}

func isShown(table string) bool {
	return slices.ContainsFunc(shown, func(s struct {
		table   string
		columns []string
	},
	) bool {
		return s.table == table
	})
}

var (
	times     = regexp.MustCompile(` \d{16}`)
	reordered = regexp.MustCompile(`^. (saga|saga_history|place consumer=orders) `)
)

// withoutTimes drops until when a step waits for its answer.
func withoutTimes(line string) string { return times.ReplaceAllString(line, "") }

// settled are the lines that are the same in every run, sorted: without those that depend on the order in which
// replies come, but for the saga's last.
func settled(lines []string) []string {
	var kept []string
	last := ""
	for _, line := range lines {
		if strings.HasPrefix(line, "~ saga ") {
			last = regexp.MustCompile(`version=\d+`).ReplaceAllString(line, "version=N")
		}
		if reordered.MatchString(line) {
			continue
		}
		if strings.Contains(line, "-replies ") {
			line = regexp.MustCompile(`sequence=\d+`).ReplaceAllString(line, "sequence=N")
		}
		kept = append(kept, line)
	}
	slices.Sort(kept)
	return append(kept, last)
}
