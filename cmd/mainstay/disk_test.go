package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mainstay-io/mainstay/internal/client"
	"github.com/mainstay-io/mainstay/internal/problem"
	"github.com/mainstay-io/mainstay/internal/testkit/load"
	"github.com/mainstay-io/mainstay/internal/testkit/proc"
)

// answer is what an HTTP server said.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// post posts a body to the path of the orders, with headers in pairs; an error of the connection fails the test.
func post(ctx context.Context, t testing.TB, url string, body []byte, headers ...string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/v1/orders", bytes.NewReader(body))
	if err != nil {
		t.Error(err)
		return answer{}
	}
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Error(err)
		return answer{}
	}
	defer resp.Body.Close() // it is only read
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Error(err)
	}
	return answer{resp.StatusCode, resp.Header, got}
}

func encoded(t testing.TB, o client.NewOrder) []byte {
	t.Helper()
	body, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// wantProblem checks a problem document: its status and code, and Retry-After where the same may succeed later.
func wantProblem(t testing.TB, a answer, status int, code problem.Code) problem.Problem {
	t.Helper()
	var p problem.Problem
	if err := json.Unmarshal(a.body, &p); err != nil || a.status != status || p.Status != status || p.Code != code || a.header.Get("Content-Type") != problem.ContentType {
		t.Errorf("got %d %s %s, error %v; want %d %s", a.status, a.header.Get("Content-Type"), a.body, err, status, code)
	}
	if status == http.StatusServiceUnavailable && a.header.Get("Retry-After") == "" {
		t.Errorf("503 without Retry-After: %s", a.body)
	}
	return p
}

// TestServe_LivesThroughAFullDisk fills the disk under load: what does not fit is refused with 503, readiness says
// why, nothing that was accepted is lost, and with space the process recovers by itself.
func TestServe_LivesThroughAFullDisk(t *testing.T) {
	t.Parallel()
	disk := tmpfs(t, 0, "size=24m")
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	bin, dir, ballast := proc.Build(t, "./cmd/mainstay"), filepath.Join(disk, "data"), filepath.Join(disk, "ballast")
	writeFile(t, ballast, make([]byte, 14<<20))
	s := startServer(t, bin, "--data", dir)
	j := load.NewJournal(t)
	fillDisk(ctx, t, s, j)
	wantNotReady(ctx, t, s)
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	healing, stop := context.WithTimeout(ctx, time.Minute)
	defer stop()
	wantReady(healing, t, s)
	for _, id := range j.Accepted() {
		s.wantEnd(healing, t, id, "confirmed")
	}
	s.wantEnd(healing, t, s.place(healing, t, load.OrderOf("tok_ok", "mug-red")).ID, "confirmed")
	out := verify(t, "--data", dir, "--journal", j.Path())
	t.Logf("%d orders\n%s", len(j.Accepted()), out)
}

// fillDisk posts orders from several clients until the server has refused a number of them in a row, and so the disk is full.
func fillDisk(ctx context.Context, t testing.TB, s *server, j *load.Journal) {
	t.Helper()
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for refusals := 0; refusals < 20 && ctx.Err() == nil; {
				key := client.NewKey()
				a := post(ctx, t, s.URL, encoded(t, load.OrderOf("tok_ok", "mug-red")), "Idempotency-Key", key)
				if a.status == http.StatusAccepted {
					var o client.Order
					if err := json.Unmarshal(a.body, &o); err != nil {
						t.Error(err)
					}
					j.Add(t, key, o.ID)
					refusals = 0
					continue
				}
				wantProblem(t, a, http.StatusServiceUnavailable, problem.Unavailable)
				refusals++
				linger(t, 50*time.Millisecond)
			}
		})
	}
	all.Wait()
}

// wantNotReady waits until readiness has gone, and wants to read there that the disk is full.
func wantNotReady(ctx context.Context, t testing.TB, s *server) {
	t.Helper()
	for {
		ready, err := s.Ready(ctx)
		if err != nil {
			t.Fatal(err)
		}
		why := ""
		for _, c := range ready.Checks {
			why += c.Reason
		}
		if !ready.Ready && strings.Contains(why, "full") {
			return
		}
		linger(t, 100*time.Millisecond)
	}
}

// wantReady waits until the process is ready.
func wantReady(ctx context.Context, t testing.TB, s *server) {
	t.Helper()
	for {
		ready, err := s.Ready(ctx)
		if err != nil {
			t.Fatalf("waiting for readiness, it is %+v: %v", ready, err)
		}
		if ready.Ready {
			return
		}
		linger(t, 100*time.Millisecond)
	}
}
