package app_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"github.com/mainstay-io/mainstay/internal/app"
)

// load loads the configuration of a command line.
func load(t *testing.T, vars map[string]string, args ...string) (app.Config, error) {
	t.Helper()
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	app.AddFlags(flags)
	if err := flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	env, _, _ := world(vars)
	return app.LoadConfig(env, flags)
}

func writeFile(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "mainstay.yaml")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLoadConfig_DefaultsAreValid(t *testing.T) {
	t.Parallel()
	c, err := load(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	if c.HTTP != "127.0.0.1:8080" || c.ShutdownGrace != 20*time.Second || c.InFlight != 1024 || c.AllowUnauthenticated {
		t.Errorf("defaults are %+v", c)
	}
	for _, s := range app.Settings() {
		if c.Origin(s.Name) != (app.Origin{Kind: "default"}) {
			t.Errorf("origin of %s is %v", s.Name, c.Origin(s.Name))
		}
		if s.Value(c) != s.Default {
			t.Errorf("%s is %q in the configuration and %q in the table", s.Name, s.Value(c), s.Default)
		}
	}
}

func TestLoadConfig_FlagsBeforeEnvironmentBeforeFileBeforeDefault(t *testing.T) {
	t.Parallel()
	path := writeFile(t, "http: 127.0.0.1:1\nops: 127.0.0.1:2\ndata: /file\nin_flight: 7\norder_deadline: 5m\nlog_level:\n")
	vars := map[string]string{
		"MAINSTAY_CONFIG": path, "MAINSTAY_HTTP": "127.0.0.1:11", "MAINSTAY_OPS": "127.0.0.1:12", "MAINSTAY_DATA": "",
	}
	c, err := load(t, vars, "--http", "127.0.0.1:21", "--allow-unauthenticated")
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, s := range app.Settings() {
		got[s.Name] = s.Value(c) + " from " + c.Origin(s.Name).String()
	}
	for name, want := range map[string]string{
		"http":                  "127.0.0.1:21 from flag --http",
		"ops":                   "127.0.0.1:12 from environment MAINSTAY_OPS",
		"data":                  "/file from file " + path,
		"in_flight":             "7 from file " + path,
		"order_deadline":        "5m0s from file " + path,
		"allow_unauthenticated": "true from flag --allow-unauthenticated",
		"log_level":             "info from default",
		"log_format":            "auto from default",
	} {
		if got[name] != want {
			t.Errorf("%s is %s, want %s", name, got[name], want)
		}
	}
}

func TestLoadConfig_FlagNamesTheFileBeforeTheEnvironment(t *testing.T) {
	t.Parallel()
	vars := map[string]string{"MAINSTAY_CONFIG": writeFile(t, "data: /environment\n")}
	c, err := load(t, vars, "--config", writeFile(t, "data: /flag\n"))
	if err != nil || c.Data != "/flag" {
		t.Errorf("data is %q, %v", c.Data, err)
	}
}

func TestLoadConfig_ReportsAllMistakesAtOnce(t *testing.T) {
	t.Parallel()
	path := writeFile(t, "order_dedline: 2m\nin_flight: many\nlanes: [1, 2]\nhttp:\n  addr: x\n")
	vars := map[string]string{"MAINSTAY_CONFIG": path, "MAINSTAY_LOG_LEVEL": "inof", "MAINSTAY_DATABASE": "postgress://u:geheim@h/d"}
	_, err := load(t, vars, "--shutdown-grace=1", "--idempotency-retention", "1h", "--allow-unauthenticated=perhaps", "--broker", "nats://u:geheim@h,kafka://h")
	var coded *app.Error
	if !errors.As(err, &coded) || coded.Code != app.ExitUsage {
		t.Fatalf("error is %v", err)
	}
	want := []string{
		"10 mistakes in the configuration:",
		path + `: http.addr: there is no such setting`,
		path + `: lanes: must be one value, not a list`,
		path + `: order_dedline: there is no such setting; did you mean "order_deadline"?`,
		"MAINSTAY_DATABASE: must begin with one of postgres, postgresql, sqlite",
		"--broker: must begin with one of nats, tls, database, memory",
		"--allow-unauthenticated: must be true or false",
		`MAINSTAY_LOG_LEVEL: must be one of debug, info, warn, error; did you mean "info"?`,
		"--shutdown-grace: must be a duration such as 500ms, 20s or 24h",
		"--idempotency-retention: must be between 24h0m0s and 8784h0m0s",
		path + ": in_flight: must be a whole number",
	}
	if diff := cmp.Diff(want, strings.Split(err.Error(), "\n")); diff != "" {
		t.Error(diff)
	}
}

func TestLoadConfig_RefusesWhatIsNoFileOfSettings(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ path, want string }{
		"no file":   {filepath.Join(t.TempDir(), "none.yaml"), "there is no such file"},
		"directory": {t.TempDir(), "is a directory"},
		"no YAML":   {writeFile(t, "\tdata: x"), "not a YAML file of settings"},
		"a list":    {writeFile(t, "- data"), "not a YAML file of settings"},
		"key twice": {writeFile(t, "data: a\ndata: b\n"), "already defined"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := load(t, nil, "--config", tt.path); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error is %v, want %q", err, tt.want)
			}
		})
	}
}

