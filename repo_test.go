package mainstay_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// layers are the import arrows: each package may import those of the layers above it in this list.
var layers = []layer{
	{"vocabulary", []string{"."}},
	{"leaves", []string{"./internal/clock", "./internal/problem", "./internal/history", "./internal/retry", "./migrations", "./api"}},
	{"contracts", []string{"./internal/broker", "./internal/lease"}},
	{"public packages", []string{"./outbox", "./inbox", "./saga"}},
	{"machinery", []string{
		"./internal/sequencer", "./internal/relay", "./internal/lane", "./internal/orchestrator", "./internal/ingest",
		"./internal/deadletter", "./internal/retention",
	}},
	{"engine", []string{"./worker", "./pubsub"}},
	{"business", []string{
		"./internal/order/...", "./internal/inventory/...", "./internal/payment/...", "./internal/logistics/...",
	}},
	{"support", []string{"./internal/app", "./internal/obs"}},
	{"adapters", []string{
		"./internal/broker/...", "./internal/store/...", "./internal/migrate", "./internal/client", "./internal/operator",
		"./internal/verify",
	}},
	{"load", []string{"./internal/bench"}},
	{"processes", []string{"./internal/process/...", "./internal/demo"}},
	{"commands", []string{"./cmd/..."}},
}

// rule is something that must stay true of the imports.
type rule struct {
	name   string
	reason string
	check  check
	broken graph // must be refused, which proves that the rule can fail
}

var (
	business = []string{
		"./internal/order/...", "./internal/inventory/...", "./internal/payment/...", "./internal/logistics/...",
	}
	public = []string{"./outbox/...", "./inbox/...", "./saga/...", "./worker/...", "./pubsub/..."}
)

