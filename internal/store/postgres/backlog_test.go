package postgres

import (
	"strings"
	"testing"

	"github.com/mainstay-io/mainstay/internal/store/storetest"
)

func TestStore_TellsItsBacklog(t *testing.T) {
	t.Parallel()
	storetest.Backlog(t, func(t *testing.T) (storetest.BacklogStore, func()) {
		s := newStore(t)
		l := lead(t, s)
		return s, func() { drain(t, s, l) }
	})
}

// Scraping must stay cheap however much was handled before: nothing that grows is scanned.
func TestBacklog_ScansNothingThatGrows(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	for name, query := range map[string]string{
		"unhandled": backlogUnhandled, "parked": backlogParked, "dead": backlogDead, "sagas": backlogSagas,
	} {
		plan := explain(t, s.db, query)
		for line := range strings.Lines(plan) {
			if strings.Contains(line, "Seq Scan on") {
				t.Errorf("%s: %s in the plan:\n%s", name, strings.TrimSpace(line), plan)
			}
		}
	}
}
