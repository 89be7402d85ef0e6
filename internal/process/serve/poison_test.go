package serve

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/order"
	"github.com/mainstay-io/mainstay/worker"
)

// mailer is a consumer whose handler panics for one key.
type mailer struct {
	mu      sync.Mutex
	poison  string
	handled map[string][]string // types by key
	changed chan struct{}
}

func (m *mailer) Handle(_ context.Context, _ mainstay.Tx, msg *mainstay.Message) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if msg.Key == m.poison {
		panic("a bug")
	}
	m.handled[msg.Key] = append(m.handled[msg.Key], msg.Type)
	select {
	case m.changed <- struct{}{}:
	default:
	}
	return nil
}

// wantEach waits until the mailer has handled n messages of each key.
func (m *mailer) wantEach(t testing.TB, keys []string, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	for !m.have(keys, n) {
		select {
		case <-m.changed:
		case <-ctx.Done():
			m.mu.Lock()
			defer m.mu.Unlock()
			t.Fatalf("not all was handled: %v", m.handled)
		}
	}
}

func (m *mailer) have(keys []string, n int) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, key := range keys {
		if len(m.handled[key]) < n {
			return false
		}
	}
	return true
}

// TestBackbone_SetsAPoisonMessageAside runs a handler that panics for one key: that key's first message becomes a
// dead letter, its later ones wait behind it, and everything else flows.
func TestBackbone_SetsAPoisonMessageAside(t *testing.T) {
	t.Parallel()
	var all []*order.Order
	for range 20 {
		all = append(all, placed(t, "tok_ok", "mug-red"))
	}
	bad, good := all[7], append(all[:7:7], all[8:]...)
	m := &mailer{poison: bad.ID, handled: map[string][]string{}, changed: make(chan struct{}, 1)}
	r := run(t, func(cfg *app.Config) { cfg.RetryBudget = time.Second }, hooks{register: func(w *worker.Worker) {
		w.Handle("mailer", []string{order.TopicEvents}, worker.Each(m))
	}})
	r.accept(t, all...)
	var keys []string
	for _, o := range good {
		keys = append(keys, o.ID)
	}
	m.wantEach(t, keys, 2) // order.placed and order.confirmed
	for _, o := range all {
		r.wantEnd(t, o.ID, "confirmed")
	}
	letter := r.wantDeadLetter(t, "mailer", bad.ID)
	if letter.typ != order.EventPlaced || !strings.Contains(letter.err, "panicked: a bug") {
		t.Errorf("the dead letter is %+v", letter)
	}
	r.wantLogged(t, "ERROR", map[string]string{"consumer": "mailer", "message_id": letter.id})
	r.wantParked(t, "mailer", bad.ID, 2) // the dead head, and what came after it
	if err := r.worker.Worker.Ready(t.Context()); err != nil {
		t.Errorf("the worker is not ready: %v", err)
	}
}

type deadLetter struct{ id, typ, kind, err string }

// wantDeadLetter waits until the consumer has a dead letter of the key, and gives the only one.
func (r *running) wantDeadLetter(t testing.TB, consumer, key string) (d deadLetter) {
	t.Helper()
	r.until(t, "there is no dead letter, or more than one", func(ctx context.Context) (bool, error) {
		var n int
		err := r.db.Reads.QueryRowContext(ctx, `select count(*), coalesce(max(message_id), ''), coalesce(max(type), ''), coalesce(max(kind), ''), coalesce(max(error), '')
			from dead_letter where consumer = $1 and key = $2 and state = 'open'`, consumer, key).Scan(&n, &d.id, &d.typ, &d.kind, &d.err)
		return n == 1, err
	})
	return d
}

func (r *running) wantParked(t testing.TB, consumer, key string, want int) {
	t.Helper()
	var n int
	err := r.db.Reads.QueryRowContext(t.Context(), `select count(*) from parked where consumer = $1 and key = $2`, consumer, key).Scan(&n)
	if err != nil || n != want {
		t.Errorf("%d messages are parked, error %v; want %d", n, err, want)
	}
}

// wantLogged wants a line of the level that has these attributes.
func (r *running) wantLogged(t testing.TB, level string, attrs map[string]string) {
	t.Helper()
	for line := range strings.Lines(r.logs.String()) {
		var got map[string]any
		if err := json.Unmarshal([]byte(line), &got); err != nil {
			t.Fatal(err)
		}
		found := got["level"] == level
		for k, v := range attrs {
			found = found && fmt.Sprint(got[k]) == v
		}
		if found {
			return
		}
	}
	t.Errorf("no %s line with %v in:\n%s", level, attrs, r.logs)
}
