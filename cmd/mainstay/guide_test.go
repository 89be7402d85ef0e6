package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestGuide_NamesEveryEnd wants the guide to say how each end is reached, and what it is.
func TestGuide_NamesEveryEnd(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/guides/how-orders-end.md")
	if err != nil {
		t.Fatal(err)
	}
	titles := map[string]string{"confirmed": "Confirmed", "cancelled": "Cancelled", "needs_operator": "Needs an operator"}
	for _, end := range ends() {
		status, code, _ := strings.Cut(end.want, " ")
		_, section, _ := strings.Cut(string(text), "\n## "+titles[status]+"\n")
		section, _, _ = strings.Cut(section, "\n## ")
		order := fmt.Sprintf("| `order %s %s %s`", end.token, end.sku, end.country)
		_, row, found := strings.Cut(section, order)
		row, _, _ = strings.Cut(row, "\n")
		if !found || status == "cancelled" && !strings.Contains(row, "`"+code+"`") {
			t.Errorf("the guide does not say under %q that %s` ends as %s", titles[status], order, end.want)
		}
	}
}
