package serve

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/migrate"
	"github.com/mainstay-io/mainstay/migrations"
)

func TestLockPlaces_OneProcessPerDirectory(t *testing.T) {
	t.Parallel()
	a, b, c := t.TempDir(), t.TempDir(), t.TempDir()
	for name, test := range map[string]struct {
		second app.Config
		taken  bool
	}{
		"the same":                {app.Config{Data: a, Database: "sqlite:" + b + "/m.db"}, true},
		"the same database":       {app.Config{Data: c, Database: "sqlite:" + b + "/m.db"}, true},
		"the same broker":         {app.Config{Data: a, Database: "sqlite:" + c + "/m.db"}, true},
		"the broker's as its own": {app.Config{Data: a, Broker: "database"}, true},
		"a server and the broker": {app.Config{Data: a, Database: "postgres://db/x"}, true},
		"another of each":         {app.Config{Data: c}, false},
		"nothing of its own":      {app.Config{Data: a, Database: "postgres://db/x", Broker: "nats://n"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			first, err := lockPlaces(app.Config{Data: a, Database: "sqlite:" + b + "/m.db"})
			if err != nil {
				t.Fatal(err)
			}
			defer first.release()
			second, err := lockPlaces(test.second)
			defer second.release()
			if (err != nil) != test.taken || test.taken && app.ExitCode(t.Context(), err) != app.ExitConflict {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestLockPlaces_KnowsADirectoryByAnyName(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		held, err := lockPlaces(app.Config{Data: link, Database: "sqlite:" + dir + "/../" + filepath.Base(dir) + "/m.db"})
		if err != nil {
			t.Fatal(err)
		}
		held.release()
	}
}

func TestMigrate_StatusMakesNothingAndUpTellsWhen(t *testing.T) {
	t.Parallel()
	cfg := app.Config{Data: filepath.Join(t.TempDir(), "data")}
	all := int(migrations.Latest(mainstay.SQLite))
	list, err := MigrateStatus(t.Context(), cfg)
	if err != nil || len(list) != all || !list[0].AppliedAt.IsZero() {
		t.Fatal(list, err)
	}
	if _, err := os.Stat(cfg.Data); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("asking has made the directory: %v", err)
	}
	for _, want := range []int{all, 0} {
		applied, err := MigrateUp(t.Context(), cfg, migrate.Runner{})
		if err != nil || len(applied) != want {
			t.Fatalf("applied %v (%v), want %d", applied, err, want)
		}
	}
	if list, err = MigrateStatus(t.Context(), cfg); err != nil || len(list) != all || list[all-1].AppliedAt.IsZero() {
		t.Fatal(list, err)
	}
}

// TestMigrate_RefusesOtherLanes leaves a database as it is that has another number.
func TestMigrate_RefusesOtherLanes(t *testing.T) {
	t.Parallel()
	cfg := app.Config{Data: filepath.Join(t.TempDir(), "data"), Lanes: 2}
	for _, lanes := range []int{2, 2, 0} { // 0 is whatever it has
		cfg.Lanes = lanes
		if _, err := MigrateUp(t.Context(), cfg, migrate.Runner{}); err != nil {
			t.Fatalf("%d lanes: %v", lanes, err)
		}
	}
	cfg.Lanes = 8
	_, err := MigrateUp(t.Context(), cfg, migrate.Runner{})
	if err == nil || app.ExitCode(t.Context(), err) != app.ExitConflict || !strings.Contains(err.Error(), "asks for 8 lanes, and the database has 2") {
		t.Fatalf("%v, hint %q", err, app.HintOf(err))
	}
}

func TestOpenDatabase_LetsNobodyElseReadItsFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil { // others may enter it, that is the point
		t.Fatal(err)
	}
	db, err := openDatabase(t.Context(), app.Config{Database: "sqlite:" + dir + "/m.db"}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := closeDatabase(db); err != nil {
			t.Error(err)
		}
	}()
	if err := db.Gateway.PingContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) < 2 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		if info, err := f.Info(); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v (%v)", f.Name(), info.Mode(), err)
		}
	}
}

// A process that is being started has a copy of every descriptor for a moment, that of the lock too.
func TestLockDir_IsFreeOnceItWasGivenBack(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first, err := lockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	inherited, err := syscall.Dup(int(first.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(inherited) // it was only there
	if second, err := lockDir(dir); err == nil {
		unlockDir(second)
		t.Fatal("the directory was given to two")
	}
	unlockDir(first)
	second, err := lockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	unlockDir(second)
}
