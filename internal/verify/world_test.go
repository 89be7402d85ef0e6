package verify_test

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/broker/logbroker"
	"github.com/mainstay-io/mainstay/internal/clock"
	"github.com/mainstay-io/mainstay/internal/ingest"
	"github.com/mainstay-io/mainstay/internal/inventory"
	"github.com/mainstay-io/mainstay/internal/lane"
	"github.com/mainstay-io/mainstay/internal/logistics"
	"github.com/mainstay-io/mainstay/internal/migrate"
	"github.com/mainstay-io/mainstay/internal/orchestrator"
	"github.com/mainstay-io/mainstay/internal/order"
	"github.com/mainstay-io/mainstay/internal/payment"
	"github.com/mainstay-io/mainstay/internal/payment/sandbox"
	"github.com/mainstay-io/mainstay/internal/relay"
	"github.com/mainstay-io/mainstay/internal/retention"
	"github.com/mainstay-io/mainstay/internal/sequencer"
	"github.com/mainstay-io/mainstay/internal/store/postgres"
	"github.com/mainstay-io/mainstay/internal/store/sqlite"
	"github.com/mainstay-io/mainstay/internal/testkit/pgtest"
	"github.com/mainstay-io/mainstay/internal/verify"
	"github.com/mainstay-io/mainstay/saga"
	"github.com/mainstay-io/mainstay/worker"
)

// store is a database as the backbone uses it.
type store interface {
	lane.Store
	relay.Store
	orchestrator.Store
	ingest.Store
	retention.Store
	Run(ctx context.Context, fn func(ctx context.Context, tx mainstay.Tx) error) error
	Dialect() mainstay.Dialect
	Lanes() int
	Close() error
}

// kinds are the orders of a world, by what is to become of them.
var kinds = map[string]struct{ token, sku, status string }{
	"confirmed":   {"tok_ok", "mug-red", "confirmed"},
	"flaky":       {"tok_flaky", "mug-blue", "confirmed"},
	"declined":    {"tok_declined", "mug-red", "cancelled"},
	"unknown":     {"tok_ok", "none", "cancelled"},
	"compensated": {"tok_capture_rejected", "mug-red", "cancelled"},
	"stuck":       {"tok_void_fails", "none", "needs_operator"},
}

// world is a database in which real orders have come to real ends, and one has not; copies of it are for planting.
type world struct {
	dialect mainstay.Dialect
	place   string // a directory, or the URL of a database
	// ids of the orders by kind; "pending" is the one that nobody has worked on.
	ids map[string]string
}

// newWorld runs the backbone until every order has ended, stops it, does what is asked for then, and accepts one more.
func newWorld(t *testing.T, dialect mainstay.Dialect, then ...func(*testing.T, *backbone)) *world {
	t.Helper()
	w := &world{dialect: dialect, ids: map[string]string{}}
	b := w.open(t)
	ctx, stop := context.WithCancel(t.Context())
	var all sync.WaitGroup
	b.run(t, ctx, &all)
	b.seed(t)
	for kind, k := range kinds {
		w.ids[kind] = b.accept(t, kind, k.token, k.sku)
	}
	for kind, k := range kinds {
		b.await(t, w.ids[kind], k.status)
	}
	b.settle(t)
	stop()
	all.Wait()
	for _, do := range then {
		do(t, b)
	}
	w.ids["pending"] = b.accept(t, "pending", "tok_ok", "mug-red")
	b.close(t)
	return w
}

// backbone is what works on a world.
type backbone struct {
	store
	place            string // the world's
	reads, gatewayDB *sql.DB
	gateway          *sandbox.Gateway
	sequencer        sequencer.Store
	intake           *order.Intake
	orchestrator     *orchestrator.Orchestrator
	view             *order.Reads
}

