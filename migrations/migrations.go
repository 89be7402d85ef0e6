// Package migrations holds the schema of both databases. A file is never edited after a release; what changes is
// expand, backfill, contract, each in a file of its own that says in its first line which it is:
//
//	-- mainstay: expand              programs that do not know it go on
//	-- mainstay: backfill FUNCTION   the same; FUNCTION fills what an expansion has added, a chunk at a time
//	-- mainstay: contract needs N    only programs that know migration N may go on
//
// Package internal/migrate applies them.
package migrations

import (
	"embed"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"github.com/mainstay-io/mainstay"
)

//go:embed postgres/*.sql sqlite/*.sql
var files embed.FS

// FS gives the migrations of a dialect, NNNN_name.sql at its root.
func FS(dialect mainstay.Dialect) fs.FS {
	sub, err := fs.Sub(files, string(dialect))
	if err != nil {
		panic(fmt.Sprintf("migrations of %q: %v", dialect, err)) // the folders are embedded above
	}
	return sub
}

// Kind is what a migration means to programs that are running.
type Kind string

// Kinds of migrations.
const (
	Expand   Kind = "expand"
	Backfill Kind = "backfill"
	Contract Kind = "contract"
)

// Migration is one file.
type Migration struct {
	Version int64
	Name    string // of the file
	Kind    Kind
	// Function fills a chunk, where this is a backfill of PostgreSQL: called with where it left off, "" at first,
	// and with a number of rows, it gives one row: where it has come to, null when nothing is left, and how many
	// rows it has filled.
	Function string
	// Needs is the migration that a program must know to go on after this one; 0 unless this is a contraction.
	Needs int64
	// Alone says that the file is not run in a transaction.
	Alone bool
}

// All lists the migrations of a dialect in order.
func All(dialect mainstay.Dialect) []Migration {
	all, err := Read(FS(dialect))
	if err != nil {
		panic(fmt.Sprintf("migrations of %q: %v", dialect, err)) // the files are part of the program
	}
	return all
}

// Read lists the migrations in a folder in order.
func Read(folder fs.FS) ([]Migration, error) {
	entries, err := fs.ReadDir(folder, ".")
	if err != nil {
		return nil, err
	}
	all := make([]Migration, 0, len(entries))
	for _, e := range entries {
		text, err := fs.ReadFile(folder, e.Name())
		if err != nil {
			return nil, err
		}
		m, err := parse(e.Name(), string(text))
		if err != nil {
			return nil, err
		}
		all = append(all, m)
	}
	return all, nil
}

// Latest is the version that this binary's schema has: the highest number among the dialect's files.
func Latest(dialect mainstay.Dialect) int64 {
	all := All(dialect)
	return all[len(all)-1].Version
}

// Needed is the version that this binary needs at least: its latest expansion. What was backfilled and contracted
// since then it knows, and can do without.
func Needed(dialect mainstay.Dialect) int64 {
	needed := int64(0)
	for _, m := range All(dialect) {
		if m.Kind == Expand {
			needed = m.Version
		}
	}
	return needed
}

// mark begins the line that says what a migration is.
const mark = "-- mainstay: "

func parse(name, text string) (Migration, error) {
	number, _, _ := strings.Cut(name, "_")
	version, err := strconv.ParseInt(number, 10, 64)
	if err != nil {
		return Migration{}, fmt.Errorf("the name %s does not begin with a number", name)
	}
	m := Migration{Version: version, Name: name, Alone: strings.Contains(text, "-- +goose NO TRANSACTION\n")}
	first, _, _ := strings.Cut(text, "\n")
	says, ok := strings.CutPrefix(first, mark)
	if !ok {
		says = string(Expand) // what nearly all are; a test demands the line
	}
	switch word, rest, _ := strings.Cut(says, " "); {
	case word == string(Expand) && rest == "":
		m.Kind = Expand
	case word == string(Backfill):
		m.Kind, m.Function = Backfill, rest
	case word == string(Contract):
		m.Kind = Contract
		if _, err := fmt.Sscanf(rest, "needs %d", &m.Needs); err != nil || m.Needs <= 0 || m.Needs >= m.Version {
			return Migration{}, fmt.Errorf("%s says %q; a contraction says which earlier migration programs must know: contract needs N", name, says)
		}
	default:
		return Migration{}, fmt.Errorf("%s says %q, which is none of expand, backfill and contract", name, says)
	}
	return m, nil
}
