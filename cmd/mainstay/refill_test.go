package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mainstay-io/mainstay/internal/client"
	"github.com/mainstay-io/mainstay/internal/testkit/load"
	"github.com/mainstay-io/mainstay/internal/testkit/proc"
)

// TestServe_RefillsTheBroker kills the server with orders in flight and takes the broker's store away, or puts an
// older copy in its place. After the next start all orders end, and the log says that the broker was filled again.
func TestServe_RefillsTheBroker(t *testing.T) {
	t.Parallel()
	bin := proc.Build(t, "./cmd/mainstay")
	for name, spoil := range map[string]func(t *testing.T, store, older string){
		"deleted":  func(t *testing.T, store, _ string) { remove(t, store) },
		"restored": func(t *testing.T, store, older string) { remove(t, store); copyDir(t, older, store) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			refill(t, bin, spoil)
		})
	}
}

func refill(t *testing.T, bin string, spoil func(t *testing.T, store, older string)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	dir, older := t.TempDir(), filepath.Join(t.TempDir(), "older")
	store := filepath.Join(dir, "nats")
	s := startServer(t, bin, "--data", dir)
	early := s.place(ctx, t, load.OrderOf("tok_ok", "mug-red"))
	s.wantEnd(ctx, t, early.ID, "confirmed")
	stop(ctx, t, s)
	copyDir(t, store, older)

	s = startServer(t, bin, "--data", dir, "--call-timeout", "30s") // so that tok_timeout stays in flight
	j := load.NewJournal(t)
	loading, stopLoad := context.WithCancel(ctx)
	defer stopLoad()
	blind, err := client.New(client.Config{URL: s.URL})
	if err != nil {
		t.Fatal(err)
	}
	defer blind.Close()
	waitLoad := load.Run(loading, t, j, 8, blind)
	for len(j.Accepted()) < 150 && !t.Failed() {
		linger(t, 10*time.Millisecond)
	}
	stopLoad()
	waitLoad()
	s.Kill()
	if n := inFlight(t, "sqlite", "file:"+filepath.Join(dir, "mainstay.db")); n == 0 {
		t.Error("inconclusive: no saga was in flight")
	}
	spoil(t, store, older)

	s = startServer(t, bin, "--data", dir, "--call-timeout", "300ms")
	for _, id := range j.Accepted() {
		if o, err := s.Await(ctx, id, time.Minute); err != nil || !o.Ended() {
			t.Fatalf("order %s did not end: %+v, error %v", id, o, err)
		}
	}
	s.wantEnd(ctx, t, early.ID, "confirmed")
	s.wantEnd(ctx, t, s.place(ctx, t, load.OrderOf("tok_ok", "mug-red")).ID, "confirmed")
	wantReady(ctx, t, s)
	if log := s.Stderr(); !strings.Contains(log, `"level":"WARN","msg":"broker lost messages, refilling"`) {
		t.Errorf("nothing was said of a refill:\n%s", log)
	}
	verify(t, "--data", dir, "--journal", j.Path())
}

func remove(t testing.TB, dir string) {
	t.Helper()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
}

func copyDir(t testing.TB, from, to string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}