var rules = []rule{
	{
		name:   "arrows point one way",
		reason: "a part can be read, tested and replaced without those that use it, and a new package has its place",
		check:  oneWay(layers),
		broken: graph{"./internal/relay": {"./internal/store/postgres"}, "./internal/store/postgres": {}},
	},
	{
		name:   "machinery knows no other machinery",
		reason: "what it needs of another part it declares as an interface, and the process joins the two",
		check:  oneWay(layers),
		broken: graph{"./internal/relay": {"./internal/sequencer"}, "./internal/sequencer": {}},
	},
	{
		name:   "every package has its place",
		reason: "a folder that is in no layer could import anything",
		check:  oneWay(layers),
		broken: graph{"./internal/misc": {}},
	},
	{
		name:   "the vocabulary needs nothing",
		reason: "whoever imports it to write a handler gets no other module with it",
		check:  importsOnly([]string{"."}),
		broken: graph{".": {"github.com/google/uuid"}},
	},
	{
		name: "public packages are light and stand alone",
		reason: "services import them into their own binaries; uuid is allowed because message ids are version 7, " +
			"which the standard library does not make",
		check:  importsOnly([]string{"./outbox/...", "./inbox/...", "./saga/..."}, ".", "./outbox", "github.com/google/uuid"),
		broken: graph{"./outbox": {"./internal/clock"}},
	},
	{
		name:   "no database library in the public packages",
		reason: "they work in the caller's transaction, whatever library it comes from",
		check:  importsOnly([]string{"./outbox/...", "./inbox/...", "./saga/..."}, ".", "./outbox", "github.com/google/uuid"),
		broken: graph{"./inbox": {"github.com/jmoiron/sqlx"}},
	},
	{
		name:   "the business does what an outsider can do",
		reason: "if orders need an inside of the machinery, so would every other team's service",
		check:  businessIsPublic,
		broken: graph{"./internal/order": {"./internal/orchestrator"}, "./internal/orchestrator": {}},
	},
	{
		name:   "contexts do not know each other",
		reason: "they speak through commands, replies and events, so that each could be somebody else's service",
		check:  businessIsPublic,
		broken: graph{"./internal/payment": {"./internal/inventory"}, "./internal/inventory": {}},
	},
	{
		name:   "the backbone knows no orders",
		reason: "it carries what it does not know",
		check:  importedOnlyBy("./internal/order/...", "./internal/process/...", "./internal/operator", "./internal/verify"),
		broken: graph{"./internal/store/sqlite": {"./internal/order"}},
	},
	{
		name:   "only the embedded server is linked with nats-server",
		reason: "it weighs more than the rest together; the processes that scale out talk to a server of their own",
		check: linkedOnlyInto("github.com/nats-io/nats-server/v2/...",
			"./internal/broker/natsembed", "./internal/process/serve", "./internal/process/benchmark", "./cmd/mainstay"),
		broken: graph{
			"./cmd/outbox": {"./internal/broker/natsembed"}, "./internal/broker/natsembed": {"github.com/nats-io/nats-server/v2/server"},
		},
	},
	{
		name:   "nats-server has one door",
		reason: "its configuration decides durability and is made in one place",
		check:  importedOnlyBy("github.com/nats-io/nats-server/v2/...", "./internal/broker/natsembed"),
		broken: graph{"./internal/process/serve": {"github.com/nats-io/nats-server/v2/server"}},
	},
	{
		name:   "only the all-in-one binary is linked with SQLite",
		reason: "the processes that scale out share a PostgreSQL; SQLite would be megabytes that they never use",
		check: linkedOnlyInto("modernc.org/sqlite/...", "./internal/store/sqlite", "./internal/process/serve",
			"./internal/process/benchmark", "./cmd/mainstay"),
		broken: graph{
			"./internal/process/worker": {"./internal/store/sqlite"}, "./internal/store/sqlite": {"modernc.org/sqlite"},
		},
	},
	{
		name:   "one package opens SQLite",
		reason: "there is one writer, and the pragmas that make it durable are set in one place",
		check:  importedOnlyBy("modernc.org/sqlite/...", "./internal/store/sqlite"),
		broken: graph{"./cmd/mainstay": {"modernc.org/sqlite"}},
	},
	{
		name:   "cobra stays in the command line of mainstay",
		reason: "the other binaries take a handful of flags",
		check:  linkedOnlyInto("github.com/spf13/cobra/...", "./cmd/mainstay/..."),
		broken: graph{"./internal/app": {"github.com/spf13/cobra"}},
	},
	{
		name: "the migration tool stays where migrations are run",
		reason: "a process that serves must not be able to change the schema; serve may, on the directory that it has just " +
			"made, and is linked into mainstay only",
		check: linkedOnlyInto("github.com/pressly/goose/v3/...", "./internal/migrate", "./internal/process/serve",
			"./internal/process/benchmark", "./cmd/mainstay"),
		broken: graph{"./cmd/ingest": {"./internal/migrate"}, "./internal/migrate": {"github.com/pressly/goose/v3"}},
	},
	{
		name:   "only the NATS adapter sees the NATS client",
		reason: "the contract is internal/broker, and another broker is another adapter",
		check:  importedOnlyBy("github.com/nats-io/nats.go/...", "./internal/broker/natsbroker", "./internal/broker/natsembed"),
		broken: graph{"./internal/relay": {"github.com/nats-io/nats.go/jetstream"}},
	},
	{
		name:   "ingest needs no broker",
		reason: "it accepts orders while every broker is away, so it must not even be able to wait for one",
		check: linkedOnlyInto("github.com/nats-io/nats.go/...", "./internal/broker/natsbroker", "./internal/broker/natsembed",
			"./internal/process/carrier", "./internal/process/outbox", "./internal/process/worker", "./internal/process/serve",
			"./internal/process/benchmark", "./internal/demo", "./cmd/outbox", "./cmd/worker", "./cmd/mainstay"),
		broken: graph{
			"./cmd/ingest": {"./internal/process/ingest"}, "./internal/process/ingest": {"./internal/broker/natsbroker"},
			"./internal/broker/natsbroker": {"github.com/nats-io/nats.go"},
		},
	},
	{
		name:   "only the Kafka adapter sees the Kafka client",
		reason: "its defaults lose messages silently; they are put right in one place",
		check:  importedOnlyBy("github.com/segmentio/kafka-go/...", "./internal/broker/kafkabroker"),
		broken: graph{"./internal/process/outbox": {"github.com/segmentio/kafka-go"}},
	},
	{
		name:   "only the PostgreSQL adapters see pgx",
		reason: "errors, pipelining and pool settings of the vendor are translated in one place; the gateway pipelines its own books",
		check:  importedOnlyBy("github.com/jackc/pgx/v5/...", "./internal/store/...", "./internal/migrate", "./internal/payment/sandbox"),
		broken: graph{"./internal/inventory": {"github.com/jackc/pgx/v5"}},
	},
	{
		name:   "only the stores see sqlx",
		reason: "it scans rows; one package makes it replaceable",
		check:  importedOnlyBy("github.com/jmoiron/sqlx/...", "./internal/store/...", "./internal/migrate"),
		broken: graph{"./internal/payment": {"github.com/jmoiron/sqlx"}},
	},
	{
		name:   "watermill stays in pubsub",
		reason: "its users get its interfaces; nobody else pays for them",
		check:  linkedOnlyInto("github.com/ThreeDotsLabs/watermill/...", "./pubsub"),
		broken: graph{"./worker": {"github.com/ThreeDotsLabs/watermill/message"}},
	},
	{
		name:   "exporters of traces are chosen by the processes",
		reason: "a library that exports decides for its user",
		check:  importedOnlyBy("go.opentelemetry.io/otel/exporters/...", "./internal/process/..."),
		broken: graph{"./internal/obs": {"go.opentelemetry.io/otel/exporters/otlp"}},
	},
	{
		name:   "tests' helpers stay in tests",
		reason: "they start servers and kill processes",
		check:  neverFromProduction,
		broken: graph{"./cmd/mainstay": {"./internal/testkit/proc"}},
	},
	{
		name:   "no binary knows the testing package",
		reason: "it registers flags and changes how the program behaves",
		check:  neverFromProduction,
		broken: graph{"./internal/app": {"testing"}},
	},
}

