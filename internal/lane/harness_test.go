package lane_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/broker"
	"github.com/mainstay-io/mainstay/internal/broker/logbroker"
	"github.com/mainstay-io/mainstay/internal/history"
	"github.com/mainstay-io/mainstay/internal/lane"
	"github.com/mainstay-io/mainstay/internal/lease"
	"github.com/mainstay-io/mainstay/internal/migrate"
	"github.com/mainstay-io/mainstay/internal/store/sqlite"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// tb is what the harness needs of *testing.T and *rapid.T.
type tb interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

// template is a migrated, empty database with two lanes.
var template = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "lane")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir) // a temporary directory
	path := filepath.Join(dir, "t.db")
	db, err := sql.Open("sqlite", "file:"+path)
	if err != nil {
		return nil, err
	}
	if _, err := migrate.Up(context.Background(), db, mainstay.SQLite, 2); err != nil {
		return nil, err
	}
	_, err = db.Exec(`create table effect (n integer primary key autoincrement, consumer text, topic text, lane integer,
		sequence integer, key text, id text, note text)`)
	if err != nil {
		return nil, err
	}
	if err := db.Close(); err != nil {
		return nil, err
	}
	return os.ReadFile(path)
})

// world is a database, and whatever runs on it.
type world struct {
	t      tb
	db     *sql.DB
	store  *sqlite.Store
	log    *logbroker.Broker
	reader broker.Reader // nil: log
	told   bool          // engines are told of commits, too
	// callsFirst: engines make calls before they park them.
	callsFirst bool
	change     chan struct{} // has a value after something was committed

	mu     sync.Mutex
	counts map[string]int
}

