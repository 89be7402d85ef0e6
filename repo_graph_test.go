package mainstay_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
)

const modulePath = "github.com/mainstay-io/mainstay"

// graph has the direct imports of each package. Packages of this module are named from its root ("." and
// "./internal/clock"), all others by their import path.
type graph map[string][]string

// listed is what `go list -json` says of a package.
type listed struct {
	ImportPath string
	Name       string
	Doc        string
	Standard   bool
	Imports    []string
}

// packages lists this module's packages and everything that they import, tests left out.
var packages = sync.OnceValues(func() ([]listed, error) {
	cmd := exec.Command("go", "list", "-deps", "-json=ImportPath,Name,Doc,Standard,Imports", "./...")
	var failure strings.Builder
	cmd.Stderr = &failure
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", cmd, err, failure.String())
	}
	var all []listed
	for decoder := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, fmt.Errorf("reading the list of packages: %w", err)
		}
		all = append(all, p)
	}
})

func modulePackages(t *testing.T) []listed {
	t.Helper()
	all, err := packages()
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(slices.Clone(all), func(p listed) bool { return !ours(short(p.ImportPath)) })
}

func moduleGraph(t *testing.T) graph {
	t.Helper()
	all, err := packages()
	if err != nil {
		t.Fatal(err)
	}
	g := graph{}
	for _, p := range all {
		imports := []string{}
		for _, i := range p.Imports {
			imports = append(imports, short(i))
		}
		g[short(p.ImportPath)] = imports
	}
	return g
}

func short(path string) string {
	if path == modulePath {
		return "."
	}
	if rest, ok := strings.CutPrefix(path, modulePath+"/"); ok {
		return "./" + rest
	}
	return path
}

func ours(path string) bool { return path == "." || strings.HasPrefix(path, "./") }

// standard tells packages of the standard library: their first element has no dot.
func standard(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return !strings.Contains(first, ".")
}

// matches tells whether one of the patterns names the package: by its path, or "x/..." for x and all below it.
func matches(path string, patterns ...string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		tree, isTree := strings.CutSuffix(pattern, "/...")
		return path == tree || isTree && strings.HasPrefix(path, tree+"/")
	})
}

// testOnly tells packages that exist for tests, which may import what they like.
func testOnly(path string) bool {
	return ours(path) && (matches(path, "./internal/testkit/...") || strings.HasSuffix(path, "test"))
}

// production gives this module's packages that end up in binaries, sorted.
func (g graph) production() []string {
	paths := slices.Collect(maps.Keys(g))
	paths = slices.DeleteFunc(paths, func(p string) bool { return !ours(p) || testOnly(p) })
	slices.Sort(paths)
	return paths
}

// reached gives everything that path imports, directly or not.
func (g graph) reached(path string) map[string]bool {
	seen := map[string]bool{}
	for todo := slices.Clone(g[path]); len(todo) > 0; {
		next := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if !seen[next] {
			seen[next] = true
			todo = append(todo, g[next]...)
		}
	}
	return seen
}

// check finds what is wrong with a graph: one line for each violation.
type check func(graph) []string

// importsOnly allows the packages in from to import the standard library, what is in their own unit, and what is
// allowed; nothing else.
func importsOnly(from []string, allowed ...string) check {
	return func(g graph) (violations []string) {
		for _, path := range g.production() {
			if !matches(path, from...) {
				continue
			}
			for _, imported := range g[path] {
				if !standard(imported) && !matches(imported, allowed...) && !sameTree(path, imported) {
					violations = append(violations, path+" imports "+imported)
				}
			}
		}
		return violations
	}
}

// importedOnlyBy allows only the packages in by to import what the pattern names. What the pattern names may import
// its own.
func importedOnlyBy(pattern string, by ...string) check {
	return func(g graph) (violations []string) {
		for _, path := range g.production() {
			if matches(path, by...) || matches(path, pattern) {
				continue
			}
			for _, imported := range g[path] {
				if matches(imported, pattern) {
					violations = append(violations, path+" imports "+imported)
				}
			}
		}
		return violations
	}
}

// linkedOnlyInto allows what the pattern names only in the packages in by, through however many others.
func linkedOnlyInto(pattern string, by ...string) check {
	return func(g graph) (violations []string) {
		for _, path := range g.production() {
			if matches(path, by...) {
				continue
			}
			for imported := range g.reached(path) {
				if matches(imported, pattern) {
					violations = append(violations, path+" is linked with "+imported)
				}
			}
		}
		return violations
	}
}

// neverFromProduction keeps packages for tests out of binaries.
func neverFromProduction(g graph) (violations []string) {
	for _, path := range g.production() {
		for _, imported := range g[path] {
			if testOnly(imported) || imported == "testing" {
				violations = append(violations, path+" imports "+imported)
			}
		}
	}
	return violations
}

// sameTree tells whether the two share the folder that is a unit of its own: ./internal/x, ./cmd/x or ./x.
func sameTree(a, b string) bool { return ours(b) && unit(a) == unit(b) }

func unit(path string) string {
	parts := strings.Split(path, "/")
	depth := 2
	if len(parts) > 1 && (parts[1] == "internal" || parts[1] == "cmd") {
		depth = 3
	}
	return strings.Join(parts[:min(depth, len(parts))], "/")
}

// oneWay lets a package import those of lower layers and of its own unit. Every package has to be in a layer.
func oneWay(layers []layer) check {
	return func(g graph) (violations []string) {
		for _, path := range g.production() {
			from := layerOf(layers, path)
			if from < 0 {
				violations = append(violations, path+" is in no layer: decide where it belongs")
				continue
			}
			for _, imported := range g[path] {
				if !ours(imported) || testOnly(imported) || sameTree(path, imported) {
					continue
				}
				if to := layerOf(layers, imported); to >= from {
					violations = append(violations, fmt.Sprintf("%s (%s) imports %s (%s)",
						path, layers[from].name, imported, layers[to].name))
				}
			}
		}
		return violations
	}
}

// layer is a group of packages that do not know each other.
type layer struct {
	name     string
	packages []string
}

// layerOf gives the layer whose pattern names the package most exactly, -1 if none does.
func layerOf(layers []layer, path string) int {
	best, length := -1, -1
	for i, l := range layers {
		for _, pattern := range l.packages {
			if matches(path, pattern) && len(pattern) > length {
				best, length = i, len(pattern)
			}
			if pattern == path {
				return i
			}
		}
	}
	return best
}
