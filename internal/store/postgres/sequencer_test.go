package postgres

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"pgregory.net/rapid"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/history"
	"github.com/mainstay-io/mainstay/internal/lane"
	"github.com/mainstay-io/mainstay/internal/lease"
	"github.com/mainstay-io/mainstay/internal/sequencer"
	"github.com/mainstay-io/mainstay/outbox"
)

// writer is a transaction of the model: what it has appended, and what its savepoint would take back.
type writer struct {
	tx      pgx.Tx
	rows    []*mainstay.Message
	keep    int // rows before the savepoint; -1: there is none
	holding map[string]bool
}

// world runs writers and two sequencers in an order that rapid chooses, on real connections, one step at a time:
// that is every interleaving of transactions, without any waiting for luck.
type world struct {
	t       *rapid.T
	pool    *pgxpool.Pool
	stores  []*Store
	leases  []lease.Lease
	topic   string
	writers []*writer
	locked  map[string]*writer
	want    map[string][]string // ids by key, in commit order
}

func (w *world) begin(n int) {
	tx, err := w.pool.Begin(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	w.writers[n] = &writer{tx: tx, keep: -1, holding: map[string]bool{}}
}

// append locks the key, unless somebody else has it, and appends.
func (w *world) append(n int, key string, rows int) {
	wr := w.writers[n]
	if owner := w.locked[key]; owner != nil && owner != wr {
		return
	}
	w.locked[key] = wr
	wr.holding[key] = true
	ms := make([]*mainstay.Message, rows)
	for i := range ms {
		ms[i] = message(w.topic, key)
	}
	ob := outbox.New(mainstay.Postgres, testLanes)
	if err := ob.Prepare(ms); err != nil {
		w.t.Fatal(err)
	}
	st := outbox.PostgresInsert(ms)
	w.exec(n, st.SQL, st.Args...)
	wr.rows = append(wr.rows, ms...)
}

func (w *world) exec(n int, query string, args ...any) {
	if _, err := w.writers[n].tx.Exec(w.t.Context(), query, args...); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) end(n int, commit bool) {
	wr := w.writers[n]
	end := wr.tx.Rollback
	if commit {
		end = wr.tx.Commit
		for _, m := range wr.rows {
			w.want[m.Key] = append(w.want[m.Key], m.ID)
		}
	}
	if err := end(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	for key := range wr.holding {
		delete(w.locked, key)
	}
	w.writers[n] = nil
}

func (w *world) step() {
	n := rapid.IntRange(0, len(w.writers)-1).Draw(w.t, "writer")
	if w.writers[n] == nil {
		w.begin(n)
	}
	wr := w.writers[n]
	switch rapid.SampledFrom([]string{"append", "append", "commit", "commit", "rollback", "savepoint", "back", "round", "round"}).Draw(w.t, "do") {
	case "append":
		w.append(n, rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(w.t, "key"), rapid.IntRange(1, 4).Draw(w.t, "rows"))
	case "commit":
		w.end(n, true)
	case "rollback":
		w.end(n, false)
	case "savepoint":
		w.exec(n, "savepoint s")
		wr.keep = len(wr.rows)
	case "back":
		if wr.keep >= 0 {
			w.exec(n, "rollback to savepoint s")
			wr.rows = wr.rows[:wr.keep]
		}
	case "round":
		i := rapid.IntRange(0, len(w.stores)-1).Draw(w.t, "sequencer")
		if _, _, err := w.stores[i].Round(w.t.Context(), w.leases[i]); err != nil {
			w.t.Fatal(err)
		}
	}
}

// check compares the log with the model: exactly the committed rows, once, dense, per key in commit order.
func (w *world) check() {
	got := map[string][]string{}
	for lane := range testLanes {
		log := mainstay.TopicLane{Topic: w.topic, Lane: lane}
		for last := int64(0); ; {
			ms, err := w.stores[0].ReadLog(w.t.Context(), map[mainstay.TopicLane]int64{log: last}, 10_000)
			if err != nil {
				w.t.Fatal(err)
			}
			if len(ms) == 0 {
				break
			}
			for _, m := range ms { // memory may have the first of them only
				if last++; m.Sequence != last {
					w.t.Fatalf("sequence %d at place %d of %v", m.Sequence, last, log)
				}
				got[m.Key] = append(got[m.Key], m.ID)
			}
		}
	}
	if diff := cmp.Diff(w.want, got); diff != "" {
		w.t.Fatalf("the log differs from what was committed (-committed +log):\n%s", diff)
	}
}

func TestSequencer_NumbersExactlyWhatWasCommitted(t *testing.T) {
	t.Parallel()
	url := newDatabase(t)
	small := func(c *Config) { c.Chunk = 3 }
	a, b := openStore(t, url, small), openStore(t, url, small)
	l := lead(t, a)
	prepare(t, b, l)
	p := pool(t, url)
	rapid.Check(t, func(rt *rapid.T) {
		w := &world{
			t: rt, pool: p, stores: []*Store{a, b}, leases: []lease.Lease{l, l}, topic: "t-" + uuid.NewString(),
			writers: make([]*writer, 3), locked: map[string]*writer{}, want: map[string][]string{},
		}
		defer func() {
			for _, wr := range w.writers {
				if wr != nil {
					_ = wr.tx.Rollback(context.Background())
				}
			}
		}()
		for range rapid.IntRange(5, 40).Draw(rt, "steps") {
			w.step()
		}
		for n, wr := range w.writers {
			if wr != nil {
				w.end(n, true)
			}
		}
		drain(t, a, l)
		w.check()
	})
}

// Two rounds that wait for the state row at once: the second one's view of the outbox is older than the row that it
// gets, and it must number nothing.
func TestSequencer_OldViewNumbersNothing(t *testing.T) {
	t.Parallel()
	url := newDatabase(t)
	patient := func(c *Config) { c.LockTimeout = time.Minute }
	a, b := openStore(t, url, patient), openStore(t, url, patient)
	l := lead(t, a)
	prepare(t, b, l)
	send(t, a, message("orders", "k0"))
	drain(t, a, l)
	drain(t, b, l) // both know the state as it is now
	send(t, a, message("orders", "k1"), message("orders", "k2"))

	p := pool(t, url)
	holder, err := p.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := holder.Exec(t.Context(), "select from sequencer_state for update"); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	numbered := make([]int, 2)
	for i, s := range []*Store{a, b} {
		wg.Go(func() {
			n, _, err := s.Round(t.Context(), l)
			if err != nil {
				t.Error(err)
			}
			numbered[i] = n
		})
	}
	waitFor(t, p, "select count(*) = 2 from pg_stat_activity where wait_event_type = 'Lock' and query like '%sequencer.round%' and datname = current_database()")
	if err := holder.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	slices.Sort(numbered)
	if diff := cmp.Diff([]int{0, 2}, numbered); diff != "" {
		t.Fatal(diff)
	}
	if n := drain(t, b, l); n != 0 {
		t.Fatalf("%d numbered twice", n)
	}
}

// waitFor asks until the answer is true.
func waitFor(t testing.TB, p *pgxpool.Pool, query string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	for ok := false; !ok; {
		if err := p.QueryRow(ctx, query).Scan(&ok); err != nil {
			t.Fatalf("waiting for %s: %v", query, err)
		}
	}
}

func TestSequencer_FencesTheOldLeader(t *testing.T) {
	t.Parallel()
	url := newDatabase(t)
	a, b := openStore(t, url), openStore(t, url)
	old := lead(t, a)
	drain(t, a, old)
	lead(t, b)
	send(t, b, message("orders", "k"))
	_, _, err := a.Round(t.Context(), old)
	if !isFenced(err) {
		t.Fatalf("got %v, want fenced", err)
	}
}

// An open transaction that has written delays nobody but itself.
func TestSequencer_DoesNotStallBehindAnOpenTransaction(t *testing.T) {
	t.Parallel()
	url := newDatabase(t)
	s := openStore(t, url)
	l := lead(t, s)
	open, err := pool(t, url).Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer open.Rollback(context.Background()) // it has ended by then
	st, err := s.insert([]*mainstay.Message{message("orders", "late")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open.Exec(t.Context(), st.SQL, st.Args...); err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		send(t, s, message("orders", fmt.Sprint("k", i)))
		if n := drain(t, s, l); n != 1 {
			t.Fatalf("%d numbered, want 1", n)
		}
	}
	if err := open.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := drain(t, s, l); n != 1 {
		t.Fatalf("%d numbered after the late commit, want 1", n)
	}
}

// A dump that was restored elsewhere: transaction ids mean nothing there, and the log goes on in a new incarnation.
func TestSequencer_GoesOnInARestoredDump(t *testing.T) {
	t.Parallel()
	url := newDatabase(t)
	s := openStore(t, url)
	l := lead(t, s)
	send(t, s, message("orders", "k"))
	drain(t, s, l)
	send(t, s, message("orders", "k"))
	p := pool(t, url)
	for _, query := range []string{
		`update meta set identity = '1/1/1'`,
		`set mainstay.rebase = 'on'; update outbox set xid = '4000000000000'; reset mainstay.rebase`,
		`update sequencer_state set snapshot = '3999999999999:3999999999999:'`,
	} {
		if _, err := p.Exec(t.Context(), query); err != nil {
			t.Fatal(err)
		}
	}
	restored := openStore(t, url)
	l = lead(t, restored)
	if n := drain(t, restored, l); n != 1 {
		t.Fatalf("%d numbered, want the 1 that the log lacked", n)
	}
	send(t, restored, message("orders", "k"))
	if n := drain(t, restored, l); n != 1 {
		t.Fatalf("%d numbered afterwards, want 1", n)
	}
	log := mainstay.TopicLane{Topic: "orders", Lane: outbox.Lane("k", testLanes)}
	ms, err := restored.ReadLog(t.Context(), map[mainstay.TopicLane]int64{log: 0}, 10)
	if err != nil {
		t.Fatal(err)
	}
	var got [][2]int64
	for _, m := range ms {
		got = append(got, [2]int64{m.Incarnation, m.Sequence})
	}
	if diff := cmp.Diff([][2]int64{{1, 1}, {2, 2}, {2, 3}}, got); diff != "" {
		t.Fatal(diff)
	}
}

// Writers and two services at once, with takeovers in between: the same promise without a chosen order.
func TestSequencer_ManyAtOnce(t *testing.T) {
	t.Parallel()
	url := newDatabase(t)
	small := func(c *Config) { c.Chunk = 20 }
	a, b := openStore(t, url, small), openStore(t, url, small)
	ctx, cancel := context.WithCancel(t.Context())
	var services, writers sync.WaitGroup
	for name, s := range map[string]*Store{"a": a, "b": b} {
		services.Go(func() {
			cfg := sequencer.Config{Holder: name, TTL: 100 * time.Millisecond, Poll: time.Millisecond, Force: true}
			if err := sequencer.New(s, cfg).Run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	const each = 40
	for n := range 4 {
		writers.Go(func() {
			for i := range each {
				send(t, a, message("orders", fmt.Sprint("k", (n+i)%7)), message("orders", fmt.Sprint("k", i%3)))
			}
		})
	}
	writers.Wait()
	waitFor(t, pool(t, url), fmt.Sprintf("select coalesce(sum(last_sequence), 0) = %d from log_head", 4*each*2))
	cancel()
	services.Wait()
	drain(t, a, lead(t, a))
	const twice = `select count(*) - count(distinct position) from (select unnest(positions) as position from log) as l`
	var again, rows int
	if err := a.DB().GetContext(t.Context(), &again, twice); err != nil || again != 0 {
		t.Fatalf("%d numbered twice (%v)", again, err)
	}
	if err := a.DB().GetContext(t.Context(), &rows, "select sum(last_sequence) from log_head"); err != nil || rows != 4*each*2 {
		t.Fatalf("%d numbered (%v), want %d", rows, err, 4*each*2)
	}
}

// A promoted standby keeps its transaction ids: the log goes on where it is, in a new incarnation.
func TestSequencer_OpensAnIncarnationAfterAPromotion(t *testing.T) {
	t.Parallel()
	url := newDatabase(t)
	s := openStore(t, url)
	l := lead(t, s)
	send(t, s, message("orders", "k"))
	drain(t, s, l)
	send(t, s, message("orders", "k"))
	if err := s.Register(t.Context(), lane.Registration{Consumer: "c", Topics: []string{"unwritten"}}); err != nil {
		t.Fatal(err)
	}
	_, err := pool(t, url).Exec(t.Context(), `update meta set identity = regexp_replace(identity, '/[0-9]+/', '/77/')`)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time it is the same database
		l = lead(t, s)
	}
	if n := drain(t, s, l); n != 1 {
		t.Fatalf("%d numbered, want 1", n)
	}
	var got struct {
		Opened int64
		First  int64
		Used   int64
	}
	const query = `select i.id as opened, i.first_sequence as first, l.incarnation as used
from incarnation i join log l using (topic, lane) where l.first_sequence = 2`
	if err := s.DB().GetContext(t.Context(), &got, query); err != nil {
		t.Fatal(err)
	}
	if got.Opened != 2 || got.First != 2 || got.Used != 2 {
		t.Fatalf("%+v, want incarnation 2 from sequence 2 on", got)
	}
	// The old one may have written to it since.
	seam, err := s.Seam(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(history.Log{{ID: 2, First: 1}}, seam.Logs[mainstay.TopicLane{Topic: "unwritten"}]); diff != "" {
		t.Fatalf("a log with readers only (-want +got):\n%s", diff)
	}
}
