package postgres

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/ingest"
	"github.com/mainstay-io/mainstay/internal/lane"
	"github.com/mainstay-io/mainstay/internal/lease"
	"github.com/mainstay-io/mainstay/internal/relay"
	"github.com/mainstay-io/mainstay/internal/sequencer"
	"github.com/mainstay-io/mainstay/internal/store/storetest"
	"github.com/mainstay-io/mainstay/internal/testkit/pgtest"
)

var (
	_ ingest.Store    = (*Store)(nil)
	_ lane.Store      = (*Store)(nil)
	_ lease.Store     = (*Store)(nil)
	_ relay.Store     = (*Store)(nil)
	_ sequencer.Store = (*Store)(nil)
)

func TestStore_AcceptsIdempotently(t *testing.T) {
	t.Parallel()
	storetest.Ingest(t, func(t *testing.T) ingest.Store { return newStore(t) })
}

func TestOpen_RefusesAnotherSchema(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		url    func(t *testing.T) string
		change string
		want   string
	}{
		"none":    {url: func(t *testing.T) string { return pgtest.New(t) }, want: "no schema"},
		"older":   {change: "delete from goose_db_version where version_id > 1", want: "this binary needs"},
		"newer":   {change: "update compatibility set oldest = 9999", want: "newer"},
		"unfound": {change: "delete from meta", want: "no schema"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var url string
			if test.url != nil {
				url = test.url(t)
			} else {
				url = newDatabase(t)
				if _, err := pool(t, url).Exec(t.Context(), test.change); err != nil {
					t.Fatal(err)
				}
			}
			_, err := Open(t.Context(), Config{URL: url})
			var schema *SchemaError
			if !errors.As(err, &schema) || !strings.Contains(schema.Error(), test.want) {
				t.Fatalf("got %v, want a schema error with %q", err, test.want)
			}
		})
	}
}

func TestOpen_RefusesUnsafeCommits(t *testing.T) {
	t.Parallel()
	url := newDatabase(t) + "&options=-c%20synchronous_commit%3Doff"
	_, err := Open(t.Context(), Config{URL: url})
	var unsafe *UnsafeError
	if !errors.As(err, &unsafe) || unsafe.Setting != "synchronous_commit" {
		t.Fatalf("got %v, want *UnsafeError", err)
	}
	openStore(t, url, func(c *Config) { c.AllowUnsafe = true })
}

// register makes a consumer with one leased lane, and gives its place.
func register(t *testing.T, s *Store) (lane.Unit, lane.Place) {
	t.Helper()
	if err := s.Register(t.Context(), lane.Registration{Consumer: "c", Topics: []string{"orders"}}); err != nil {
		t.Fatal(err)
	}
	ls, err := s.Acquire(t.Context(), "c", []int{0}, "one", time.Minute, false)
	if err != nil || len(ls) != 1 {
		t.Fatal(ls, err)
	}
	ps, err := s.Places(t.Context(), "c", []int{0})
	if err != nil || len(ps) != 1 {
		t.Fatal(ps, err)
	}
	return lane.Unit{Consumer: "c", Leases: ls}, ps[0]
}

func next(p lane.Place) lane.Place {
	p.Sequence++
	p.MessageID = "m"
	return p
}

func TestUnit_MovesFromWhereItIs(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	u, at := register(t, s)
	move := func(_ context.Context, tx lane.Tx) error {
		tx.Queue(`insert into barrier values ('c', $1, 'do', 'done', '', '', '', now())`, time.Now().String())
		tx.Move(at, next(at))
		return nil
	}
	if err := s.Unit(t.Context(), u, move); err != nil {
		t.Fatal(err)
	}
	if err := s.Unit(t.Context(), u, move); !isFenced(err) {
		t.Fatalf("moving twice: got %v, want fenced", err)
	}
	var rows int
	if err := s.db.GetContext(t.Context(), &rows, "select count(*) from barrier"); err != nil || rows != 1 {
		t.Fatalf("%d effects (%v), want that of the first unit", rows, err)
	}
}