// businessIsPublic allows a context this module's public packages, its own and the leaves; other modules are the
// business of other rules.
func businessIsPublic(g graph) []string {
	allowed := append([]string{".", "./internal/clock", "./internal/problem"}, public...)
	return slices.DeleteFunc(importsOnly(business, allowed...)(g), func(violation string) bool {
		return !strings.Contains(violation, " imports ./")
	})
}

func TestImports(t *testing.T) {
	t.Parallel()
	g := moduleGraph(t)
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			if len(r.check(r.broken)) == 0 {
				t.Error("the rule accepts what it is there to refuse")
			}
			for _, violation := range r.check(g) {
				t.Errorf("%s\n\tbecause %s", violation, r.reason)
			}
		})
	}
}

func TestPackages_AreNamedForWhatTheyDoAndSaySo(t *testing.T) {
	t.Parallel()
	for _, p := range modulePackages(t) {
		for _, fault := range packageFaults(p) {
			t.Errorf("%s %s", short(p.ImportPath), fault)
		}
	}
	if len(packageFaults(listed{Name: "util"})) != 2 {
		t.Error("a package util without a comment is accepted")
	}
}

// packageFaults tells what is wrong with a package's name and comment.
func packageFaults(p listed) (faults []string) {
	vague := []string{"base", "common", "helper", "helpers", "lib", "misc", "models", "pkg", "shared", "types", "util", "utils"}
	if slices.Contains(vague, p.Name) {
		faults = append(faults, "has a name that says nothing")
	}
	if p.Doc == "" {
		faults = append(faults, "has no package comment")
	}
	return faults
}

// spawners are the packages with go statements. Elsewhere a sync.WaitGroup.Go or an errgroup says who waits.
var spawners = map[string]string{
	"internal/app":         "the group that owns a process's services",
	"internal/lane":        "the pool that runs handlers",
	"internal/broker/...":  "adapters wait for vendors that call back",
	"internal/testkit/...": "processes under test are waited for",
}

// sourceRule is something that must not stand in the code.
type sourceRule struct {
	name   string
	reason string
	finds  func(ast.Node) bool
	exempt func(file string) bool
	broken string // the body of a function that must be refused
	fine   string // and one that must not
}

var sourceRules = []sourceRule{
	{
		name:   "goroutines have an owner",
		reason: "use sync.WaitGroup.Go or an errgroup, or give the package its place in spawners",
		finds:  func(n ast.Node) bool { _, ok := n.(*ast.GoStmt); return ok },
		exempt: func(file string) bool { return isTest(file) || maySpawn(file) },
		broken: "go println()",
		fine:   "var wg sync.WaitGroup; wg.Go(f)",
	},
	{
		name:   "one package reads the clock",
		reason: "use internal/clock, so that a test can set the time",
		finds:  func(n ast.Node) bool { return isSelector(n, "time", "Now") || isSelector(n, "time", "Since") },
		exempt: func(file string) bool {
			return isTest(file) || inTree(file, "internal/clock") || inTree(file, "internal/testkit")
		},
		broken: "_ = time.Now()",
		fine:   "_ = clock.Now() + timer.Since(x)",
	},
	{
		name:   "nothing sleeps",
		reason: "wait for a condition, a signal or a timer together with the context; in a synctest bubble it is allowed",
		finds:  func(n ast.Node) bool { return isSelector(n, "time", "Sleep") },
		exempt: func(string) bool { return false },
		broken: "time.Sleep(1)",
		fine:   "synctest.Test(t, func(t *testing.T) { time.Sleep(1) })",
	},
	{
		name:   "nothing runs before main",
		reason: "what a package does when it is imported, nobody can undo, order or test",
		finds: func(n ast.Node) bool {
			f, ok := n.(*ast.FuncDecl)
			return ok && f.Recv == nil && f.Name.Name == "init"
		},
		exempt: func(string) bool { return false },
		broken: "}\nfunc init() {",
		fine:   "initialise()",
	},
}

