package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/testkit/pgtest"
	"github.com/mainstay-io/mainstay/internal/testkit/proc"
)

// TestGuide_Upgrade runs the commands of the guide in their order, and wants it to name the exit codes as they are.
func TestGuide_Upgrade(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/guides/upgrade.md")
	if err != nil {
		t.Fatal(err)
	}
	_, block, _ := strings.Cut(string(text), "```sh\n")
	block, _, _ = strings.Cut(block, "```")
	url, bin, ran := pgtest.New(t), proc.BuildPlain(t, "./cmd/mainstay"), 0
	for line := range strings.Lines(block) {
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		ran++
		cmd := exec.CommandContext(t.Context(), bin, words[1:]...)
		cmd.Env = append(os.Environ(), "MAINSTAY_DATABASE="+url)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", line, err, out)
		}
	}
	if ran != 3 {
		t.Errorf("ran %d commands, want 3", ran)
	}
	if app.ExitConflict != 5 || app.ExitPending != 8 || strings.Count(string(text), "exit code 5") != 2 || !strings.Contains(string(text), "exit code 8") {
		t.Error("the guide does not name the exit codes as they are")
	}
}