func TestUnit_FencesTheOldHolder(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	u, _ := register(t, s)
	taken, err := s.Acquire(t.Context(), "c", []int{0}, "two", time.Minute, true)
	if err != nil {
		t.Fatal(err)
	}
	want := []lease.Lease{{Name: "c", Lane: 0, Epoch: 2, Unclean: true, From: "one"}}
	if diff := cmp.Diff(want, taken); diff != "" {
		t.Fatal(diff)
	}
	for name, work := range map[string]func(ctx context.Context, tx lane.Tx) error{
		"that does nothing": func(context.Context, lane.Tx) error { return nil },
		"that only writes": func(_ context.Context, tx lane.Tx) error {
			tx.PutBarriers(lane.Barrier{StepKey: "s/step", Op: mainstay.OpDo, Outcome: mainstay.OutcomeDone})
			return nil
		},
		"that reads": func(ctx context.Context, tx lane.Tx) error {
			_, err := tx.QueryContext(ctx, "select 1") //nolint:sqlclosecheck,rowserrcheck // it must fail
			return err
		},
		"that looks away": func(ctx context.Context, tx lane.Tx) error {
			if bs, err := tx.Barriers(ctx, []string{"s/step"}); err == nil {
				t.Errorf("read %v", bs)
			}
			return nil
		},
	} {
		if err := s.Unit(t.Context(), u, work); !isFenced(err) {
			t.Errorf("a unit %s: got %v, want fenced", name, err)
		}
	}
	var rows int
	if err := s.db.GetContext(t.Context(), &rows, "select count(*) from barrier"); err != nil || rows != 0 {
		t.Errorf("%d effects of the old holder (%v)", rows, err)
	}
}

// A holder that was paused inside a transaction keeps its lane locked past its lease; the successor ends its session.
func TestAcquire_EndsASessionThatHoldsALanePastItsLease(t *testing.T) {
	t.Parallel()
	s := newStore(t, func(c *Config) { c.LockTimeout = 50 * time.Millisecond })
	u, at := register(t, s)
	err := s.Unit(t.Context(), u, func(ctx context.Context, tx lane.Tx) error {
		if _, err := tx.Barriers(ctx, []string{"s/step"}); err != nil { // it begins
			return err
		}
		expire := `update lease set expires_at = now() - interval '1 second'`
		if _, err := s.db.ExecContext(ctx, expire); err != nil {
			return err
		}
		tx.Move(at, next(at))
		taken, err := s.Acquire(t.Context(), "c", []int{0}, "two", time.Minute, false)
		if err != nil || len(taken) != 1 {
			t.Errorf("taking over: %v, %v", taken, err)
		}
		return nil
	})
	if !errors.Is(err, lane.ErrTransient) {
		t.Fatalf("the paused unit: got %v, want transient", err)
	}
	ps, err := s.Places(t.Context(), "c", []int{0})
	if err != nil || ps[0].Sequence != 0 {
		t.Fatalf("the paused unit has moved the place: %v, %v", ps, err)
	}
}

