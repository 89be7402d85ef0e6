package sqlite_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"github.com/google/go-cmp/cmp"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/ingest"
	"github.com/mainstay-io/mainstay/internal/lane"
	"github.com/mainstay-io/mainstay/internal/migrate"
	"github.com/mainstay-io/mainstay/internal/store/sqlite"
	"github.com/mainstay-io/mainstay/internal/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newFile makes a database and gives its path.
func newFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "test.db")
	db, err := sql.Open("sqlite", sqlite.DSN(path, "OFF", false))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close() // a test's connection
	if _, err := migrate.Up(t.Context(), db, mainstay.SQLite, 4); err != nil {
		t.Fatal(err)
	}
	return path
}

func open(t *testing.T, path string) *sqlite.Store {
	t.Helper()
	s, err := sqlite.Open(t.Context(), sqlite.Config{Path: path, Sync: "OFF"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func fixture(t *testing.T) *storetest.Fixture {
	t.Helper()
	return &storetest.Fixture{Machinery: open(t, newFile(t))}
}

func TestStore_Leases(t *testing.T) { t.Parallel(); storetest.Leases(t, fixture) }
func TestStore_Log(t *testing.T)    { t.Parallel(); storetest.Log(t, fixture) }
func TestStore_Lanes(t *testing.T)  { t.Parallel(); storetest.Lanes(t, fixture) }
func TestStore_Sagas(t *testing.T)  { t.Parallel(); storetest.Sagas(t, fixture) }

func TestStore_Ingest(t *testing.T) {
	t.Parallel()
	storetest.Ingest(t, func(t *testing.T) ingest.Store { return open(t, newFile(t)) })
}

func TestStore_Retention(t *testing.T) {
	t.Parallel()
	storetest.Retention(t, func(t *testing.T) *storetest.RetentionFixture {
		t.Helper()
		s := open(t, newFile(t))
		return &storetest.RetentionFixture{
			Store: s,
			Age: func(t *testing.T, table, column string, days int) {
				t.Helper()
				query := fmt.Sprintf("update %s set %s = %s - %d * 86400000000", table, column, column, days)
				err := s.Run(t.Context(), func(ctx context.Context, tx mainstay.Tx) error {
					_, err := tx.ExecContext(ctx, query)
					return err
				})
				if err != nil {
					t.Fatal(err)
				}
			},
			Count: func(t *testing.T, table string) (n int) {
				t.Helper()
				if err := s.Reader().QueryRowContext(t.Context(), "select count(*) from "+table).Scan(&n); err != nil {
					t.Fatal(err)
				}
				return n
			},
		}
	})
}

func send(s *sqlite.Store, payload string) error {
	return s.Run(context.Background(), func(_ context.Context, tx mainstay.Tx) error {
		tx.Send(&mainstay.Message{Topic: "a", Key: "k", Type: "test.happened", Payload: []byte(payload)})
		return nil
	})
}

func count(t *testing.T, s *sqlite.Store) (n int) {
	t.Helper()
	if err := s.Reader().QueryRowContext(t.Context(), "select count(*) from outbox").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestStore_FullDisk: a unit that meets the end of the disk fails as the database's failure, like its neighbours, and
// what was answered with success is there.
func TestStore_FullDisk(t *testing.T) {
	t.Parallel()
	s := open(t, newFile(t))
	exec := func(query string) {
		t.Helper()
		err := s.Run(t.Context(), func(ctx context.Context, tx mainstay.Tx) error {
			rows, err := tx.QueryContext(ctx, query)
			if err != nil {
				return err
			}
			return errors.Join(rows.Err(), rows.Close())
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	exec("pragma max_page_count = 80")
	var mu sync.Mutex
	var wg sync.WaitGroup
	succeeded, failed := 0, 0
	for i := range 64 {
		wg.Go(func() {
			size := 200
			if i%8 == 0 {
				size = 100_000
			}
			err := send(s, strings.Repeat("x", size))
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				succeeded++
			case errors.Is(err, lane.ErrTransient):
				failed++
			default:
				t.Errorf("got %v, want the database to be blamed", err)
			}
		})
	}
	wg.Wait()
	if n := count(t, s); n != succeeded || failed == 0 {
		t.Fatalf("%d are there, %d were confirmed, %d refused", n, succeeded, failed)
	}
	exec("pragma max_page_count = 100000")
	if err := send(s, "after"); err != nil {
		t.Fatal(err)
	}
	if n := count(t, s); n != succeeded+1 {
		t.Fatalf("%d are there, want %d", n, succeeded+1)
	}
}

// TestStore_SwallowedFullDisk: a handler that goes on after the disk was full does not commit statements one by one.
func TestStore_SwallowedFullDisk(t *testing.T) {
	t.Parallel()
	s := open(t, newFile(t))
	err := s.Run(t.Context(), func(ctx context.Context, tx mainstay.Tx) error {
		rows, err := tx.QueryContext(ctx, "pragma max_page_count = 60")
		if err != nil {
			return err
		}
		return errors.Join(rows.Err(), rows.Close())
	})
	if err != nil {
		t.Fatal(err)
	}
	err = s.Run(t.Context(), func(ctx context.Context, tx mainstay.Tx) error {
		_, full := tx.ExecContext(ctx, "insert into meta values (zeroblob(1000000), 1, '', 1)")
		_, full2 := tx.ExecContext(ctx, "insert into orders select hex(zeroblob(1000000)), '', '', 'pending', '', '', 'EUR', 1, 'FR', '', 1, 1, null")
		_, _ = full, full2
		tx.Send(&mainstay.Message{Topic: "a", Key: "k", Type: "test.happened"})
		return nil
	})
	if !errors.Is(err, lane.ErrTransient) {
		t.Fatalf("got %v", err)
	}
	if n := count(t, s); n != 0 {
		t.Fatalf("%d messages without their transaction", n)
	}
}

// TestStore_FailsAlone: of units that share a transaction those that fail leave nothing behind, and those before and
// after them everything, once, however often they ran.
func TestStore_FailsAlone(t *testing.T) {
	t.Parallel()
	s := open(t, newFile(t))
	inside, goOn := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	begun := sync.OnceFunc(func() { close(inside) })
	wg.Go(func() {
		err := s.Run(context.Background(), func(context.Context, mainstay.Tx) error { begun(); <-goOn; return nil })
		if err != nil {
			t.Error(err)
		}
	})
	<-inside // what follows is one fold, or two
	const units = 12
	var told, ran [units]atomic.Int64
	var errs [units]error
	for i := range units {
		wg.Go(func() {
			errs[i] = s.Run(context.Background(), func(ctx context.Context, tx mainstay.Tx) error {
				ran[i].Add(1)
				tx.OnCommit(func() { told[i].Add(1) })
				tx.Send(&mainstay.Message{Topic: "a", Key: "k", Type: "test.happened", Payload: []byte{byte(i)}})
				tx.Queue(`insert into stock (sku, on_hand, reserved, shipped) values ($1, 1, 0, 0)`, fmt.Sprint(i))
				switch i % 4 {
				case 1:
					return errOops
				case 2:
					panic(errOops)
				case 3:
					for _, sku := range []string{"a", "b", "c", "a"} { // the last one is refused, in a merged statement
						tx.Queue(`insert into stock (sku, on_hand, reserved, shipped) values ($1, $2, $3, $4)`, fmt.Sprint(sku, i), 0, 0, 0)
					}
				}
				return nil
			})
		})
	}
	close(goOn)
	wg.Wait()
	for i := range units {
		ok := i%4 == 0
		if (errs[i] == nil) != ok || (told[i].Load() == 1) != ok || told[i].Load() > 1 {
			t.Errorf("unit %d ended with %v, and told %d times of it", i, errs[i], told[i].Load())
		}
		if n := ran[i].Load(); n < 1 || n > 2 || !ok && n > 1 {
			t.Errorf("unit %d ran %d times", i, n)
		}
	}
	var skus, sequences int
	query := `select (select count(*) from stock), (select max(sequence) from outbox)`
	if err := s.Reader().QueryRowContext(t.Context(), query).Scan(&skus, &sequences); err != nil {
		t.Fatal(err)
	}
	if skus != units/4 || count(t, s) != units/4 || sequences != units/4 {
		t.Errorf("%d rows, %d messages up to sequence %d, want %d each", skus, count(t, s), sequences, units/4)
	}
}

// TestStore_Follow: who follows is told of what was committed, in the order of the log, and of nothing else.
func TestStore_Follow(t *testing.T) {
	t.Parallel()
	s := open(t, newFile(t))
	var told []string
	stop := s.Follow(func(ms []*mainstay.Message) {
		for _, m := range ms {
			told = append(told, fmt.Sprint(m.Key, m.Sequence, " of incarnation ", m.Incarnation))
		}
	})
	send := func(fail error, keys ...string) {
		err := s.Run(t.Context(), func(_ context.Context, tx mainstay.Tx) error {
			for _, key := range keys {
				tx.Send(&mainstay.Message{Topic: "a", Key: key, Lane: 0, Type: "test.happened", Payload: []byte("{}")})
			}
			return fail
		})
		if !errors.Is(err, fail) {
			t.Fatal(err)
		}
	}
	send(nil, "k", "k")
	send(errOops, "k")
	send(nil, "k")
	stop()
	send(nil, "k")
	want := []string{"k1 of incarnation 1", "k2 of incarnation 1", "k3 of incarnation 1"}
	if diff := cmp.Diff(want, told); diff != "" {
		t.Errorf("told (-want +got):\n%s", diff)
	}
}

var errOops = errors.New("oops")

func TestStore_ClosesWhileUnitsWait(t *testing.T) {
	t.Parallel()
	s := open(t, newFile(t))
	inside, goOn := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	var first error
	wg.Go(func() {
		first = s.Run(context.Background(), func(_ context.Context, tx mainstay.Tx) error {
			close(inside)
			<-goOn
			tx.Send(&mainstay.Message{Topic: "a", Key: "k", Type: "test.happened"})
			return nil
		})
	})
	<-inside
	errs := make([]error, 50)
	for i := range errs {
		wg.Go(func() { errs[i] = send(s, "x") })
	}
	wg.Go(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	close(goOn)
	wg.Wait()
	if first != nil {
		t.Fatalf("the unit that had begun: %v", first)
	}
	for _, err := range errs {
		if err != nil && !errors.Is(err, sqlite.ErrClosed) {
			t.Fatalf("a unit that waited: %v", err)
		}
	}
	if err := send(s, "x"); !errors.Is(err, sqlite.ErrClosed) {
		t.Fatalf("after Close: %v", err)
	}
}

func TestStore_ContextEndsInTheQueue(t *testing.T) {
	t.Parallel()
	s := open(t, newFile(t))
	inside, goOn := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		err := s.Run(context.Background(), func(context.Context, mainstay.Tx) error { close(inside); <-goOn; return nil })
		if err != nil {
			t.Error(err)
		}
	})
	<-inside
	ctx, cancel := context.WithCancelCause(t.Context())
	var got error
	ran := false
	wg.Go(func() {
		got = s.Run(ctx, func(context.Context, mainstay.Tx) error { ran = true; return nil })
	})
	cancel(mainstay.ErrShutdown)
	close(goOn)
	wg.Wait()
	if ran != (got == nil) || got != nil && !errors.Is(got, mainstay.ErrShutdown) {
		t.Fatalf("ran: %v, answer: %v", ran, got)
	}
}

// TestStore_LeftOpenRows: rows that a handler never closed hinder nobody, not even Close; neither do statements that
// were prepared before a rollback.
func TestStore_LeftOpenRows(t *testing.T) {
	t.Parallel()
	s := open(t, newFile(t))
	for i := range 4 {
		err := s.Run(t.Context(), func(ctx context.Context, tx mainstay.Tx) error {
			rows, err := tx.QueryContext(ctx, "select 1 union all select 2") //nolint:rowserrcheck // they are left behind
			if err != nil {
				return err
			}
			if !rows.Next() {
				t.Error("no row")
			}
			if i%2 == 0 {
				panic("oops") // the rows stay open
			}
			return nil
		})
		if (err == nil) != (i%2 == 1) {
			t.Fatal(err)
		}
		if err := send(s, "x"); err != nil {
			t.Fatal(err)
		}
	}
	if n := count(t, s); n != 4 {
		t.Fatalf("%d messages, want 4", n)
	}
}