func TestSource(t *testing.T) {
	t.Parallel()
	files := map[string]*ast.File{}
	positions := token.NewFileSet()
	for _, name := range filesNamed(t, regexp.MustCompile(`\.go$`)) {
		file, err := parser.ParseFile(positions, name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		files[name] = file
	}
	for _, r := range sourceRules {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			if len(r.found(t, r.broken)) == 0 || len(r.found(t, r.fine)) != 0 {
				t.Error("the rule does not tell right from wrong")
			}
			for name, file := range files {
				if r.exempt(name) {
					continue
				}
				for _, node := range find(file, r.finds) {
					t.Errorf("%s: %s", positions.Position(node.Pos()), r.reason)
				}
			}
		})
	}
}

// found applies the rule to the body of a function.
func (r sourceRule) found(t *testing.T, body string) []ast.Node {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "x.go", "package x\nfunc x() {\n"+body+"\n}", 0)
	if err != nil {
		t.Fatal(err)
	}
	return find(file, r.finds)
}

// find gives the nodes that are wanted, outside of synctest bubbles, where sleeping costs no time.
func find(file *ast.File, wanted func(ast.Node) bool) (found []ast.Node) {
	ast.Inspect(file, func(n ast.Node) bool {
		if call, ok := n.(*ast.CallExpr); ok && isSelector(call.Fun, "synctest", "Test") {
			return false
		}
		if n != nil && wanted(n) {
			found = append(found, n)
		}
		return true
	})
	return found
}

func isSelector(n ast.Node, pkg, name string) bool {
	s, ok := n.(*ast.SelectorExpr)
	if !ok || s.Sel.Name != name {
		return false
	}
	x, ok := s.X.(*ast.Ident)
	return ok && x.Name == pkg
}

func isTest(file string) bool {
	return strings.HasSuffix(file, "_test.go") || strings.HasSuffix(filepath.Dir(file), "test")
}

func inTree(file, dir string) bool { return strings.HasPrefix(filepath.ToSlash(file), dir+"/") }

func maySpawn(file string) bool {
	for pattern := range spawners {
		if matches(filepath.ToSlash(filepath.Dir(file)), pattern) {
			return true
		}
	}
	return false
}

// filesNamed gives the files of this module with such names, other modules and hidden folders left out.
func filesNamed(t *testing.T, name *regexp.Regexp) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != "." && (strings.HasPrefix(d.Name(), ".") || isModule(path) || path == "mainstay-data") {
			return filepath.SkipDir
		}
		if !d.IsDir() && name.MatchString(path) {
			files = append(files, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func isModule(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "go.mod"))
	return err == nil
}

var (
	markdownLink = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	mentionedDoc = regexp.MustCompile(`\bdocs/[\w./-]+\.md\b`)
	elsewhere    = regexp.MustCompile(`^([a-z]+:|#|/)`)
)

func TestDocs_LinksLeadSomewhere(t *testing.T) {
	t.Parallel()
	for _, file := range filesNamed(t, regexp.MustCompile(`\.(md|go|ya?ml|sql)$`)) {
		if file == "repo_test.go" {
			continue // has broken ones to test the test
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, link := range deadLinks(file, string(text)) {
			t.Errorf("%s mentions %s, which does not exist", file, link)
		}
	}
	dead := deadLinks("README.md", "[a](LICENSE) [b](missing.md#part) [c](https://example.com) see docs/missing.md")
	if !slices.Equal(dead, []string{"missing.md", "docs/missing.md"}) {
		t.Errorf("found the dead links %s", strconv.Quote(strings.Join(dead, " ")))
	}
}

// deadLinks gives the files that a text refers to and that are not there: links in Markdown from the file's own
// folder, mentions of docs/*.md from the root.
func deadLinks(file, text string) (dead []string) {
	if filepath.Ext(file) == ".md" {
		for _, m := range markdownLink.FindAllStringSubmatch(text, -1) {
			target, _, _ := strings.Cut(m[1], "#")
			if !elsewhere.MatchString(m[1]) && !exists(filepath.Join(filepath.Dir(file), target)) {
				dead = append(dead, target)
			}
		}
	}
	for _, mention := range mentionedDoc.FindAllString(text, -1) {
		if !exists(mention) && !exists(filepath.Join(filepath.Dir(file), mention)) && !slices.Contains(dead, mention) {
			dead = append(dead, mention)
		}
	}
	return dead
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