func TestLoadConfig_JoinsSettings(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		args []string
		want string // "" means that it is accepted
	}{
		"http for all":         {[]string{"--http", ":8080"}, "--http: :8080 can be reached by other machines"},
		"ops for all":          {[]string{"--ops", "0.0.0.0:8081"}, "--ops: 0.0.0.0:8081 can be reached by other machines"},
		"a name":               {[]string{"--ops", "db.example.com:8081"}, "give --allow-unauthenticated"},
		"all IPv6":             {[]string{"--http", "[::]:8080"}, "can be reached"},
		"asked for":            {[]string{"--http", ":8080", "--allow-unauthenticated"}, ""},
		"loopback":             {[]string{"--http", "localhost:1", "--ops", "[::1]:1"}, ""},
		"another loopback":     {[]string{"--http", "127.9.9.9:1"}, ""},
		"one address":          {[]string{"--http", "127.0.0.1:1", "--ops", "127.0.0.1:1"}, "--ops: must differ from http"},
		"any port twice":       {[]string{"--http", "127.0.0.1:0", "--ops", "127.0.0.1:0"}, ""},
		"sqlite without file":  {[]string{"--database", "sqlite:"}, "--database: must name a file"},
		"sqlite in memory":     {[]string{"--database", "sqlite::memory:"}, "--database: must name a file"},
		"long step":            {[]string{"--step-timeout", "1m", "--order-deadline", "30s"}, "--step-timeout: must be shorter than order_deadline (30s)"},
		"synced but not ours":  {[]string{"--nats-sync", "always", "--broker", "nats://h:4222"}, "--nats-sync: is about the embedded broker"},
		"synced":               {[]string{"--nats-sync", "always"}, ""},
		"NATS cluster":         {[]string{"--broker", "nats://a:4222, nats://b:4222"}, ""},
		"password with comma":  {[]string{"--database", "postgres://u:a,b@h/d"}, ""},
		"SQLite by path":       {[]string{"--database", "sqlite:/x/y.db"}, ""},
		"broker in memory":     {[]string{"--broker", "memory"}, ""},
		"port out of range":    {[]string{"--http", "127.0.0.1:70000"}, "--http: must have a port from 0 to 65535"},
		"address without port": {[]string{"--http", "127.0.0.1"}, "--http: must be HOST:PORT"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := load(t, nil, tt.args...)
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("error is %v, want %q", err, tt.want)
			}
		})
	}
}

func TestLoadConfig_RefusesAPasswordThatCannotBeTold(t *testing.T) {
	t.Parallel()
	for url, taken := range map[string]bool{
		"postgres://u:CAN@ARY@127.0.0.1:1/x":              false,
		"postgres://u:5432/CANARY@127.0.0.1:1/x":          false,
		"postgres://u:CAN%40A%2FRY@127.0.0.1:1/x":         true,
		"nats://u:CAN/ARY@127.0.0.1:1":                    false,
		"nats://u:CAN?ARY@127.0.0.1:1":                    false,
		"nats://u:CAN#ARY@127.0.0.1:1":                    false,
		"nats://u:x@127.0.0.1:1,nats://u:CAN@ARY@[::1]:1": false,
		"nats://u:CANARY@127.0.0.1:1,nats://CANARY@[::1]": true,
	} {
		name := "MAINSTAY_BROKER"
		if strings.HasPrefix(url, "postgres") {
			name = "MAINSTAY_DATABASE"
		}
		_, err := app.LoadConfig(app.Env{Getenv: func(n string) string {
			if n == name {
				return url
			}
			return ""
		}}, nil)
		if (err == nil) != taken || err != nil && strings.Contains(err.Error(), "ARY") {
			t.Errorf("%s: %v", url, err)
		}
	}
}

func TestRedact_HidesPasswords(t *testing.T) {
	t.Parallel()
	for give, want := range map[string]string{
		"":                                "",
		"memory":                          "memory",
		"sqlite:/var/lib/mainstay.db":     "sqlite:/var/lib/mainstay.db",
		"postgres://u@h/d":                "postgres://u@h/d",
		"postgres://u:geheim@h:5/d?x=1":   "postgres://u:xxxxx@h:5/d?x=1",
		"postgres://h/d?password=geheim":  "postgres://h/d?password=xxxxx",
		"nats://geheim@h:4222":            "nats://xxxxx@h:4222",
		"nats://u:geheim@a, nats://b":     "nats://u:xxxxx@a,nats://b",
		"postgres://u:gehe,im@h/d":        "postgres://u:xxxxx@h/d",
		"postgres://u:1,geheim@h/d":       "postgres://u:xxxxx@h/d",
		"postgres://u:ge%heim@h/d":        "xxxxx",
		"host=h password=geheim user=u":   "xxxxx",
		"postgres://u:geheim@h1:1,h2:2/d": "postgres://u:xxxxx@h1:1,h2:2/d",
	} {
		got := app.Redact(give)
		if strings.Contains(got, "geheim") {
			t.Errorf("%s shows its secret: %s", give, got)
		}
		if got != want && got != "xxxxx" {
			t.Errorf("%s becomes %s, want %s", give, got, want)
		}
	}
}

func TestSettings_AreNamedOnce(t *testing.T) {
	t.Parallel()
	var names []string
	for _, s := range app.Settings() {
		names = append(names, s.Name)
		if !strings.HasSuffix(s.Doc, ".") {
			t.Errorf("%s: the description is no sentence", s.Name)
		}
	}
	slices.Sort(names)
	if len(slices.Compact(names)) != len(app.Settings()) {
		t.Error("a name stands twice")
	}
}
