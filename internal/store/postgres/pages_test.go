package postgres

import (
	"testing"
)

// pagesOf answers with how many pages each statement has looked at in a call while do ran, by its tag. The server has
// pg_stat_statements.
func pagesOf(t *testing.T, url string, do func()) map[string]float64 {
	t.Helper()
	p := pool(t, url)
	for _, statement := range []string{"create extension if not exists pg_stat_statements", "select pg_stat_statements_reset()"} {
		if _, err := p.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	do()
	const query = `select substring(query from '^/\* ([a-z_.]+) \*/') as tag, (sum(shared_blks_hit + shared_blks_read) / sum(calls))::float8
from pg_stat_statements where query ~ '^/\* [a-z_.]+ \*/' group by tag`
	rows, err := p.Query(t.Context(), query)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	pages := map[string]float64{}
	for rows.Next() {
		var tag string
		var n float64
		if err := rows.Scan(&tag, &n); err != nil {
			t.Fatal(err)
		}
		pages[tag] = n
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return pages
}
