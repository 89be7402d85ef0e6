package natsembed_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/mainstay-io/mainstay/internal/broker/natsembed"
	"github.com/mainstay-io/mainstay/internal/clock"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestServer_KeepsItsStreams(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	for round := range uint64(2) {
		began := clock.Start()
		srv, err := natsembed.Start(ctx, natsembed.Config{Dir: dir, Lazy: round == 0})
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("started in %v", began.Elapsed())
		nc, err := nats.Connect("", nats.InProcessServer(srv))
		if err != nil {
			t.Fatal(err)
		}
		js, err := jetstream.New(nc)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}}); err != nil {
			t.Fatal(err)
		}
		ack, err := js.Publish(ctx, "s", []byte("x"))
		if err != nil || ack.Sequence != round+1 {
			t.Fatalf("round %d: sequence %v, error %v", round, ack, err)
		}
		nc.Close()
		for range 2 {
			if err := srv.Shutdown(ctx); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestStart_SaysWhyItCannot(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, cfg := range map[string]natsembed.Config{
		"no directory":          {},
		"a file for directory":  {Dir: file},
		"an address without :":  {Dir: t.TempDir(), Listen: "localhost"},
		"a port of letters":     {Dir: t.TempDir(), Listen: "localhost:x"},
		"an address of nothing": {Dir: t.TempDir(), Listen: "256.256.256.256:0"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			if _, err := natsembed.Start(ctx, cfg); err == nil {
				t.Fatal("it started")
			} else {
				t.Log(err)
			}
		})
	}
}
