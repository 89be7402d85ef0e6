package demo

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/mainstay-io/mainstay/internal/client"
)

// say is an identifier as people read it.
func say(identifier string) string {
	status, reason, found := strings.Cut(identifier, "/")
	if status == client.StatusNeedsOperator {
		status = "needs you"
	}
	if found {
		status += ", " + reason
	}
	return strings.ReplaceAll(status, "_", " ")
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// print writes the result: one JSON document, or for people.
func (r *Result) print(w io.Writer, inJSON bool, p paint) error {
	if inJSON {
		enc := json.NewEncoder(w)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		return enc.Encode(r)
	}
	var b strings.Builder
	b.WriteString("\n")
	r.table(&b)
	b.WriteString("\n")
	r.evidence(&b, p)
	color := p.good
	if len(r.Mismatches) > 0 {
		color = p.bad
	}
	b.WriteString("\n" + color(r.closing()) + "\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// closing is the whole story in a line.
func (r *Result) closing() string {
	s := fmt.Sprintf("%d accepted, %d ended: %d confirmed, %d cancelled, %s; %d lost, %d twice",
		r.Accepted, r.Ended, r.Confirmed, r.Cancelled, plural(r.NeedsOperator, "needs you", "need you"), r.Lost, r.Twice)
	if n := len(r.Mismatches) - r.count(mismatchLost) - r.count(mismatchTwice); n > 0 {
		s += fmt.Sprintf(", %d wrong", n)
	}
	for i, o := range r.Owed {
		s += map[bool]string{true: "; owed: ", false: ", "}[i == 0] + o.What + " " + client.Money(o.Amount, o.Currency)
	}
	return s
}

// table says what became of each kind and why.
func (r *Result) table(b *strings.Builder) {
	t := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	line := func(cells ...string) { _, _ = fmt.Fprintln(t, strings.Join(cells, "\t")) } // a builder does not fail
	line("KIND", "SENT", "BECAME", "REASON", "WHY")
	for _, k := range r.Kinds {
		name, sent, why := k.Kind, fmt.Sprint(k.Sent), k.Why
		for _, became := range slices.Sorted(maps.Keys(k.Became)) {
			status, reason, _ := strings.Cut(became, "/")
			line(name, sent, fmt.Sprintf("%d %s", k.Became[became], say(status)), dash(reason), why)
			name, sent, why = "", "", ""
		}
	}
	_ = t.Flush() // a builder does not fail
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// evidence says what the closing line rests on.
func (r *Result) evidence(b *strings.Builder, p paint) {
	fmt.Fprintf(b, "%d orders took %d requests", r.Sent, r.Requests)
	if r.Replayed > 0 {
		fmt.Fprintf(b, "; %d had been accepted before their answer was lost, and were not taken twice", r.Replayed)
	}
	b.WriteString(".\n")
	fmt.Fprintf(b, "%d of %d keys were sent once more in the end, and named the same order.\n", r.Again, r.Accepted)
	if r.Kill != nil {
		fmt.Fprintf(b, "kill -9 %d met %d orders in flight; started again after %.2f s.\n", r.Kill.PID, r.Kill.InFlight, r.Kill.DownSeconds)
	}
	if r.Verify == nil {
		fmt.Fprintf(b, "The database was not verified: %s.\n", r.NotVerified)
		return
	}
	fmt.Fprintf(b, "verify: %d checks, %s\n", len(r.Verify.Checks), plural(int(r.Verify.Found()), "violation", "violations"))
	wide := 0
	for _, c := range r.Verify.Checks {
		wide = max(wide, len(c.Name))
	}
	for _, c := range r.Verify.Checks {
		mark := p.good("ok     ")
		if c.Found > 0 {
			mark = p.bad("BROKEN ")
		} else if c.Skipped != "" {
			mark = "skipped"
		}
		fmt.Fprintf(b, "  %s  %-*s  %s\n", mark, wide, c.Name, c.Summary)
		for _, v := range c.Violations {
			fmt.Fprintf(b, "           %s: %s (%s)\n", v.ID, v.Detail, v.Rule)
		}
	}
}
