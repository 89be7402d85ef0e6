// Package migrations holds the schema of both databases. A file is never edited after a release; what changes is
// expand, backfill, contract, each in a file of its own. Package internal/migrate applies them.
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

// Latest is the version that this binary's schema has: the highest number among the dialect's files.
func Latest(dialect mainstay.Dialect) int64 {
	entries, err := fs.ReadDir(FS(dialect), ".")
	if err != nil {
		panic(fmt.Sprintf("listing the migrations of %q: %v", dialect, err))
	}
	latest := int64(0)
	for _, e := range entries {
		number, _, _ := strings.Cut(e.Name(), "_")
		if v, err := strconv.ParseInt(number, 10, 64); err == nil {
			latest = max(latest, v)
		}
	}
	return latest
}
