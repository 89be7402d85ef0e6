package mainstay_test

import (
	"io"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/mainstay-io/mainstay/internal/app"
)

var shellBlock = regexp.MustCompile("(?s)```sh\n(.*?)```")

// TestGuides_ProcessesStartAsWritten gives each command line of a process in the guide about three processes, and the
// variables that are exported before it, to the process's own reading of its settings.
func TestGuides_ProcessesStartAsWritten(t *testing.T) {
	t.Parallel()
	exported, started, addresses := map[string]string{}, map[string]int{}, map[string]bool{}
	for _, block := range shellBlock.FindAllStringSubmatch(read(t, "docs/guides/three-processes.md"), -1) {
		for line := range strings.Lines(block[1]) {
			words := strings.Fields(line)
			if words[0] == "export" && strings.HasPrefix(words[1], "MAINSTAY_") {
				name, value, _ := strings.Cut(words[1], "=")
				known := slices.ContainsFunc(app.Settings(), func(s app.Setting) bool { return s.Variable() == name })
				if exported[name] = value; !known {
					t.Errorf("the guide exports %s, which is no variable", name)
				}
			}
			if !slices.Contains([]string{app.Ingest, app.Outbox, app.Worker}, words[0]) {
				continue
			}
			flags := pflag.NewFlagSet(words[0], pflag.ContinueOnError)
			app.AddFlagsOf(words[0], flags)
			if err := flags.Parse(words[1:]); err != nil || flags.NArg() > 0 {
				t.Errorf("%s: %v", line, err)
				continue
			}
			cfg, err := app.LoadConfigOf(words[0], app.Env{Getenv: func(k string) string { return exported[k] }, Stderr: io.Discard}, flags)
			if err != nil || addresses[cfg.Ops] {
				t.Errorf("%s: error %v, or a second process on %s", line, err, cfg.Ops)
			}
			started[words[0]]++
			addresses[cfg.Ops] = true
		}
	}
	if started[app.Ingest] != 1 || started[app.Outbox] != 2 || started[app.Worker] != 2 {
		t.Errorf("the guide starts %v", started)
	}
}
