package main

import (
	"context"
	"net/http/httptrace"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mainstay-io/mainstay/internal/client"
	"github.com/mainstay-io/mainstay/internal/clock"
	"github.com/mainstay-io/mainstay/internal/testkit/load"
	"github.com/mainstay-io/mainstay/internal/testkit/pgtest"
	"github.com/mainstay-io/mainstay/internal/testkit/proc"
)

// grace is the --shutdown-grace of these tests.
const grace = 10 * time.Second

// stop sends SIGTERM and wants exit 0 within the grace.
func stop(ctx context.Context, t testing.TB, s *server) time.Duration {
	t.Helper()
	began := clock.Start()
	if err := s.Term(); err != nil {
		t.Fatal(err)
	}
	code, err := s.Wait(ctx)
	took := began.Elapsed()
	if code != 0 || err != nil || took > grace {
		t.Errorf("after SIGTERM: exit code %d after %v, error %v; want 0 within %v\n%s", code, took, err, grace, s.Stderr())
	}
	return took
}

// TestServe_StopsUnderLoad stops the server again and again with SIGTERM while clients post, each with one key until
// it is answered. No accepted order is lost, no client is left without an answer, and every stop is in time.
func TestServe_StopsUnderLoad(t *testing.T) {
	t.Parallel()
	bin := proc.Build(t, "./cmd/mainstay")
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		stopUnderLoad(t, bin, []string{"--data", dir}, []string{"--data", dir})
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		url := pgtest.New(t)
		runCommand(t, bin, "migrate", "up", "--database", url, "--lanes", "4")
		stopUnderLoad(t, bin, []string{"--data", t.TempDir(), "--database", url}, []string{"--database", url})
	})
}

func stopUnderLoad(t *testing.T, bin string, serve, check []string) {
	t.Helper()
	http, ops := proc.FreeAddr(t), proc.FreeAddr(t)
	start := func() *server {
		return waitServer(t, proc.Start(t, bin, slices.Concat([]string{
			"serve", "--http", http, "--ops", ops, "--call-timeout", "300ms", "--shutdown-grace", grace.String(),
		}, serve)...))
	}
	s := start()
	stubborn := load.Blind(t, s.URL, s.OpsURL)
	j := load.NewJournal(t)
	loading, stopLoad := context.WithCancel(t.Context())
	defer stopLoad()
	waitLoad := load.Run(loading, t, j, 12, stubborn)
	var longest time.Duration
	for range 4 {
		more := len(j.Accepted()) + 50
		for len(j.Accepted()) < more && !t.Failed() {
			linger(t, 10*time.Millisecond)
		}
		longest = max(longest, stop(t.Context(), t, s))
		if log := s.Stderr(); strings.Contains(log, `"level":"ERROR"`) {
			t.Errorf("a stop that was asked for is an error to it:\n%s", log)
		}
		s = start()
	}
	stopLoad()
	waitLoad()
	for _, id := range j.Accepted() {
		if o, err := s.Await(t.Context(), id, time.Minute); err != nil || !o.Ended() {
			t.Fatalf("order %s did not end: %+v, error %v", id, o, err)
		}
	}
	out := verify(t, append(check, "--journal", j.Path(), "--journal-complete")...)
	t.Logf("%d orders, the longest stop took %v\n%s", len(j.Accepted()), longest, out)
}

// TestServe_LetsWaitersGo stops a server on which requests wait for the end of an order: all are answered promptly
// with what is true then, and the order ends after the next start.
func TestServe_LetsWaitersGo(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	bin, dir := proc.Build(t, "./cmd/mainstay"), t.TempDir()
	flags := []string{"--data", dir, "--shutdown-grace", grace.String()}
	s := startServer(t, bin, append(flags, "--call-timeout", "1m", "--order-deadline", "5m")...)
	slow := s.place(ctx, t, load.OrderOf("tok_timeout", "mug-red")) // its first call takes a minute
	const waiters = 200
	var all, sent sync.WaitGroup
	sent.Add(waiters)
	for range waiters {
		all.Go(func() {
			traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { sent.Done() }})
			if o, err := s.Order(traced, slow.ID, 50*time.Second); err != nil || o.Status != client.StatusPending {
				t.Errorf("got %+v, error %v; want it pending", o, err)
			}
		})
	}
	sent.Wait()
	linger(t, 300*time.Millisecond) // the server has read them by now
	if took := stop(ctx, t, s); took > grace/2 {
		t.Errorf("the stop took %v, with waiters that had only to be told", took)
	}
	all.Wait()
	s = startServer(t, bin, append(flags, "--call-timeout", "300ms")...)
	s.wantEnd(ctx, t, slow.ID, "confirmed")
	verify(t, "--data", dir)
}
