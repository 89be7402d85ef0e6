package main

import (
	"bufio"
	"context"
	"encoding/json"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mainstay-io/mainstay/internal/client"
)

// journal is a client's own record of what it was told: JSON lines, as `verify --journal` reads them.
type journal struct {
	mu   sync.Mutex
	path string
	ids  []string
	file *os.File
}

func newJournal(t testing.TB) *journal {
	t.Helper()
	path := filepath.Join(t.TempDir(), "journal.jsonl")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return &journal{path: path, file: f}
}

func (j *journal) add(t testing.TB, key, id string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	line, err := json.Marshal(map[string]any{"key": key, "status": 202, "order_id": id})
	if err == nil {
		_, err = j.file.Write(append(line, '\n'))
	}
	if err != nil {
		t.Error(err)
	}
	j.ids = append(j.ids, id)
}

func (j *journal) accepted() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return append([]string(nil), j.ids...)
}

// kinds of orders, so that every way to end is under way at any time.
func someOrder(n int) client.NewOrder {
	kinds := []struct{ token, sku string }{
		{"tok_ok", "mug-red"},
		{"tok_ok", "mug-blue"},
		{"tok_declined", "mug-red"},
		{"tok_ok", "shirt-m"},
		{"tok_flaky", "mug-red"},
		{"tok_timeout", "no-such-sku"},
		{"tok_capture_rejected", "mug-blue"},
		{"tok_ok", "no-such-sku"},
		{"tok_timeout", "mug-red"},
		{"tok_insufficient_funds", "no-such-sku"},
		{"tok_ok", "poster"},
		{"tok_ok", "mug-red"},
	}
	k := kinds[n%len(kinds)]
	return anOrder(k.token, k.sku)
}

// load posts orders from several clients that retry blindly with the same key, until ctx ends; a post that is under
// way then goes on until it is answered, or patience is over.
func load(ctx context.Context, t testing.TB, c *client.Client, j *journal, clients int) (wait func()) {
	t.Helper()
	var all sync.WaitGroup
	var n atomic.Int64
	patience, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Minute)
	for range clients {
		all.Go(func() {
			for ctx.Err() == nil {
				key := client.NewKey()
				placed, err := c.PlaceOrder(patience, key, someOrder(int(n.Add(1))))
				if err != nil {
					t.Errorf("posting with key %s: %v", key, err)
					return
				}
				j.add(t, key, placed.ID)
				if again := rand.IntN(10) == 0; again { // a client that did not believe the answer
					repeat, err := c.PlaceOrder(patience, key, someOrder(int(n.Load())))
					_ = repeat // the body may be another one: then the key is refused, and nothing has changed
					_ = err
				}
			}
		})
	}
	return func() {
		all.Wait()
		cancel()
	}
}

// freeAddr is an address that nobody listens on, to be had again after every restart.
func freeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") // it does not block
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() // it was only asked for a number
	return l.Addr().String()
}

// counters reads the counters of /metrics that begin with prefix, by their whole name with labels.
func counters(ctx context.Context, opsURL, prefix string) map[string]float64 {
	out := map[string]float64{}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, opsURL+"/metrics", nil)
	if err != nil {
		return out
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return out
	}
	defer resp.Body.Close() // it is only read
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		name, value, ok := strings.Cut(lines.Text(), "} ")
		if v, err := strconv.ParseFloat(value, 64); ok && err == nil && strings.HasPrefix(name, prefix) {
			out[name+"}"] = v
		}
	}
	return out
}
