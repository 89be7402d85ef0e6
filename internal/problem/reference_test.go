package problem_test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mainstay-io/mainstay/internal/problem"
)

// With -update the reference page is written instead of compared.
var update = flag.Bool("update", false, "write the reference page")

func TestReference_IsCurrent(t *testing.T) {
	t.Parallel()
	const path = "../../docs/reference/problems.md"
	page := problemsPage()
	if *update {
		if err := os.WriteFile(path, []byte(page), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != page {
		t.Errorf("%s is not what the code says (%v); run: go test ./internal/problem -run Reference -update", path, err)
	}
}

func TestMeanings_AreThoseOfAllCodes(t *testing.T) {
	t.Parallel()
	var got []problem.Code
	for _, m := range problem.Meanings() {
		got = append(got, m.Code)
		if m.When == "" || m.Do == "" {
			t.Errorf("%s is not explained", m.Code)
		}
	}
	if diff := cmp.Diff(problem.Codes(), got); diff != "" {
		t.Errorf("(-codes +meanings):\n%s", diff)
	}
}

func problemsPage() string {
	var b strings.Builder
	b.WriteString(`# Problems

<!-- Generated from internal/problem: go test ./internal/problem -run Reference -update -->

Whatever goes wrong over HTTP is answered with a problem document (RFC 9457, ` + "`application/problem+json`" + `). Its ` + "`code`" + `
is stable, and so is ` + "`type`" + `, which is made of it: programs decide by these, ` + "`detail`" + ` is for people. With ` + "`retry_after`" + `,
in seconds and also the header Retry-After, the same request may succeed later. Of a command's problems see
[exit codes](exit-codes.md).

`)
	for _, m := range problem.Meanings() {
		fmt.Fprintf(&b, "## %s\n\n%d, “%s”. %s\n\n%s\n\n", m.Code, m.Code.Status(), m.Code.Title(), m.When, m.Do)
	}
	return strings.TrimSpace(b.String()) + "\n"
}
