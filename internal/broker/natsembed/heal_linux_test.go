package natsembed_test

import (
	"context"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/mainstay-io/mainstay/internal/broker/natsembed"
)

// TestServer_TakesWritesAgainAfterAFullDisk fills the disk until the server refuses writes, and makes space: the same
// connection publishes again, and nothing that was acknowledged is lost.
func TestServer_TakesWritesAgainAfterAFullDisk(t *testing.T) {
	t.Parallel()
	disk := t.TempDir()
	if err := syscall.Mount("mainstay-test", disk, "tmpfs", 0, "size=8m"); err != nil {
		t.Skipf("this machine cannot mount a file system in memory: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(disk, syscall.MNT_DETACH) })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ballast := filepath.Join(disk, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 4<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	srv, err := natsembed.Start(ctx, natsembed.Config{Dir: filepath.Join(disk, "nats")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = srv.Shutdown(context.Background()) })
	nc, err := nats.Connect("", nats.InProcessServer(srv), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}}); err != nil {
		t.Fatal(err)
	}
	acked := publishUntil(ctx, js, false)
	if acked == 0 || ctx.Err() != nil {
		t.Fatalf("inconclusive: %d messages were taken before the disk was full, %v", acked, ctx.Err())
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	publishUntil(ctx, js, true)
	if ctx.Err() != nil {
		t.Fatal("there is space again, and the server takes nothing")
	}
	info, err := js.Stream(ctx, "S")
	if err != nil {
		t.Fatal(err)
	}
	if got := info.CachedInfo().State.Msgs; got <= acked {
		t.Errorf("the stream has %d messages; want the %d from before the disk was full, and more", got, acked)
	}
}

// publishUntil publishes until a publish succeeds, or fails, and gives how many have succeeded.
func publishUntil(ctx context.Context, js jetstream.JetStream, success bool) (acked uint64) {
	payload := make([]byte, 32<<10)
	for ctx.Err() == nil {
		call, cancel := context.WithTimeout(ctx, time.Second)
		_, err := js.Publish(call, "s", payload)
		cancel()
		if err == nil {
			acked++
		}
		if (err == nil) == success {
			return acked
		}
	}
	return acked
}
