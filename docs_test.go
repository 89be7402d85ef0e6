package mainstay_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	decisionFile   = regexp.MustCompile(`^docs/adr/(\d{4})-[a-z0-9-]+\.md$`)
	decisionTitle  = regexp.MustCompile(`^# (\d{4})(?::| —) (.+)\n`)
	decisionDate   = regexp.MustCompile(`(?m)^Date: \d{4}-\d{2}-\d{2}\b`)
	decisionStatus = regexp.MustCompile(`\bStatus: (\w+)`)
	goBlock        = regexp.MustCompile("(?s)```go\n(.*?)```")
)

// decision is what the index says of a record.
type decision struct{ number, title, status string }

// TestDecisions wants every record of a decision to be complete, and in the index as it is.
func TestDecisions(t *testing.T) {
	t.Parallel()
	index := read(t, "docs/adr/README.md")
	listed := 0
	files := filesNamed(t, regexp.MustCompile(`^docs/adr/[^/]+\.md$`))
	for _, file := range files {
		if file == "docs/adr/README.md" {
			continue
		}
		d, err := parseDecision(file, read(t, file))
		if err != nil {
			t.Error(err)
			continue
		}
		listed++
		if line := fmt.Sprintf("| %s | [%s](%s) | %s |\n", d.number, d.title, filepath.Base(file), d.status); !strings.Contains(index, line) {
			t.Errorf("docs/adr/README.md has no line %s", line)
		}
	}
	if rows := len(regexp.MustCompile(`(?m)^\| \d{4} \|`).FindAllString(index, -1)); rows != listed {
		t.Errorf("docs/adr/README.md lists %d decisions; there are %d", rows, listed)
	}
}

