package sqlite_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"modernc.org/libc"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/ingest"
	"github.com/mainstay-io/mainstay/internal/lane"
	"github.com/mainstay-io/mainstay/internal/store/sqlite"
)

// The log of a database of this name is written, and then cannot be synced once the disk is broken.
const fragile = "fragile.db"

// diskBroken is global, as SQLite calls plain functions.
var diskBroken atomic.Bool

// installDisk makes SQLite open all files through openFile, from now on.
func installDisk(t *testing.T) {
	t.Helper()
	tls := libc.NewTLS()
	defer tls.Close()
	size := libc.Tsize_t(unsafe.Sizeof(sqlite3.Tsqlite3_vfs{}))
	mine := libc.Xmalloc(tls, size) // never freed: connections keep it
	name, err := libc.CString("fragile")
	if mine == 0 || err != nil {
		t.Fatal("no memory", err)
	}
	vfs := at[sqlite3.Tsqlite3_vfs](mine)
	*vfs = *at[sqlite3.Tsqlite3_vfs](sqlite3.Xsqlite3_vfs_find(tls, 0))
	vfs.FzName, vfs.FxOpen = name, function(openFile)
	if rc := sqlite3.Xsqlite3_vfs_register(tls, mine, 1); rc != sqlite3.SQLITE_OK {
		t.Fatal("registering the disk:", rc)
	}
}

// at is what lies at an address of SQLite's memory.
func at[T any](address uintptr) *T { return *(**T)(unsafe.Pointer(&address)) }

// function is a plain function's address, as SQLite calls it.
func function[F any](f F) uintptr { return *(*uintptr)(unsafe.Pointer(&f)) }

func openFile(tls *libc.TLS, vfs, name, file uintptr, flags int32, out uintptr) int32 {
	unix, err := libc.CString("unix")
	if err != nil {
		return sqlite3.SQLITE_NOMEM
	}
	defer libc.Xfree(tls, unix)
	open := at[sqlite3.Tsqlite3_vfs](sqlite3.Xsqlite3_vfs_find(tls, unix)).FxOpen
	rc := (*at[func(*libc.TLS, uintptr, uintptr, uintptr, int32, uintptr) int32](uintptr(unsafe.Pointer(&open))))(tls, vfs, name, file, flags, out)
	if rc != sqlite3.SQLITE_OK || name == 0 || !strings.HasSuffix(libc.GoString(name), "/"+fragile+"-wal") {
		return rc
	}
	methods := libc.Xmalloc(tls, libc.Tsize_t(unsafe.Sizeof(sqlite3.Tsqlite3_io_methods{}))) // as long as the process
	if methods == 0 {
		return sqlite3.SQLITE_NOMEM
	}
	f := at[sqlite3.Tsqlite3_file](file)
	*at[sqlite3.Tsqlite3_io_methods](methods) = *at[sqlite3.Tsqlite3_io_methods](f.FpMethods)
	at[sqlite3.Tsqlite3_io_methods](methods).FxSync = function(syncFile)
	f.FpMethods = methods
	return rc
}

func syncFile(_ *libc.TLS, _ uintptr, _ int32) int32 {
	if diskBroken.Load() {
		return sqlite3.SQLITE_IOERR_FSYNC
	}
	return sqlite3.SQLITE_OK
}

// A commit of which the disk says that it failed may be in the file all the same. The store takes nothing more then,
// and whoever opens the file next finds one record for each key that is sent again.
func TestStore_EndsWhenTheDiskFailsInACommit(t *testing.T) { //nolint:paralleltest // the disk is everybody's
	installDisk(t)
	dir := t.TempDir()
	path := filepath.Join(dir, fragile)
	if err := os.Rename(newFile(t), path); err != nil {
		t.Fatal(err)
	}
	s, err := sqlite.Open(t.Context(), sqlite.Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	wantFresh(t, s, "before", true)
	watched := make(chan error, 1)
	go func() { watched <- s.Watch(t.Context()) }()
	diskBroken.Store(true)
	if _, err := accept(t, s, "meanwhile"); !errors.Is(err, ingest.ErrAmbiguous) {
		t.Fatalf("in the commit that failed: %v", err)
	}
	if err := <-watched; !errors.Is(err, sqlite.ErrFailed) {
		t.Errorf("the watch ended with %v", err)
	}
	diskBroken.Store(false)
	if _, err := accept(t, s, "after"); !errors.Is(err, ingest.ErrUnavailable) || errors.Is(err, ingest.ErrAmbiguous) {
		t.Errorf("after it: %v", err)
	}
	err = s.Run(t.Context(), func(context.Context, mainstay.Tx) error { t.Error("a unit ran"); return nil })
	if !errors.Is(err, lane.ErrTransient) {
		t.Errorf("a unit after it: %v", err)
	}
	left := filepath.Join(t.TempDir(), "left.db") // as a process that is killed now leaves it
	for _, suffix := range []string{"", "-wal"} {
		b, err := os.ReadFile(path + suffix)
		if err == nil {
			err = os.WriteFile(left+suffix, b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	next := open(t, left)
	wantFresh(t, next, "before", false)
	wantFresh(t, next, "meanwhile", false) // it was written
	wantFresh(t, next, "after", true)
	again := open(t, path)
	wantFresh(t, again, "before", false)
	for _, fresh := range []bool{true, false} { // the process that ended in order has let it go
		wantFresh(t, again, "meanwhile", fresh)
	}
}

func accept(t *testing.T, s *sqlite.Store, key string) (bool, error) {
	t.Helper()
	results, err := s.Accept(t.Context(), []*ingest.Request{{Principal: "p", Route: "POST /orders", Key: key, Retention: time.Hour, Answer: ingest.Answer{Body: []byte("{}")}}},
		func(context.Context, mainstay.Tx, []*ingest.Request) error { return nil })
	return err == nil && results[0].Fresh, err
}

func wantFresh(t *testing.T, s *sqlite.Store, key string, want bool) {
	t.Helper()
	if fresh, err := accept(t, s, key); err != nil || fresh != want {
		t.Errorf("key %q: fresh %v (%v), want %v", key, fresh, err, want)
	}
}
