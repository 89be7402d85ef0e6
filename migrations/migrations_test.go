package migrations

import (
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/mainstay-io/mainstay"
)

// TestAll_OfBothDialects holds the files to what the runner relies on.
func TestAll_OfBothDialects(t *testing.T) {
	t.Parallel()
	for _, dialect := range []mainstay.Dialect{mainstay.Postgres, mainstay.SQLite} {
		all := All(dialect)
		for i, m := range all {
			if m.Version != int64(i+1) {
				t.Errorf("%s: %s is number %d in the order", dialect, m.Name, i+1)
			}
			text, err := fs.ReadFile(FS(dialect), m.Name)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasPrefix(string(text), mark) {
				t.Errorf("%s: the first line of %s does not say what it is: %q", dialect, m.Name, mark+"...")
			}
			moves := strings.Contains(string(text), "update compatibility set oldest = ")
			if dialect == mainstay.Postgres && moves != (m.Kind == Contract) {
				t.Errorf("%s is %s, and moves the oldest program that may go on: %v", m.Name, m.Kind, moves)
			}
			if m.Alone && m.Kind == Contract {
				t.Errorf("%s: a contraction and its note in compatibility must be one transaction", m.Name)
			}
			if dialect == mainstay.Postgres && (m.Function != "") != (m.Kind == Backfill) {
				t.Errorf("%s is %s, with the function %q", m.Name, m.Kind, m.Function)
			}
		}
		if Latest(dialect) != all[len(all)-1].Version || Needed(dialect) > Latest(dialect) {
			t.Errorf("%s: latest is %d, needed %d, of %d", dialect, Latest(dialect), Needed(dialect), len(all))
		}
	}
}

func TestParse(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Migration{
		"-- mainstay: expand\n":                           {Kind: Expand},
		"-- mainstay: expand\n-- +goose NO TRANSACTION\n": {Kind: Expand, Alone: true},
		"-- mainstay: backfill fill\n":                    {Kind: Backfill, Function: "fill"},
		"-- mainstay: contract needs 6\n":                 {Kind: Contract, Needs: 6},
	} {
		want.Version, want.Name = 7, "0007_x.sql"
		if got, err := parse("0007_x.sql", text); err != nil || got != want {
			t.Errorf("%q: %+v, error %v; want %+v", text, got, err, want)
		}
	}
	bad := []string{"-- mainstay: contract\n", "-- mainstay: contract needs 7\n", "-- mainstay: shrink\n", "-- mainstay: expand x\n"}
	for text := range slices.Values(bad) {
		if m, err := parse("0007_x.sql", text); err == nil {
			t.Errorf("%q was taken for %+v", text, m)
		}
	}
	if _, err := parse("x.sql", "-- mainstay: expand\n"); err == nil {
		t.Error("a name without a number was accepted")
	}
}
