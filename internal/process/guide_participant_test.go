package process_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mainstay-io/mainstay/internal/testkit/natstest"
	"github.com/mainstay-io/mainstay/internal/testkit/pgtest"
	"github.com/mainstay-io/mainstay/internal/testkit/proc"
)

// guided runs the commands of a guide's shell blocks.
type guided struct {
	t     *testing.T
	order string // the id of the order that was posted
	said  string // what the last command printed
}

// someOrder is the id that guides show.
const someOrder = "01a1fe7a-c3cb-76f2-b074-ceedc01f485a"

// TestGuide_ParticipantWithOwnDatabase does what the guide says, command by command, with databases, a broker and ports
// of the test's own: the order that it posts is confirmed, and verify finds both databases in order.
func TestGuide_ParticipantWithOwnDatabase(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/guides/participant-with-own-database.md")
	if err != nil {
		t.Fatal(err)
	}
	guide := strings.NewReplacer(
		"postgres://mainstay@db-a/orders", pgtest.New(t), "postgres://mainstay@db-b/stock", pgtest.New(t), "nats://nats:4222", natstest.New(t).URL(),
	).Replace(string(text))
	ports := map[string]string{}
	guide = regexp.MustCompile(`127\.0\.0\.1:80\d\d\b`).ReplaceAllStringFunc(guide, func(addr string) string {
		if ports[addr] == "" {
			ports[addr] = proc.FreeAddr(t)
		}
		return ports[addr]
	})
	ctx, cancel := context.WithTimeout(t.Context(), faultsTimeout)
	defer cancel()
	g := &guided{t: t}
	var ran []string
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(guide, -1) {
		for line := range strings.Lines(block[1]) {
			name, args, _ := strings.Cut(strings.TrimSpace(line), " ")
			ran = append(ran, name)
			g.run(ctx, name, args)
		}
	}
	want := []string{"mainstay", "mainstay", "ingest", "outbox", "worker", "outbox", "worker", "ingest", "curl", "curl", "curl", "mainstay"}
	if !slices.Equal(want, ran) {
		t.Errorf("the guide has the commands %v", ran)
	}
	if !strings.Contains(g.said, "1 order") {
		t.Errorf("verify says\n%s", g.said)
	}
}

func (g *guided) run(ctx context.Context, name, args string) {
	g.t.Helper()
	switch name {
	case "ingest", "outbox", "worker":
		proc.Start(g.t, proc.BuildPlain(g.t, "./cmd/"+name), strings.Fields(args)...)
		fields := strings.Fields(args)
		g.ready(ctx, fields[slices.Index(fields, "--ops")+1])
	case "mainstay":
		g.shell(ctx, proc.BuildPlain(g.t, "./cmd/mainstay")+" "+args)
	case "curl":
		g.shell(ctx, "curl --fail-with-body "+strings.ReplaceAll(args, someOrder, g.order))
		var order struct{ ID, Status string }
		at := bytes.IndexByte([]byte(g.said), '{')
		if !strings.Contains(args, "/v1/orders") || at < 0 {
			return
		}
		if err := json.Unmarshal([]byte(g.said)[at:], &order); err != nil {
			g.t.Fatalf("curl %s: %v\n%s", args, err, g.said)
		}
		if asked := g.order != ""; asked && order.Status != "confirmed" {
			g.t.Errorf("the order is %s", g.said)
		}
		g.order = order.ID
	default:
		g.t.Errorf("the guide has a command that this test does not know: %s %s", name, args)
	}
}

func (g *guided) shell(ctx context.Context, line string) {
	g.t.Helper()
	out, err := exec.CommandContext(ctx, "sh", "-c", line).CombinedOutput()
	if g.said = string(out); err != nil {
		g.t.Fatalf("%s: %v\n%s", line, err, out)
	}
}

// ready waits until a process takes work.
func (g *guided) ready(ctx context.Context, ops string) {
	g.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+ops+"/readyz", nil)
		if err != nil {
			g.t.Fatal(err)
		}
		if resp, err := http.DefaultClient.Do(req); err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			g.t.Fatalf("the process on %s is not ready", ops)
		}
	}
}
