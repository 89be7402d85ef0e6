package app

import (
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
)

// sqliteFile is the database in the data directory.
const sqliteFile = "mainstay.db"

// SQLiteFile is a database in a file of its own.
type SQLiteFile struct {
	Path string
	// Synchronous is SQLite's setting of that name: FULL or EXTRA, and NORMAL or OFF where that is allowed.
	Synchronous string
}

// Unsafe says whether a power cut may take back what was committed.
func (f SQLiteFile) Unsafe() bool { return f.Synchronous != "FULL" && f.Synchronous != "EXTRA" }

// SQLite is the SQLite database that c names; ok is false where it names a server's.
func (c Config) SQLite() (f SQLiteFile, ok bool) {
	if c.Database == "" {
		return SQLiteFile{Path: filepath.Join(c.Data, sqliteFile), Synchronous: "FULL"}, true
	}
	rest, ok := strings.CutPrefix(c.Database, "sqlite:")
	if !ok {
		return SQLiteFile{}, false
	}
	f.Path, f.Synchronous = rest, "FULL"
	if path, query, asks := strings.Cut(rest, "?"); asks {
		f.Path = path
		if q, err := url.ParseQuery(query); err == nil && q.Has("synchronous") {
			f.Synchronous = strings.ToUpper(q.Get("synchronous"))
		}
	}
	return f, true
}

// durableSQLite refuses parameters of a SQLite URL, as nothing else may be asked than how durable it is; and less than
// that a commit outlives a power cut, unless that was asked for by name.
func (c Config) durableSQLite() error {
	f, ok := c.SQLite()
	if !ok {
		return nil
	}
	_, query, _ := strings.Cut(c.Database, "?")
	params, err := url.ParseQuery(query)
	if err != nil {
		return c.needs(false, "database", "its parameters cannot be read: write sqlite:PATH?synchronous=full")
	}
	for name, values := range params {
		if name != "synchronous" || len(values) > 1 {
			return c.needs(false, "database", "the one parameter of a SQLite database is synchronous, once (%s is not taken): Mainstay sets everything else itself", name)
		}
	}
	if err := oneOf("FULL", "EXTRA", "NORMAL", "OFF")(f.Synchronous); err != nil {
		return fmt.Errorf("%s: synchronous %w", c.Origin("database").label("database"), err)
	}
	return c.needs(!f.Unsafe() || c.AllowUnsafe, "database",
		"synchronous=%s is below full, so that a power cut could take back what was accepted; leave it out, or allow it with --allow-unsafe-durability",
		strings.ToLower(f.Synchronous))
}
