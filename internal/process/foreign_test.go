package process_test

import (
	"context"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/broker/brokertest"
	"github.com/mainstay-io/mainstay/internal/broker/natsbroker"
	"github.com/mainstay-io/mainstay/internal/testkit/natstest"
	"github.com/mainstay-io/mainstay/internal/testkit/pgtest"
	"github.com/mainstay-io/mainstay/internal/testkit/proc"
)

// TestWorker_RefusesATopicOfAnotherDatabase has the wrong database, or the wrong --consume: the worker ends before it
// has done anything. One that does not host the consumer in question goes on.
func TestWorker_RefusesATopicOfAnotherDatabase(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), faultsTimeout)
	defer cancel()
	database, nats := pgtest.New(t), natstest.New(t)
	if out, err := exec.CommandContext(ctx, proc.BuildPlain(t, "./cmd/mainstay"), "migrate", "up", "--database", database).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	other, err := natsbroker.Open(ctx, natsbroker.Config{URL: nats.URL(), Origin: "another", Lanes: 16})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close() // the test is over
	reply := brokertest.Message(mainstay.TopicLane{Topic: "inventory-replies", Lane: 3}, 1)
	if _, err := other.Publish(ctx, []*mainstay.Message{reply}, nil); err != nil {
		t.Fatal(err)
	}
	start := func(more ...string) *proc.Process {
		args := append([]string{"--database", database, "--broker", nats.URL(), "--ops", proc.FreeAddr(t)}, more...)
		return proc.Start(t, proc.BuildPlain(t, "./cmd/worker"), args...)
	}
	for _, consume := range []string{"", "inventory", "inventory,orders"} {
		p := start("--consume", consume)
		if code, err := p.Wait(ctx); err != nil || code != app.ExitConflict {
			t.Errorf("--consume %q: exit code %d, error %v", consume, code, err)
		}
		for _, want := range []string{"the topic inventory-replies at the broker", "another database (another, and this is ", "--consume names"} {
			if !strings.Contains(p.Stderr(), want) {
				t.Errorf("--consume %q: want %q in:\n%s", consume, want, p.Stderr())
			}
		}
	}
	if _, err := start("--consume", "orders,payment,logistics").WaitLine(ctx, regexp.MustCompile(`^  consumers (orders.*)$`)); err != nil {
		t.Error(err)
	}
}
