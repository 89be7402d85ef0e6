package serve

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/clock"
	"github.com/mainstay-io/mainstay/internal/inventory"
	"github.com/mainstay-io/mainstay/internal/order"
	ingestpart "github.com/mainstay-io/mainstay/internal/process/ingest"
	"github.com/mainstay-io/mainstay/internal/verify"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// running is a backbone that runs in this process, without servers.
type running struct {
	*backbone
	logs *logs
}

// run opens a backbone on a directory of its own and runs it until the test ends; then every invariant must hold.
func run(t testing.TB, set func(*app.Config), m hooks) *running {
	t.Helper()
	cfg, err := app.LoadConfig(app.Env{Getenv: func(string) string { return "" }}, nil)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Data, cfg.CallTimeout = t.TempDir(), 200*time.Millisecond
	if set != nil {
		set(&cfg)
	}
	out := &logs{}
	log := slog.New(slog.NewJSONHandler(out, nil))
	group := app.NewGroup(log, app.NewHealth(log), 10*time.Second)
	b, err := open(t.Context(), cfg, log, group, m)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range b.services() {
		group.Add(s)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- group.Run(ctx) }()
	t.Cleanup(func() {
		b.wantSound(t)
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("log:\n%s", out)
		}
	})
	desk := inventory.NewDesk(b.db.Dialect(), b.db, b.db.Reads)
	if _, err := desk.Set(t.Context(), "mug-red", 10_000); err != nil {
		t.Fatal(err)
	}
	return &running{b, out}
}

// wantSound checks all invariants, on the running system.
func (b *backbone) wantSound(t testing.TB) {
	t.Helper()
	db := b.db.Reads
	if b.db.Dialect() == mainstay.Postgres { // as the command has it: the store's plans are pinned to look up keys
		var err error
		if db, err = sql.Open("pgx", b.cfg.Database); err != nil {
			t.Error(err)
			return
		}
		defer db.Close()
	}
	report, err := verify.Run(context.Background(), verify.Options{
		DB: db, Dialect: b.db.Dialect(), GatewayFile: filepath.Join(b.cfg.Data, gatewayFile),
		Retention: b.cfg.IdempotencyRetention, Clock: clock.System,
	})
	if err != nil {
		t.Errorf("verifying: %v", err)
		return
	}
	for _, c := range report.Checks {
		for _, v := range c.Violations {
			t.Errorf("%s: %s: %s (%s)", c.Name, v.ID, v.Detail, v.Rule)
		}
	}
}

// accept takes orders in, side by side.
func (r *running) accept(t testing.TB, orders ...*order.Order) {
	t.Helper()
	var all sync.WaitGroup
	for _, o := range orders {
		all.Go(func() {
			_, err := ingestpart.Accepter{In: r.intake.Ingest}.Accept(t.Context(), order.Submission{
				Principal: o.Principal, Route: "POST /v1/orders", Key: []string{o.ID}, Method: "POST", Path: "/v1/orders", Body: []byte("{}"), Order: o,
				Answer: order.Answer{
					Status: http.StatusAccepted, Header: map[string]string{"Location": "/v1/orders/" + o.ID}, Body: fmt.Appendf(nil, `{"id":%q}`, o.ID),
				},
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

// wantEnd waits for the order's end, and wants it to be this one.
func (r *running) wantEnd(t testing.TB, id, want string) {
	t.Helper()
	if got := r.end(t, id); got != want {
		t.Errorf("order %s: got %q, want %q", id, got, want)
	}
}

// end waits for the order's end and gives it: the status, and the code of the reason if there is one.
func (r *running) end(t testing.TB, id string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	err := r.intake.Waiters.Wait(ctx, id, func() (bool, error) {
		v, err := r.intake.Reads.Get(ctx, id)
		return v.Status.Ended(), err
	})
	if err != nil {
		t.Errorf("waiting for order %s: %v", id, err)
	}
	v, err := r.intake.Reads.Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if v.Reason != nil {
		return fmt.Sprintf("%s %s", v.Status, v.Reason.Code)
	}
	return string(v.Status)
}

// catchUp waits until the consumers have handled all that is in the log.
func (r *running) catchUp(t testing.TB) {
	t.Helper()
	r.until(t, "the consumers do not catch up", func(ctx context.Context) (bool, error) {
		var behind int
		err := r.db.Reads.QueryRowContext(ctx, `select count(*) from place p join log_head h on h.topic = p.topic and h.lane = p.lane
			where p.sequence < h.last_sequence`).Scan(&behind)
		return behind == 0, err
	})
}

// until waits for a condition and fails the test with what when it does not come.
func (r *running) until(t testing.TB, what string, holds func(ctx context.Context) (bool, error)) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	for {
		ok, err := holds(ctx)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if ok {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal(what)
		}
	}
}

// kinds are orders of many kinds, with their ends.
func kinds() []struct{ token, sku, want string } {
	return []struct{ token, sku, want string }{
		{"tok_ok", "mug-red", "confirmed"},
		{"tok_timeout", "mug-red", "confirmed"},
		{"tok_flaky", "mug-red", "confirmed"},
		{"tok_declined", "mug-red", "cancelled card_declined"},
		{"tok_ok", "none", "cancelled unknown_sku"},
		{"tok_timeout", "none", "cancelled unknown_sku"},
		{"tok_capture_rejected", "mug-red", "cancelled capture_rejected"},
	}
}

// wantEveryKind places several orders of every kind at once and waits for their ends.
func (r *running) wantEveryKind(t testing.TB, each int) {
	t.Helper()
	want := map[string]string{}
	var all []*order.Order
	for range each {
		for _, k := range kinds() {
			o := placed(t, k.token, k.sku)
			all, want[o.ID] = append(all, o), k.want
		}
	}
	r.accept(t, all...)
	for id, end := range want {
		r.wantEnd(t, id, end)
	}
}

// logs keeps what was logged.
type logs struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}
