// Package load puts tests' systems under load: clients that post orders of every kind and repeat blindly what was not
// answered, with a journal of what they were told.
package load

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mainstay-io/mainstay/internal/client"
)

// patience is how long a client goes on with a post that is not answered.
const patience = 3 * time.Minute

// Journal is the clients' own record of what they were told: JSON lines, as `verify --journal` reads them. It is safe
// for concurrent use.
type Journal struct {
	mu   sync.Mutex
	path string
	ids  []string
	file *os.File
}

// NewJournal makes an empty journal, whose file is removed with the test.
func NewJournal(t testing.TB) *Journal {
	t.Helper()
	path := filepath.Join(t.TempDir(), "journal.jsonl")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return &Journal{path: path, file: f}
}

// Add notes that the order id was accepted under the key.
func (j *Journal) Add(t testing.TB, key, id string) {
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

// Copy is a journal of its own that begins with what stands in j now.
func (j *Journal) Copy(t testing.TB) *Journal {
	t.Helper()
	j.mu.Lock()
	defer j.mu.Unlock()
	c := NewJournal(t)
	text, err := os.ReadFile(j.path)
	if err == nil {
		_, err = c.file.Write(text)
	}
	if err != nil {
		t.Fatal(err)
	}
	c.ids = append(c.ids, j.ids...)
	return c
}

// Path is the file.
func (j *Journal) Path() string { return j.path }

// Accepted are the ids of the orders that were accepted so far.
func (j *Journal) Accepted() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return append([]string(nil), j.ids...)
}

// Order is the nth of a series of orders in which every way to end is under way at any time. Stock is needed of
// mug-red, mug-blue and shirt-m, and a little of poster.
func Order(n int) client.NewOrder {
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
	return OrderOf(k.token, k.sku)
}

// OrderOf is two of an article for Ada, paid with the token.
func OrderOf(token, sku string) client.NewOrder {
	return client.NewOrder{
		CustomerID: "c-1", Currency: "EUR", Lines: []client.Line{{SKU: sku, Quantity: 2, UnitPrice: 1250}},
		Payment:  client.Payment{Token: token},
		Shipping: client.Shipping{Name: "Ada", Line1: "1 Main St", City: "Paris", PostalCode: "75001", Country: "FR"},
	}
}

// Blind is a client that repeats an order until it is answered, however long that takes.
func Blind(t testing.TB, url, opsURL string) *client.Client {
	t.Helper()
	c, err := client.New(client.Config{URL: url, OpsURL: opsURL, Attempts: 10_000, Backoff: 5 * time.Millisecond, MaxBackoff: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// pace is for how long a client waits for an order to end before it posts the next one. It bounds how many orders are
// under way, however slow the machine is: a client adds at most one in so long.
const pace = 2 * time.Second

// Run posts orders from so many clients, which take turns with the servers given, until ctx ends; a post that is under
// way then goes on until it is answered, or patience is over, which fails the test. The answer waits for that. Now and
// then a client does not believe its answer, and sends the key again.
func Run(ctx context.Context, t testing.TB, j *Journal, clients int, servers ...*client.Client) (wait func()) {
	t.Helper()
	var all sync.WaitGroup
	var n atomic.Int64
	patient, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	for i := range clients {
		c := servers[i%len(servers)]
		all.Go(func() {
			for ctx.Err() == nil {
				key := client.NewKey()
				placed, err := c.PlaceOrder(patient, key, Order(int(n.Add(1))))
				if err != nil {
					t.Errorf("posting with key %s: %v", key, err)
					return
				}
				j.Add(t, key, placed.ID)
				if again := rand.IntN(10) == 0; again {
					// The body may be another one: then the key is refused, and nothing has changed.
					_, _ = c.PlaceOrder(patient, key, Order(int(n.Load())))
				}
				_, _ = c.Await(ctx, placed.ID, pace) // how it ends is for verify to say
			}
		})
	}
	return func() {
		all.Wait()
		cancel()
	}
}
