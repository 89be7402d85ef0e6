package postgres

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jmoiron/sqlx"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/outbox"
)

// The hot statements look up keys in an index, on empty tables that were never analysed too.
func TestPlans_LookUpKeys(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	insert := outbox.PostgresInsert([]*mainstay.Message{message("orders", "k")})
	for name, test := range map[string]struct {
		db    *sqlx.DB
		query string
	}{
		"append":      {s.db, insert.SQL},
		"lease check": {s.db, checkLeases},
		"lease, era":  {s.db, checkLeasesInEra},
		"lease renew": {s.db, renewQuery},
		"positions":   {s.db, readPositions},
		"outbox":      {s.db, readOutboxQuery},
		"places":      {s.db, placesQuery},
		"move":        {s.db, moveQuery},
		"park":        {s.db, parkQuery},
		"repark":      {s.db, reparkQuery},
		"unpark":      {s.db, unparkQuery},
		"load parked": {s.db, loadParkedQuery},
		"end":         {s.db, endDeadLetterQuery},
		"barriers":    {s.db, barriersQuery},
		"load sagas":  {s.db, loadSagas},
		"save sagas":  {s.db, saveSagas},
		"due sagas":   {s.db, dueSagas},
		"urgent":      {s.db, urgentSagas},
		"existing":    {s.db, existingQuery},
		"progress":    {s.db, saveProgressQuery},
		"fresh round": {s.seqDB, roundFresh + roundGuard + roundNumber + roundAnswer},
		"late round":  {s.seqDB, roundFresh + roundUnderWay + roundGuard + roundNumber + roundAnswer},
		"whole round": {s.seqDB, roundFresh + roundGuard + roundNumber + roundWhole},
		"late, whole": {s.seqDB, roundFresh + roundUnderWay + roundGuard + roundNumber + roundWhole},
		"large round": {s.seqDB, noteLarge},
		"chunk":       {s.seqDB, roundChunk + roundNumber + roundAnswer},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			plan := explain(t, test.db, test.query)
			bads := []string{"Seq Scan on"}
			if test.db == s.db { // a round joins what it has just made
				bads = append(bads, "Hash Join", "Merge Join")
			}
			for _, bad := range bads {
				for line := range strings.Lines(plan) {
					if strings.Contains(line, bad) && !strings.Contains(line, "sequencer_state") {
						t.Errorf("%s in the plan:\n%s", bad, plan)
					}
				}
			}
		})
	}
}

// The table of what is parked is empty nearly always, and analysed when it is: a plan that begins with it reads every row
// that was there since the last vacuum, for each that is looked up.
func TestPlans_LookUpParkedByTheWholeKey(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	if _, err := s.db.ExecContext(t.Context(), "vacuum analyze parked"); err != nil {
		t.Fatal(err)
	}
	for name, query := range map[string]string{"unpark": unparkQuery, "repark": reparkQuery, "load": loadParkedQuery} {
		if plan := explain(t, s.db, query); !strings.Contains(plan, "(sequence = r.sequence)") {
			t.Errorf("%s does not look a row up:\n%s", name, plan)
		}
	}
}

// explain gives the plan for any arguments.
func explain(t *testing.T, db *sqlx.DB, query string) string {
	t.Helper()
	conn, err := db.Connx(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close() // it goes back to the pool
	for _, step := range []string{"set plan_cache_mode = force_generic_plan", "prepare hot as " + query} {
		if _, err := conn.ExecContext(t.Context(), step); err != nil {
			t.Fatal(err)
		}
	}
	defer conn.ExecContext(t.Context(), "deallocate hot") // the database is dropped anyway
	var args int
	const count = "select cardinality(parameter_types) from pg_prepared_statements where name = 'hot'"
	if err := conn.GetContext(t.Context(), &args, count); err != nil {
		t.Fatal(err)
	}
	execute := "explain (costs off) execute hot"
	if args > 0 {
		execute += fmt.Sprintf("(%s)", strings.TrimSuffix(strings.Repeat("null, ", args), ", "))
	}
	var lines []string
	if err := conn.SelectContext(t.Context(), &lines, execute); err != nil {
		t.Fatal(err)
	}
	return strings.Join(lines, "\n")
}
