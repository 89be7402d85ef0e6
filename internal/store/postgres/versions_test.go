package postgres

import (
	"bytes"
	"os"
	"os/exec"
	"testing"

	"github.com/mainstay-io/mainstay/internal/testkit/pgtest"
)

// onEveryVersion are the tests that each version must pass: the conformance suite, and what reads snapshots and locks.
const onEveryVersion = "^(TestStore_(Leases|Log|Lanes|Sagas)|TestSequencer_(Numbers|OldView|Fences|DoesNotStall|ManyAtOnce).*|TestAcquire_.*)$"

// TestVersions runs the package's tests in a process of its own against each version of the server.
func TestVersions(t *testing.T) {
	t.Parallel()
	if os.Getenv(pgtest.Env) != "" {
		t.Skip("skipped: this machine cannot run other versions: " + pgtest.Env + " names the server")
	}
	for _, version := range pgtest.Versions() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			s := pgtest.NewVersion(t, version)
			tests := exec.CommandContext(t.Context(), os.Args[0], "-test.run="+onEveryVersion, "-test.short")
			tests.Env = append(os.Environ(), pgtest.Env+"="+s.URL())
			if out, err := tests.CombinedOutput(); err != nil || bytes.Contains(out, []byte("no tests to run")) {
				t.Errorf("on PostgreSQL %s: %v\n%s", version, err, out)
			}
		})
	}
}