func (w *world) open(t *testing.T) *backbone {
	t.Helper()
	b := &backbone{}
	if w.dialect == mainstay.SQLite {
		w.place = t.TempDir()
		file := filepath.Join(w.place, "mainstay.db")
		db := connect(t, "sqlite", sqlite.DSN(file, "FULL", false))
		_, err := migrate.Up(t.Context(), db, w.dialect, 2)
		must(t, err, db.Close())
		st, err := sqlite.Open(t.Context(), sqlite.Config{Path: file, Clock: clock.System})
		must(t, err)
		b.store, b.reads = st, st.Reader()
		b.gatewayDB = connect(t, "sqlite", sqlite.DSN(filepath.Join(w.place, "gateway.db"), "FULL", false))
	} else {
		w.place = pgtest.New(t)
		db := connect(t, "pgx", w.place)
		_, err := migrate.Up(t.Context(), db, w.dialect, 2)
		must(t, err, db.Close())
		st, err := postgres.Open(t.Context(), postgres.Config{URL: w.place})
		must(t, err)
		b.store, b.reads, b.sequencer = st, st.DB().DB, st
		b.gatewayDB = connect(t, "pgx", w.place)
	}
	b.place = w.place
	var err error
	b.gateway, err = sandbox.Open(t.Context(), b.gatewayDB, w.dialect, sandbox.Options{})
	must(t, err)
	b.view = order.NewReads(b.reads, w.dialect)
	b.orchestrator, err = orchestrator.New(orchestrator.Config{
		Store: b.store, Versions: []saga.Definition{order.Definition(order.Times{Deadline: time.Minute, Ask: 2 * time.Second})},
		Binding: order.NewBinding(w.dialect, nil), Lanes: b.Lanes(), Source: order.Source,
	})
	must(t, err)
	b.intake = order.NewIntake(w.dialect, func(ctx context.Context, tx mainstay.Tx, starts []order.Start) error {
		var begins []orchestrator.Begin
		for _, s := range starts {
			begins = append(begins, orchestrator.Begin{ID: s.OrderID, CorrelationID: s.OrderID, Key: s.OrderID, Data: s.Data})
		}
		return b.orchestrator.Start(ctx, tx, begins)
	})
	return b
}

// run starts sequencer and worker, which end with ctx.
func (b *backbone) run(t *testing.T, ctx context.Context, all *sync.WaitGroup) {
	t.Helper()
	wk := worker.New(worker.Config{
		Store: b.store, Reader: logbroker.New(b.store, 0), Lanes: b.Lanes(), Holder: "test", ForceLeases: true,
		Retry: lane.Retry{Base: 10 * time.Millisecond, Cap: 20 * time.Millisecond, Budget: 200 * time.Millisecond, MinAttempts: 3},
	})
	pay := payment.New(b.Dialect(), b.gateway)
	wk.Participate("inventory", inventory.Topic, inventory.New(b.Dialect()).Handlers())
	wk.ParticipateRemotely("payment", payment.Topic, []string{payment.Authorise, payment.Capture, payment.Void}, pay)
	wk.Participate("logistics", logistics.Topic, logistics.New(b.Dialect()).Handlers())
	wk.Orchestrate("orders", b.orchestrator)
	must(t, wk.Open())
	all.Go(func() { must(t, wk.Run(ctx)) })
	if b.sequencer != nil {
		seq := sequencer.New(b.sequencer, sequencer.Config{Holder: "test", Force: true})
		all.Go(func() { must(t, seq.Run(ctx)) })
	}
}

func (b *backbone) seed(t *testing.T) {
	t.Helper()
	desk := inventory.NewDesk(b.Dialect(), b.store, b.reads)
	for _, sku := range []string{"mug-red", "mug-blue"} {
		_, err := desk.Set(t.Context(), sku, 100)
		must(t, err)
		_, err = desk.Set(t.Context(), sku, 90)
		must(t, err)
	}
}

// accept takes an order under the key, as ingest does.
func (b *backbone) accept(t *testing.T, key, token, sku string) string {
	t.Helper()
	o := &order.Order{
		ID: uuid.Must(uuid.NewV7()).String(), Principal: "anonymous", Total: 2500, CreatedAt: clock.System(),
		Draft: order.Draft{
			CustomerID: "c-1", Currency: "EUR", Lines: []order.Line{{SKU: sku, Quantity: 1, UnitPrice: 1250}, {SKU: sku, Quantity: 1, UnitPrice: 1250}},
			Payment:  order.Payment{Token: token},
			Shipping: order.Shipping{Name: "Ada", Line1: "1 Main St", City: "Paris", PostalCode: "75001", Country: "FR"},
		},
	}
	body, err := json.Marshal(map[string]any{"id": o.ID, "status": "pending"})
	must(t, err)
	request := &ingest.Request{
		Principal: "anonymous", Route: "POST /v1/orders", Key: key, Fingerprint: sha256.Sum256(body), Retention: 24 * time.Hour, Item: o,
		Answer: ingest.Answer{Status: http.StatusAccepted, Header: map[string]string{"Location": "/v1/orders/" + o.ID}, Body: body},
	}
	write := func(ctx context.Context, tx mainstay.Tx, _ []*ingest.Request) error {
		return b.intake.Write(ctx, tx, []*order.Order{o})
	}
	_, err = b.Accept(t.Context(), []*ingest.Request{request}, write)
	must(t, err)
	return o.ID
}