func newWorld(t tb, dir string) (w *world, closeWorld func()) {
	t.Helper()
	bytes, err := template()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "main.db")
	if err := os.WriteFile(path, bytes, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := sqlite.Open(context.Background(), sqlite.Config{Path: path, Sync: "OFF", Clock: func() time.Time { return time.Now().UTC().Truncate(time.Microsecond) }})
	if err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	w = &world{t: t, db: db, store: s, log: logbroker.New(s, 20*time.Millisecond), change: make(chan struct{}, 1), counts: map[string]int{}}
	return w, func() {
		if err := errors.Join(s.Close(), db.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

func setup(t *testing.T) *world {
	t.Helper()
	w, done := newWorld(t, t.TempDir())
	t.Cleanup(done)
	return w
}

func (w *world) Handled(consumer, outcome string, n int) { w.count(consumer+" "+outcome, n) }
func (w *world) Batch(string, int, time.Duration)        { w.count("batch", 1) }
func (w *world) Called(consumer, outcome string, _ time.Duration) {
	w.count(consumer+" call "+outcome, 1)
}

func (w *world) Calling(consumer string, n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.counts[consumer+" calling"] = n
	w.counts[consumer+" calling at most"] = max(w.counts[consumer+" calling at most"], n)
}
func (w *world) Gap(consumer string, n int) { w.count(consumer+" gap", n) }
func (w *world) seen(what string) int       { w.mu.Lock(); defer w.mu.Unlock(); return w.counts[what] }

func (w *world) count(what string, n int) {
	w.mu.Lock()
	w.counts[what] += n
	w.mu.Unlock()
	w.poke()
}

func (w *world) poke() {
	select {
	case w.change <- struct{}{}:
	default:
	}
}

// engine is one that runs.
type engine struct {
	w     *world
	store *faultyStore
	stop  context.CancelFunc
	done  chan error
	ready func() error
}

// faultyStore is a process's way to the database, which can be cut.
type faultyStore struct {
	lane.Store
	dead atomic.Bool
	// after, when set, is asked after each committed unit whether its answer is lost.
	after func() bool
	// before, when set, may fail a unit before it begins.
	before func(u lane.Unit) error
	// era, when set, is the database's; what was read in another one is fenced.
	era atomic.Pointer[string]
	// lines, when set, is told each time when the lines are read, acquire before lanes are taken.
	lines, acquire func()
	// blank hides what the log has.
	blank atomic.Bool
}

var errCut = fmt.Errorf("cut off: %w", lane.ErrTransient)

func (s *faultyStore) Unit(ctx context.Context, u lane.Unit, fn func(context.Context, lane.Tx) error) error {
	if s.dead.Load() {
		return errCut
	}
	if s.before != nil {
		if err := s.before(u); err != nil {
			return err
		}
	}
	if era := s.era.Load(); era != nil && u.Era != "" && u.Era != *era {
		return lease.ErrFenced
	}
	err := s.Store.Unit(ctx, u, func(ctx context.Context, tx lane.Tx) error {
		err := fn(ctx, tx)
		if s.dead.Load() {
			return errCut
		}
		return err
	})
	if err == nil && (s.dead.Load() || s.after != nil && s.after()) {
		return errCut
	}
	return err
}

func (s *faultyStore) Seam(ctx context.Context) (history.Seam, error) {
	seam, err := s.Store.Seam(ctx)
	if era := s.era.Load(); era != nil {
		seam.Era, seam.Compared = *era, true
	}
	return seam, err
}

func (s *faultyStore) Lines(ctx context.Context, topics []string, lanes []int) ([]lane.Line, error) {
	if s.lines != nil {
		s.lines()
	}
	return s.Store.Lines(ctx, topics, lanes)
}

func (s *faultyStore) Acquire(ctx context.Context, name string, lanes []int, holder string, ttl time.Duration, force bool) ([]lease.Lease, error) {
	if s.acquire != nil {
		s.acquire()
	}
	return s.Store.Acquire(ctx, name, lanes, holder, ttl, force)
}

func (s *faultyStore) ReadLog(ctx context.Context, after map[mainstay.TopicLane]int64, limit int) ([]*mainstay.Message, error) {
	if s.blank.Load() {
		return nil, nil
	}
	return s.Store.ReadLog(ctx, after, limit)
}

func (s *faultyStore) Renew(ctx context.Context, holder string, ls []lease.Lease, ttl time.Duration) ([]lease.Lease, error) {
	if s.dead.Load() {
		return nil, errCut
	}
	return s.Store.Renew(ctx, holder, ls, ttl)
}

func (s *faultyStore) Release(ctx context.Context, holder string, ls []lease.Lease) error {
	if s.dead.Load() {
		return errCut
	}
	return s.Store.Release(ctx, holder, ls)
}

// start runs an engine with fast settings; it takes the leases by force, as after a crash.
func (w *world) start(change func(*lane.Config, *faultyStore), consumers ...lane.Consumer) *engine {
	w.t.Helper()
	fs := &faultyStore{Store: w.store}
	cfg := lane.Config{
		Store: fs, Reader: w.log, Lanes: 2, Holder: fmt.Sprintf("h%p", fs), ForceLeases: true, LeaseTTL: 90 * time.Millisecond,
		Retry:     lane.Retry{Base: time.Millisecond, Cap: 4 * time.Millisecond, Budget: 20 * time.Millisecond, MinAttempts: 3},
		TimerPoll: 5 * time.Millisecond, Sweep: 10 * time.Millisecond, Hooks: w,
	}
	if w.reader != nil {
		cfg.Reader = w.reader
	}
	if w.callsFirst {
		cfg.Known = w.store.Barriers
	}
	if w.told {
		cfg.Follow = w.store.Follow
	}
	if change != nil {
		change(&cfg, fs)
	}
	e, err := lane.New(cfg, consumers...)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &engine{w: w, store: fs, stop: cancel, done: make(chan error, 1), ready: func() error { return e.Ready(ctx) }}
	go func() { r.done <- e.Run(ctx) }()
	return r
}

func (e *engine) end() {
	e.w.t.Helper()
	e.stop()
	select {
	case err := <-e.done:
		if err != nil {
			e.w.t.Fatal(err)
		}
	case <-time.After(90 * time.Second):
		e.w.t.Fatal("the engine does not stop")
	}
}

// kill ends an engine without letting it write anything more.
func (e *engine) kill() {
	e.store.dead.Store(true)
	e.end()
}

// run starts an engine that the end of the test stops.
func (w *world) run(t *testing.T, consumers ...lane.Consumer) *engine {
	t.Helper()
	e := w.start(nil, consumers...)
	t.Cleanup(e.end)
	return e
}

func (w *world) send(ms ...*mainstay.Message) {
	w.t.Helper()
	err := w.store.Run(context.Background(), func(_ context.Context, tx mainstay.Tx) error {
		tx.Send(ms...)
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

// until waits for a condition that commits bring about.
func (w *world) until(what string, ok func() bool) {
	w.t.Helper()
	limit := time.NewTimer(90 * time.Second)
	defer limit.Stop()
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for !ok() {
		select {
		case <-w.change:
		case <-again.C:
		case <-limit.C:
			w.t.Fatalf("waited too long until %s\n%s", what, w.dump())
		}
	}
}

func (w *world) dump() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return fmt.Sprintf("counts %v\nplaces %v\nparked %v\neffects %v", w.counts,
		w.rows("select consumer, topic, lane, sequence from place where sequence > 0"),
		w.rows("select consumer, topic, lane, sequence, key, state, op, attempts, error from parked"),
		w.rows("select consumer, key, sequence, note from effect order by n"))
}

// rows gives the result of a query, a line each.
func (w *world) rows(query string, args ...any) []string {
	w.t.Helper()
	rows, err := w.db.Query(query, args...)
	if err != nil {
		w.t.Fatal(err)
	}
	defer rows.Close() // a test's read
	cols, err := rows.Columns()
	if err != nil {
		w.t.Fatal(err)
	}
	out := []string{}
	for rows.Next() {
		vals, ptrs := make([]any, len(cols)), make([]any, len(cols))
		for i := range vals {
			ptrs[i] = &vals[i]
		}
		if err := rows.Scan(ptrs...); err != nil {
			w.t.Fatal(err)
		}
		line := fmt.Sprintln(vals...)
		out = append(out, line[:len(line)-1])
	}
	if err := rows.Err(); err != nil {
		w.t.Fatal(err)
	}
	return out
}

func (w *world) number(query string, args ...any) int {
	w.t.Helper()
	var n int
	if err := w.db.QueryRow(query, args...).Scan(&n); err != nil {
		w.t.Fatal(err)
	}
	return n
}

func (w *world) effects(consumer string) []string {
	return w.rows("select note from effect where consumer = ? order by n", consumer)
}

// effect writes that consumer has handled m.
func effect(ctx context.Context, tx mainstay.Tx, consumer string, m *mainstay.Message) error {
	_, err := tx.ExecContext(ctx, "insert into effect (consumer, topic, lane, sequence, key, id, note) values ($1, $2, $3, $4, $5, $6, $7)",
		consumer, m.Topic, m.Lane, m.Sequence, m.Key, m.ID, string(m.Payload))
	return err
}

// handle is a consumer that answers as errs says, by payload, and otherwise has an effect.
func handle(name string, topics []string, fail func(ctx context.Context, m *mainstay.Message) error) lane.Consumer {
	return lane.Consumer{Name: name, Topics: topics, Handler: batch(func(ctx context.Context, tx mainstay.Tx, ms []*mainstay.Message) ([]error, error) {
		errs := make([]error, len(ms))
		for i, m := range ms {
			if errs[i] = fail(ctx, m); errs[i] != nil {
				continue
			}
			if err := effect(ctx, tx, name, m); err != nil {
				return nil, err
			}
		}
		return errs, nil
	})}
}

type batch func(ctx context.Context, tx mainstay.Tx, ms []*mainstay.Message) ([]error, error)

func (b batch) HandleBatch(ctx context.Context, tx mainstay.Tx, ms []*mainstay.Message) ([]error, error) {
	return b(ctx, tx, ms)
}

func event(topic, key, payload string) *mainstay.Message {
	return &mainstay.Message{Topic: topic, Key: key, Type: "test.happened", Payload: []byte(payload)}
}

func command(step, op string) *mainstay.Message {
	return &mainstay.Message{
		Topic: "things", Key: "k-" + step, Type: "thing." + op, Payload: []byte(op + " " + step),
		Headers: map[string]string{
			mainstay.HeaderSaga: "saga", mainstay.HeaderStep: step, mainstay.HeaderOp: op, mainstay.HeaderReplyTo: "replies",
		},
	}
}

// replies are the replies sent so far, in order: step, direction and outcome.
func (w *world) replies() []string {
	return w.rows(`select json_extract(headers, '$.headers.sagastep') || ' ' || json_extract(headers, '$.headers.sagaop')
		|| ' ' || json_extract(headers, '$.headers.outcome') from outbox where topic = 'replies' order by position`)
}
