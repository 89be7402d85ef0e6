package main

import (
	"strings"
	"testing"

	"github.com/mainstay-io/mainstay/internal/process/serve"
)

func TestClean_SaysWhatWasRemovedAndWhoKeepsTheRest(t *testing.T) {
	t.Parallel()
	r := runWith(t, every(), nil, "clean")
	want := "TABLE   REMOVED\noutbox  1200\nsaga    3\nold messages stay for consumer reports, for 1h0m0s by now\n"
	if r.code != 0 || r.stdout != want {
		t.Errorf("%d %q %s", r.code, r.stdout, r.stderr)
	}
	r = runWith(t, every(), nil, "clean", "--dry-run", "-o", "json")
	if r.code != 0 || !strings.Contains(r.stdout, `"by": "consumer"`) || !strings.Contains(r.stdout, `"outbox": 1200`) {
		t.Errorf("%d %s %s", r.code, r.stdout, r.stderr)
	}
}

func TestClean_OnADatabaseOfItsOwn(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := every()
	p.clean = serve.Clean
	if r := runWith(t, p, nil, "clean", "--data", dir); r.code != 2 || !strings.Contains(r.stderr, "there is no database") {
		t.Errorf("%d %s", r.code, r.stderr)
	}
}