func (b *backbone) await(t *testing.T, id, status string) {
	t.Helper()
	poll(t, func() (bool, string) {
		o, err := b.view.Get(t.Context(), id)
		must(t, err)
		return string(o.Status) == status, fmt.Sprintf("order %s is %s, not %s", id, o.Status, status)
	})
}

// settle waits until every message was numbered and handled.
func (b *backbone) settle(t *testing.T) {
	t.Helper()
	poll(t, func() (bool, string) {
		behind := b.behind(t)
		var topics int
		must(t, b.reads.QueryRowContext(t.Context(), `select (select count(*) from outbox) - (select sum(last_sequence) from log_head)`).Scan(&topics))
		return behind == 0 && topics == 0, fmt.Sprintf("%d places are behind, %d messages not numbered", behind, topics)
	})
}

// behind counts the places whose log has more.
func (b *backbone) behind(t *testing.T) (n int) {
	t.Helper()
	must(t, b.reads.QueryRowContext(t.Context(), `select count(*) from place p join log_head h on h.topic = p.topic and h.lane = p.lane
where p.sequence < h.last_sequence`).Scan(&n))
	return n
}

func (b *backbone) close(t *testing.T) {
	t.Helper()
	must(t, b.gateway.Close(), b.gatewayDB.Close(), b.Close())
}

func poll(t *testing.T, done func() (bool, string)) {
	t.Helper()
	ticks := time.NewTicker(10 * time.Millisecond)
	defer ticks.Stop()
	limit := time.NewTimer(90 * time.Second)
	defer limit.Stop()
	for {
		ok, why := done()
		if ok {
			return
		}
		select {
		case <-ticks.C:
		case <-limit.C:
			t.Fatal(why)
		}
	}
}

// planted is a copy of a world.
type planted struct {
	dialect mainstay.Dialect
	db      *sql.DB // allows what constraints forbid
	gateway string
	ids     map[string]string
}

func (w *world) copy(t *testing.T) *planted {
	t.Helper()
	p := &planted{dialect: w.dialect, ids: w.ids}
	if w.dialect == mainstay.Postgres {
		p.db = connect(t, "pgx", w.clone(t))
		return p
	}
	dir := t.TempDir()
	must(t, os.CopyFS(dir, os.DirFS(w.place)))
	p.gateway = filepath.Join(dir, "gateway.db")
	p.db = connect(t, "sqlite", "file:"+filepath.Join(dir, "mainstay.db")+"?_pragma=busy_timeout(5000)&_pragma=ignore_check_constraints(1)")
	return p
}

// clone copies a database of the server.
func (w *world) clone(t *testing.T) string {
	t.Helper()
	u, err := url.Parse(w.place)
	must(t, err)
	template, name := strings.TrimPrefix(u.Path, "/"), "mainstay_test_"+strings.ToLower(rand.Text()[:16])
	u.Path = "/postgres"
	admin := connect(t, "pgx", u.String())
	_, err = admin.ExecContext(t.Context(), "create database "+name+" template "+template+" strategy wal_log")
	must(t, err)
	t.Cleanup(func() {
		_, err := admin.ExecContext(context.Background(), "drop database "+name+" with (force)")
		must(t, err)
	})
	u.Path = "/" + name
	return u.String()
}

func (p *planted) options() verify.Options {
	return verify.Options{DB: p.db, Dialect: p.dialect, GatewayFile: p.gateway}
}

// exec runs statements. $NAME is the id of the order of that kind, and in SQLite the schema sandbox is the gateway's.
func (p *planted) exec(t *testing.T, statements string) {
	t.Helper()
	for kind, id := range p.ids {
		statements = strings.ReplaceAll(statements, "$"+kind, id)
	}
	conn, err := p.db.Conn(t.Context())
	must(t, err)
	defer conn.Close()
	if p.dialect == mainstay.SQLite {
		_, err := conn.ExecContext(t.Context(), "attach $1 as sandbox", p.gateway)
		must(t, err)
	} else {
		statements = "set mainstay.rebase = 'on';" + statements
	}
	if _, err = conn.ExecContext(t.Context(), statements); err != nil {
		t.Fatalf("%s: %v", statements, err)
	}
	if p.dialect == mainstay.SQLite {
		_, err = conn.ExecContext(t.Context(), "detach sandbox")
		must(t, err)
	}
}

func connect(t *testing.T, driver, dsn string) *sql.DB {
	t.Helper()
	db, err := sql.Open(driver, dsn)
	must(t, err)
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}
