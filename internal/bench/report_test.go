package bench

import (
	"bytes"
	"encoding/json"
	"flag"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mainstay-io/mainstay/internal/app"
)

// With -update golden files are written instead of compared.
var update = flag.Bool("update", false, "write the golden files")

// results are those of the golden files: a whole one, one in which everything went wrong, and one of next to nothing.
func results() map[string]*Result {
	machine := Machine{CPU: "Abacus 9", Cores: 2, MemoryMB: 4096, Kernel: "7.0", Build: app.Build{Version: "v1", Revision: "abc", Go: "go1.26", Platform: "linux/amd64"}}
	whole := &Result{
		Work: "order", Unit: "orders", LatencyOf: "ended", Load: Load{Clients: 64, Unfinished: 1000}.String(),
		Config:  map[string]string{"database": "SQLite in a temporary directory", "broker": "embedded NATS", "duration": "10 s"},
		Seconds: 10, Operations: 25_000, Begun: 31_000, Good: 31_000, Retries: 3, Faults: map[string]int64{},
		Latency: &Latency{25_000, 380.2, 410, 430, 450.25, 500, 512}, Accepted: &Latency{25_000, 4.5, 9, 12.5, 15, 21.125, 30}, Machine: machine,
	}
	whole.Finish(Usage{{Name: "this client", Known: true, CPUSeconds: 2.5, RSSBytes: 40e6}, {Name: "PostgreSQL"}})
	bad := &Result{
		Work: "relay", Unit: "messages", LatencyOf: "a round", Load: "a filled outbox", Seconds: 2, Operations: 50, Begun: 100, Good: 50,
		Faults: map[string]int64{"no answer": 10, "503 overloaded": 39, "unfinished": 1}, Interrupted: true, Machine: machine,
	}
	bad.Finish(nil)
	short := &Result{
		Work: "hop", Unit: "messages", LatencyOf: "a batch", Load: "messages that wait", Seconds: 0.008374882, Operations: 3, Begun: 3, Good: 3, Machine: machine,
	}
	short.Finish(Usage{{Name: "this process", Known: true, CPUSeconds: 0.1 + 0.2}})
	return map[string]*Result{"whole": whole, "bad": bad, "short": short}
}

func TestResult_Golden(t *testing.T) {
	t.Parallel()
	for name, r := range results() {
		for form, write := range map[string]func(io.Writer) error{".txt": r.WriteTable, ".json": r.WriteJSON} {
			var got bytes.Buffer
			if err := write(&got); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join("testdata", name+form)
			if *update {
				if err := os.WriteFile(path, got.Bytes(), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got.String()); diff != "" {
				t.Errorf("%s (-want +got), -update writes it:\n%s", path, diff)
			}
		}
	}
}

func TestResult_JSONHasTheWholeResult(t *testing.T) {
	t.Parallel()
	want := results()["whole"]
	var b bytes.Buffer
	if err := want.WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	var got Result
	if err := json.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(*want, got); diff != "" {
		t.Error(diff)
	}
}

func TestGrouped(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", -1234567: "-1,234,567", -100: "-100"} {
		if got := grouped(n); got != want {
			t.Errorf("%d is written %s", n, got)
		}
	}
}

func TestNote_KeepsWhatIsOutOfRange(t *testing.T) {
	t.Parallel()
	d := NewDurations()
	if d.Latency() != nil {
		t.Error("nothing has a distribution")
	}
	d.Note(-time.Second)
	d.Note(24 * time.Hour)
	if l := d.Latency(); l.Count != 2 || l.P50 > 0.01 || l.Max < 590_000 {
		t.Errorf("%+v", l)
	}
}

func TestProgress_IsForTerminals(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	env := app.Env{Stderr: &out, Getenv: func(string) string { return "" }, IsTerminal: func(io.Writer) bool { return false }}
	if NewProgress(env) != nil {
		t.Error("a file gets lines of progress")
	}
	NewProgress(env).Follow(func() string { return "x" })()
	env.IsTerminal = func(io.Writer) bool { return true }
	synctest.Test(t, func(t *testing.T) {
		l := Load{Clients: 4, Warmup: time.Second, Duration: time.Second, Patience: time.Second}
		Run(t.Context(), l, &fake{begin: takes(7 * time.Millisecond)}, nil, NewProgress(env))
	})
	lines := strings.Split(out.String(), "\r\x1b[K")
	measuring := regexp.MustCompile(`^measuring  1\.8 s  1,0\d\d ended  57\d/s  4 under way  0 failed$`)
	if !strings.HasPrefix(lines[1], "warming up  0.2 s") || !slices.ContainsFunc(lines, measuring.MatchString) || lines[len(lines)-1] != "" {
		t.Errorf("drew %q", lines)
	}
	env.Getenv = func(string) string { return "dumb" }
	if NewProgress(env) != nil {
		t.Error("a terminal that cannot redraw a line gets one")
	}
}

func TestParseMetrics(t *testing.T) {
	t.Parallel()
	got, err := parseMetrics(strings.NewReader("# HELP x\nprocess_cpu_seconds_total 12.5\nprocess_resident_memory_bytes 4.5e+07\nother{a=\"b\"} 3\n"))
	if diff := cmp.Diff(Sample{12.5, 45e6}, got); err != nil || diff != "" {
		t.Error(err, diff)
	}
	if _, err := parseMetrics(strings.NewReader("other 3\n")); err == nil {
		t.Error("metrics without the process's are taken for a process that used nothing")
	}
}

func TestParseStat_NamesMayHoldAnything(t *testing.T) {
	t.Parallel()
	s, err := parseStat("12 (a) R (b) S 7 1 1 0 -1 4 5 6 7 8 250 50 10 20 20 0 1 0 99 1000 321 0\n")
	if err != nil || s.name != "a) R (b" || s.number(3) != 7 || s.number(13) != 250 || s.number(14) != 50 || s.number(15) != 10 || s.number(23) != 321 || s.number(99) != 0 {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := parseStat("nothing"); err == nil {
		t.Error("a line without a name is taken for a process")
	}
}

func TestFamily_OnlyOfItsName(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		t.Skip("skipped: this system has no /proc")
	}
	if _, err := Family("PostgreSQL", "postgres", os.Getpid()).Read(t.Context()); err == nil {
		t.Error("this process is taken for a PostgreSQL")
	}
	s, err := ThisProcess("test").Read(t.Context())
	if err != nil || s.RSSBytes < 1e6 {
		t.Errorf("%+v, %v", s, err)
	}
	if all, err := sumFamily(os.Getpid()); err != nil || all.CPUSeconds < s.CPUSeconds || all.RSSBytes != 0 {
		t.Errorf("%+v of all, %+v of one, %v", all, s, err)
	}
}
