package app_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/mainstay-io/mainstay/internal/app"
)

func TestLoadConfig_SQLiteIsDurableUnlessAllowedByName(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		database, allow string
		path, sync      string // of what is accepted
		refused         string
	}{
		"in the data directory":     {path: filepath.Join("mainstay-data", "mainstay.db"), sync: "FULL"},
		"a path":                    {database: "sqlite:/d/x.db", path: "/d/x.db", sync: "FULL"},
		"full, said":                {database: "sqlite:/d/x.db?synchronous=full", path: "/d/x.db", sync: "FULL"},
		"extra":                     {database: "sqlite:/d/x.db?synchronous=EXTRA", path: "/d/x.db", sync: "EXTRA"},
		"allowed, and not asked":    {database: "sqlite:/d/x.db", allow: "true", path: "/d/x.db", sync: "FULL"},
		"normal":                    {database: "sqlite:/d/x.db?synchronous=normal", refused: "MAINSTAY_DATABASE: synchronous=normal is below full"},
		"off":                       {database: "sqlite:/d/x.db?synchronous=OFF", refused: "--allow-unsafe-durability"},
		"normal, allowed":           {database: "sqlite:/d/x.db?synchronous=normal", allow: "true", path: "/d/x.db", sync: "NORMAL"},
		"a number":                  {database: "sqlite:/d/x.db?synchronous=1", allow: "true", refused: "synchronous must be one of FULL, EXTRA, NORMAL, OFF"},
		"a pragma":                  {database: "sqlite:/d/x.db?_pragma=synchronous(off)", allow: "true", refused: "_pragma is not taken"},
		"a pragma beside":           {database: "sqlite:/d/x.db?synchronous=full&_pragma=synchronous(off)", refused: "_pragma is not taken"},
		"twice":                     {database: "sqlite:/d/x.db?synchronous=full&synchronous=off", refused: "once"},
		"parameters without a file": {database: "sqlite:?synchronous=full", refused: "must name a file"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			env, _, _ := world(map[string]string{"MAINSTAY_DATABASE": tt.database, "MAINSTAY_ALLOW_UNSAFE_DURABILITY": tt.allow})
			cfg, err := app.LoadConfigOf(app.Serve, env, nil)
			if tt.refused != "" {
				if err == nil || !strings.Contains(err.Error(), tt.refused) {
					t.Errorf("got %v, want an error with %q", err, tt.refused)
				}
				return
			}
			f, ok := cfg.SQLite()
			if err != nil || !ok || f.Path != tt.path || f.Synchronous != tt.sync || f.Unsafe() != (tt.sync == "NORMAL") {
				t.Errorf("got %+v %v, error %v; want %s at %s", f, ok, err, tt.path, tt.sync)
			}
		})
	}
}
