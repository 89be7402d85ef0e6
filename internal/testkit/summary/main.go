// Command summary reads what `go test -json` prints and shows what a person wants of it: the closing line of each
// package as it ends, the output of what failed, and at the end the skipped tests with their reasons and one line
// of counts. It exits with 1 if something failed or nothing ran, and with -strict also if a test was skipped for
// want of something that the machine could have.
package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
)

func main() {
	strict := flag.Bool("strict", false, "a skipped test is a failure, unless the machine cannot have what it needs")
	flag.Parse()
	s := summary{out: os.Stdout, output: map[test][]string{}, building: map[string][]string{}}
	if err := s.read(os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, "reading the test events:", err)
		os.Exit(1)
	}
	if !s.conclude(*strict) {
		os.Exit(1)
	}
}

// event is one line of `go test -json`.
type event struct {
	Action      string
	ImportPath  string // of build-output and build-fail
	Package     string
	Test        string
	Output      string
	FailedBuild string
}

// test names a test, or with an empty name its package.
type test struct{ pkg, name string }

type skipped struct {
	test
	reason string
}

// summary is what was seen so far.
type summary struct {
	out      io.Writer
	output   map[test][]string // of tests and packages that have not ended
	building map[string][]string
	passed   int
	failed   []test
	skipped  []skipped
}

func (s *summary) read(from io.Reader) error {
	lines := bufio.NewReader(from)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			s.line(line)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// line takes one line in; what is not an event is shown as it is.
func (s *summary) line(line []byte) {
	var e event
	if json.Unmarshal(line, &e) != nil {
		s.print(string(line))
		return
	}
	id := test{e.Package, e.Test}
	switch e.Action {
	case "output":
		s.output[id] = append(s.output[id], e.Output)
	case "build-output":
		s.building[e.ImportPath] = append(s.building[e.ImportPath], e.Output)
	case "pass", "fail", "skip":
		s.ended(id, e)
		delete(s.output, id)
	}
}

func (s *summary) ended(id test, e event) {
	lines := s.output[id]
	switch {
	case e.Action == "fail":
		if id.name != "" || !s.hasFailed(id.pkg) {
			s.failed = append(s.failed, id)
		}
		s.print(s.building[e.FailedBuild]...)
		s.print(lines...)
	case id.name == "":
		s.print(closing(lines)...)
	case e.Action == "skip":
		s.skipped = append(s.skipped, skipped{id, reason(lines)})
	default:
		s.passed++
	}
}

// hasFailed tells whether a test of the package failed, so that the package itself is not counted on top.
func (s *summary) hasFailed(pkg string) bool {
	return slices.ContainsFunc(s.failed, func(t test) bool { return t.pkg == pkg })
}

// closing are the lines with which the runner ends a package that has tests.
func closing(lines []string) []string {
	return slices.DeleteFunc(slices.Clone(lines), func(l string) bool { return !strings.HasPrefix(l, "ok ") })
}

var (
	chatter = regexp.MustCompile(`^\s*(===|---) `)
	place   = regexp.MustCompile(`^\s*\S+\.go:\d+: `)
)

// reason is what a test said before it was skipped.
func reason(lines []string) string {
	var said []string
	for _, line := range lines {
		if !chatter.MatchString(line) {
			said = append(said, strings.TrimSpace(place.ReplaceAllString(line, "")))
		}
	}
	return cmp.Or(strings.Join(said, " "), "no reason given")
}

// excused matches the reasons of tests that this machine cannot run, and of cases of a conformance suite that an
// adapter names as not its own. A missing PostgreSQL is among them because package pgtest itself fails, in CI, where
// it could have been installed.
var excused = regexp.MustCompile(`this machine cannot|no PostgreSQL|not in this adapter's contract`)

// conclude prints the end and tells whether all is well.
func (s *summary) conclude(strict bool) bool {
	s.print("\n")
	avoidable := 0
	for _, t := range s.skipped {
		s.print(fmt.Sprintf("skipped: %s %s: %s\n", t.pkg, t.name, strings.TrimPrefix(t.reason, "skipped: ")))
		if !excused.MatchString(t.reason) {
			avoidable++
		}
	}
	for _, t := range s.failed {
		s.print(strings.TrimSpace("failed: "+t.pkg+" "+t.name) + "\n")
	}
	s.print(fmt.Sprintf("%d passed, %d failed, %d skipped\n", s.passed, len(s.failed), len(s.skipped)))
	switch {
	case len(s.failed) > 0:
		return false
	case s.passed == 0:
		s.print("no test ran\n")
		return false
	case strict && avoidable > 0:
		s.print(fmt.Sprintf("%d tests were skipped that this machine can run\n", avoidable))
		return false
	}
	return true
}

func (s *summary) print(lines ...string) {
	for _, line := range lines {
		_, _ = io.WriteString(s.out, line) // nobody can be told if the terminal is gone
	}
}
