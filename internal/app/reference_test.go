package app_test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/mainstay-io/mainstay/internal/app"
)

// With -update the reference pages are written instead of compared.
var update = flag.Bool("update", false, "write the reference pages")

func TestReference_IsCurrent(t *testing.T) {
	t.Parallel()
	for path, page := range map[string]string{
		"../../docs/reference/config.md":     configPage(),
		"../../docs/reference/exit-codes.md": exitCodesPage(),
	} {
		if *update {
			if err := os.WriteFile(path, []byte(page), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != page {
			t.Errorf("%s is not what the code says (%v); run: go test ./internal/app -run Reference -update", path, err)
		}
	}
}

func configPage() string {
	var b strings.Builder
	b.WriteString(`# Configuration

<!-- Generated from the table in internal/app/settings.go: go test ./internal/app -run Reference -update -->

Every setting has a flag, an environment variable and a key in a YAML file. Flags go before the environment, the
environment before the file, the file before the default. A file is read only when ` + "`--config FILE` or `MAINSTAY_CONFIG`" + `
names it. An empty variable or key counts as not given. An unknown key is refused, an unknown variable that begins
with ` + "`MAINSTAY_`" + ` is warned about, and all mistakes are reported at once. ` + "`mainstay config print`" + ` shows each value
with its origin; passwords in URLs are never shown.

Two variables are no settings: ` + "`MAINSTAY_CONFIG`, and `MAINSTAY_URL`" + `, the ingest API that ` + "`mainstay order`" + ` asks where its
` + "`--url`" + ` does not say. ` + "`mainstay bench`" + ` leaves the environment alone: what it starts is not the running system.

A process takes the settings that it uses, as each of them says; its --help lists them. One file, and one environment,
may serve all processes: what one does not take it leaves alone.

Durations are written as in ` + "`500ms`, `20s`, `24h`" + `.

`)
	for _, s := range app.Settings() {
		value := "empty"
		if s.Default != "" {
			value = "`" + s.Default + "`"
		}
		fmt.Fprintf(&b, "## %s\n\n%s\n\n", s.Name, s.Doc)
		fmt.Fprintf(&b, "- flag `--%s`, environment `%s`\n- %s, by default %s\n", s.Flag(), s.Variable(), s.Kind, value)
		fmt.Fprintf(&b, "- taken by %s\n", strings.Join(s.Processes, ", "))
		if s.Secret {
			b.WriteString("- may hold a password: prefer the environment or the file to the flag, which other users of the machine can see\n")
		}
		b.WriteString("\n")
	}
	return strings.TrimSpace(b.String()) + "\n"
}

func exitCodesPage() string {
	var b strings.Builder
	b.WriteString(`# Exit codes

<!-- Generated from internal/app/errors.go: go test ./internal/app -run Reference -update -->

| code | name | meaning |
|---|---|---|
`)
	for _, m := range app.ExitCodes() {
		fmt.Fprintf(&b, "| %d | %s | %s |\n", m.Code, m.Name, m.Meaning)
	}
	b.WriteString(`
With ` + "`-o json`" + ` an error is a problem document (RFC 9457) on standard error, with the members ` + "`exit_code`" + ` and, where there
is something to do next, ` + "`hint`" + `; standard output then stays empty. A second signal ends a process at once.
`)
	return b.String()
}