func TestAcquire_LeavesALivingHolderAlone(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	u, _ := register(t, s)
	err := s.Unit(t.Context(), u, func(ctx context.Context, _ lane.Tx) error {
		taken, err := s.Acquire(t.Context(), "c", []int{0}, "two", time.Minute, false)
		if err != nil || len(taken) != 0 {
			t.Errorf("got %v, %v, want nothing", taken, err)
		}
		_, err = s.Renew(t.Context(), "one", u.Leases, time.Minute) // it does not wait for the unit
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// What the work fails with stays what it is: a timeout of its own is not the database's.
func TestUnit_KeepsTheWorksOwnError(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	u, _ := register(t, s)
	for name, want := range map[string]error{"eof": io.ErrUnexpectedEOF, "deadline": context.DeadlineExceeded} {
		t.Run(name, func(t *testing.T) {
			err := s.Unit(t.Context(), u, func(context.Context, lane.Tx) error { return want })
			if !errors.Is(err, want) || errors.Is(err, lane.ErrTransient) {
				t.Fatalf("got %v", err)
			}
		})
	}
	err := s.Unit(t.Context(), u, func(context.Context, lane.Tx) error { panic("no") })
	var p *mainstay.PanicError
	if !errors.As(err, &p) {
		t.Fatalf("got %v, want a panic", err)
	}
}

// PostgreSQL answers the commit of a failed transaction with a rollback and no error; that must not pass for success.
func TestUnit_NoticesAFailedStatementThatWasIgnored(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	u, _ := register(t, s)
	err := s.Unit(t.Context(), u, func(ctx context.Context, tx lane.Tx) error {
		_, err := tx.ExecContext(ctx, "select 1/0")
		if err == nil {
			t.Error("the statement did not fail")
		}
		return nil
	})
	if err == nil || errors.Is(err, lane.ErrTransient) {
		t.Fatalf("got %v, want an error of the work", err)
	}
}

func TestUnit_ParksAndReads(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	u, at := register(t, s)
	now := time.Now().UTC().Truncate(time.Microsecond)
	m := message("orders", "k")
	m.ID, m.Sequence, m.Headers = "0190b2a0-0000-7000-8000-000000000001", 7, map[string]string{"a": "b"}
	p := lane.Parked{
		Ref: lane.Ref{TopicLane: at.TopicLane, Sequence: 7}, Key: "k", State: lane.ParkedRetry, Attempts: 1,
		Due: now, Error: "broken \x00 text", Message: m,
	}
	unit(t, s, u, func(tx lane.Tx) { tx.Park(p) })
	p.State, p.Attempts, p.Error = lane.ParkedDead, 2, "worse"
	unit(t, s, u, func(tx lane.Tx) {
		tx.Repark(p)
		tx.DeadLetter(lane.DeadLetter{Ref: p.Ref, Message: m, Error: "worse", Attempts: 2, At: now})
	})
	got, err := s.LoadParked(t.Context(), "c", []lane.Ref{p.Ref, {TopicLane: at.TopicLane, Sequence: 8}})
	if err != nil || len(got) != 1 {
		t.Fatal(got, err)
	}
	got[0].ParkedAt = time.Time{}
	if diff := cmp.Diff([]lane.Parked{p}, got); diff != "" {
		t.Fatal(diff)
	}
	unit(t, s, u, func(tx lane.Tx) {
		tx.EndDeadLetter(lane.DeadResolved, p.Ref)
		tx.Unpark(p.Ref)
	})
	keys, err := s.ParkedKeys(t.Context(), "c", []int{0})
	if err != nil || len(keys) != 0 {
		t.Fatal(keys, err)
	}
	var state string
	if err := s.db.GetContext(t.Context(), &state, "select state from dead_letter"); err != nil || state != lane.DeadResolved {
		t.Fatal(state, err)
	}
}

func unit(t *testing.T, s *Store, u lane.Unit, fn func(tx lane.Tx)) {
	t.Helper()
	err := s.Unit(t.Context(), u, func(_ context.Context, tx lane.Tx) error {
		fn(tx)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestRelay_SavesProgressUnderItsLeases(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	ls, err := s.Acquire(t.Context(), "relay", []int{0, 1}, "one", time.Minute, false)
	if err != nil {
		t.Fatal(err)
	}
	want := []relay.Progress{{TopicLane: mainstay.TopicLane{Topic: "orders"}, Incarnation: 1, Sequence: 9, MessageID: "m", BrokerPosition: 12}}
	if err := s.SaveProgress(t.Context(), relay.Save{Leases: ls, Progress: want}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Acquire(t.Context(), "relay", []int{1}, "two", time.Minute, true); err != nil {
		t.Fatal(err)
	}
	worse := []relay.Progress{{TopicLane: want[0].TopicLane, Incarnation: 1, Sequence: 3}}
	if err := s.SaveProgress(t.Context(), relay.Save{Leases: ls, Progress: worse}); !isFenced(err) {
		t.Fatalf("got %v, want fenced", err)
	}
	got, err := s.Progress(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatal(diff)
	}
}

func TestLog_ReadsFromMemoryAndFromTheDatabase(t *testing.T) {
	t.Parallel()
	url := newDatabase(t)
	s := openStore(t, url)
	l := lead(t, s)
	for range 5 {
		send(t, s, message("orders", "k"), message("orders", "k"), message("orders", "k"))
		drain(t, s, l)
	}
	heads, err := s.Heads(t.Context())
	if err != nil || len(heads) != 1 {
		t.Fatal(heads, err)
	}
	cold := openStore(t, url)
	for log, head := range heads {
		if head != 15 {
			t.Fatalf("head %d, want 15", head)
		}
		for after := range int64(16) {
			for _, limit := range []int{1, 4, 100} {
				first, err := cold.ReadLog(t.Context(), map[mainstay.TopicLane]int64{log: after}, limit)
				if err != nil {
					t.Fatal(err)
				}
				if want := min(limit, int(head-after)); len(first) == 0 != (want == 0) || len(first) > want {
					t.Fatalf("%d messages after %d, want %d", len(first), after, want)
				}
				for i, m := range first {
					if m.Sequence != after+int64(i)+1 || m.Key != "k" || m.Topic != "orders" {
						t.Fatalf("message %d after %d: %+v", i, after, m)
					}
				}
			}
		}
	}
}

// A connection that is lost while the commit is under way leaves an open question, not an answer.
func TestCommit_LostConnectionIsAmbiguous(t *testing.T) {
	t.Parallel()
	url := newDatabase(t)
	s := openStore(t, url, func(c *Config) { c.LockTimeout = time.Minute; c.StatementTimeout = time.Minute })
	p := pool(t, url)
	holder, err := p.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Rollback(context.Background()) // it only held a lock
	if _, err := holder.Exec(t.Context(), "lock table outbox in access exclusive mode"); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		done <- s.Run(context.Background(), func(_ context.Context, tx mainstay.Tx) error {
			tx.Send(message("orders", "k"))
			return nil
		})
	}()
	const stuck = "from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
	waitFor(t, p, "select count(*) = 1 "+stuck)
	if _, err := p.Exec(t.Context(), "select pg_terminate_backend(pid) "+stuck); err != nil {
		t.Fatal(err)
	}
	err = <-done
	if !errors.Is(err, errAmbiguous) || !errors.Is(err, lane.ErrTransient) {
		t.Fatalf("got %v, want ambiguous and transient", err)
	}
	if got := ingestError(t.Context(), err, true); !errors.Is(got, ingest.ErrAmbiguous) {
		t.Fatalf("to ingest: %v", got)
	}
}

// Memory holds a dense end of the log, whatever it was given.
func TestTail_IsDense(t *testing.T) {
	t.Parallel()
	log := mainstay.TopicLane{Topic: "orders"}
	tl := newTail()
	put := func(sequence int64, size int) {
		tl.add([]*mainstay.Message{{Topic: "orders", Sequence: sequence, Payload: make([]byte, size)}}, tl.moment())
	}
	for i := range int64(3 * tailSize) {
		put(i+1, 1)
	}
	put(1, 1)
	if got, _ := tl.after(log, 0, 10); len(got) != 0 {
		t.Fatalf("it reaches back to %d", got[0].Sequence)
	}
	end := int64(3 * tailSize)
	if got, _ := tl.after(log, end-2, 10); len(got) != 2 || got[0].Sequence != end-1 {
		t.Fatalf("%d messages at the end", len(got))
	}
	put(end+1, tailPayload+1)
	put(end+2, 1)
	if got, _ := tl.after(log, end, 10); len(got) != 0 {
		t.Fatalf("it steps over %d", end+1)
	}
	if got, _ := tl.after(log, end+1, 10); len(got) != 1 {
		t.Fatalf("%d messages behind the large one, want 1", len(got))
	}
}