func TestParseDecision_RefusesWhatIsIncomplete(t *testing.T) {
	t.Parallel()
	const whole = "# 0001: A\n\nDate: 2026-01-01\nStatus: accepted\n\n## Context\n## Decision\n## Consequences\n## Alternatives\n"
	if _, err := parseDecision("docs/adr/0001-outbox-is-the-log.md", whole); err != nil {
		t.Errorf("a whole record: %v", err)
	}
	for name, text := range map[string]string{
		"another number":    strings.Replace(whole, "0001", "0002", 1),
		"no date":           strings.Replace(whole, "Date: 2026-01-01", "", 1),
		"an unknown status": strings.Replace(whole, "accepted", "fine", 1),
		"no alternatives":   strings.Replace(whole, "## Alternatives", "", 1),
	} {
		if _, err := parseDecision("docs/adr/0001-outbox-is-the-log.md", text); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// parseDecision reads a record; the error says what is missing.
func parseDecision(file, text string) (decision, error) {
	name, title, status := decisionFile.FindStringSubmatch(file), decisionTitle.FindStringSubmatch(text), decisionStatus.FindStringSubmatch(text)
	switch {
	case name == nil:
		return decision{}, fmt.Errorf("%s is not named NNNN-title.md", file)
	case title == nil || title[1] != name[1]:
		return decision{}, fmt.Errorf("%s does not begin with # %s: and a title", file, name[1])
	case !decisionDate.MatchString(text):
		return decision{}, fmt.Errorf("%s has no Date: YYYY-MM-DD", file)
	case status == nil || !slices.Contains([]string{"proposed", "accepted", "superseded", "deprecated"}, status[1]):
		return decision{}, fmt.Errorf("%s has no known Status", file)
	}
	for _, section := range []string{"Context", "Decision", "Consequences", "Alternatives"} {
		if !strings.Contains(text, "\n## "+section+"\n") {
			return decision{}, fmt.Errorf("%s has no section %s", file, section)
		}
	}
	return decision{name[1], title[2], status[1]}, nil
}

// TestStateMachines_NamesEveryState wants each value that a column of a state may have in the document.
func TestStateMachines_NamesEveryState(t *testing.T) {
	t.Parallel()
	text := read(t, "docs/state-machines.md")
	known := regexp.MustCompile(`constraint (?:orders|saga|parked|dead_letter|barrier)_(?:status|state|op|outcome)_known\s+check \(\w+ in \(([^)]+)\)`)
	found := 0
	for _, file := range filesNamed(t, regexp.MustCompile(`^migrations/.*\.sql$`)) {
		for _, values := range known.FindAllStringSubmatch(read(t, file), -1) {
			found++
			for _, quoted := range strings.Split(values[1], ", ") {
				if value := strings.Trim(quoted, "'"); !regexp.MustCompile(`\b` + value + `\b`).MatchString(text) {
					t.Errorf("docs/state-machines.md does not name %s, which %s allows", value, file)
				}
			}
		}
	}
	if found != 14 {
		t.Errorf("found %d columns of states, want 6 on each of 2 databases, and one that SQLite has written anew twice", found)
	}
}

// TestArchitecture_ListsEveryPackage wants a line of the table of files for each package, or for a folder that it is in.
func TestArchitecture_ListsEveryPackage(t *testing.T) {
	t.Parallel()
	_, table, _ := strings.Cut(read(t, "docs/architecture.md"), "\n## Files\n")
	table, _, _ = strings.Cut(table, "\n## ")
	for _, p := range modulePackages(t) {
		dir := strings.TrimPrefix(short(p.ImportPath), "./")
		listed := strings.Contains(table, "`"+dir+"`")
		for parent := filepath.Dir(dir); parent != "." && !listed; parent = filepath.Dir(parent) {
			listed = strings.Contains(table, "`"+parent+"`")
		}
		if !listed {
			t.Errorf("docs/architecture.md has no line for %s", dir)
		}
	}
}

// TestRetention_NamesEveryTable wants every table of both schemas, and of the payment sandbox, to have a line that says
// when its rows go or why they stay, and no line without a table.
func TestRetention_NamesEveryTable(t *testing.T) {
	t.Parallel()
	made := regexp.MustCompile(`(?m)^create table (?:if not exists )?([a-z_.]+) \(`)
	renamed := regexp.MustCompile(`(?m)^alter table ([a-z_.]+) rename to ([a-z_.]+);`)
	tables := map[string]bool{"goose_db_version": true} // the migration tool's own
	for _, file := range filesNamed(t, regexp.MustCompile(`^(migrations/(postgres|sqlite)/.*|internal/payment/sandbox/schema_(postgres|sqlite))\.sql$`)) {
		for _, m := range made.FindAllStringSubmatch(read(t, file), -1) {
			name := m[1]
			if strings.HasPrefix(file, "internal/payment/sandbox/") {
				name = "sandbox." + strings.TrimPrefix(name, "sandbox.")
			}
			tables[name] = true
		}
		for _, m := range renamed.FindAllStringSubmatch(read(t, file), -1) {
			delete(tables, m[1])
			tables[m[2]] = true
		}
	}
	if len(tables) < 25 {
		t.Fatalf("only %d tables were found", len(tables))
	}
	_, text, _ := strings.Cut(read(t, "docs/guides/retention.md"), "## The tables\n")
	text, _, _ = strings.Cut(text, "\n## ")
	for line := range strings.Lines(text) {
		cells := strings.Split(line, "|")
		if len(cells) < 4 {
			continue
		}
		for _, m := range regexp.MustCompile("`([a-z_.]+)`").FindAllStringSubmatch(cells[1], -1) {
			if !tables[m[1]] {
				t.Errorf("docs/guides/retention.md names %s, which is no table", m[1])
			}
			delete(tables, m[1])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(tables)) {
		t.Errorf("docs/guides/retention.md does not say for how long rows of %s stay", name)
	}
}

// TestDocs_GoCodeIsCompiled wants every Go block of a document to stand in a Go file of this module, letter for letter
// but for the indentation: what is read there was compiled, and run where it is an example.
func TestDocs_GoCodeIsCompiled(t *testing.T) {
	t.Parallel()
	sources := map[string]string{}
	for _, file := range filesNamed(t, regexp.MustCompile(`\.go$`)) {
		if file != "docs_test.go" {
			sources[file] = flush(read(t, file))
		}
	}
	for _, file := range filesNamed(t, regexp.MustCompile(`\.md$`)) {
		for _, block := range goBlock.FindAllStringSubmatch(read(t, file), -1) {
			if !compiled(block[1], sources) {
				t.Errorf("%s shows code that stands in no Go file:\n%s", file, block[1])
			}
		}
	}
	if compiled("func nobody() {}", sources) {
		t.Error("code that stands nowhere is taken for compiled")
	}
}

func compiled(block string, sources map[string]string) bool {
	for source := range maps.Values(sources) {
		if strings.Contains(source, flush(block)) {
			return true
		}
	}
	return false
}

// flush is a text without its indentation.
func flush(text string) string {
	lines := strings.Split(strings.Trim(text, "\n"), "\n")
	for i := range lines {
		lines[i] = strings.TrimLeft(lines[i], "\t ")
	}
	return strings.Join(lines, "\n")
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestFaults_NamesTests: what is said to be broken on purpose is, and of three processes nothing is left out.
func TestFaults_NamesTests(t *testing.T) {
	t.Parallel()
	guide := read(t, "docs/guides/faults.md")
	declared := regexp.MustCompile(`(?m)^func (Test\w+)\(t \*testing\.T\)`)
	var tests []string
	for _, file := range filesNamed(t, regexp.MustCompile(`_test\.go$`)) {
		for _, m := range declared.FindAllStringSubmatch(read(t, file), -1) {
			tests = append(tests, m[1])
			if strings.HasPrefix(m[1], "TestProcesses_") && !strings.Contains(guide, "`"+m[1]+"`") {
				t.Errorf("docs/guides/faults.md does not name %s", m[1])
			}
		}
	}
	for _, m := range regexp.MustCompile("`(Test\\w+)`").FindAllStringSubmatch(guide, -1) {
		if !slices.Contains(tests, m[1]) {
			t.Errorf("docs/guides/faults.md names %s, which is no test", m[1])
		}
	}
}
