package serve

import (
	"context"
	"database/sql"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/migrate"
	"github.com/mainstay-io/mainstay/internal/order"
	"github.com/mainstay-io/mainstay/internal/testkit/pgtest"
	"github.com/mainstay-io/mainstay/worker"
)

// Variables that make this test binary a process whose mailer ends it without a word at one order's first event.
const (
	victimData     = "MAINSTAY_VICTIM_DATA"
	victimDatabase = "MAINSTAY_VICTIM_DATABASE"
	victimPoison   = "MAINSTAY_VICTIM_POISON"
	victimExit     = 86
)

// TestVictim is a test only for the processes that TestCrash starts. It works until its input ends.
func TestVictim(t *testing.T) {
	if os.Getenv(victimData) == "" {
		return
	}
	group := app.NewGroup(slog.Default(), app.NewHealth(slog.Default()), 10*time.Second)
	b, err := open(t.Context(), victimConfig(t, os.Getenv(victimData), os.Getenv(victimDatabase)), slog.New(slog.DiscardHandler), group, hooks{register: func(w *worker.Worker) {
		w.Handle("mailer", []string{order.TopicEvents}, worker.Each(exiting{}))
	}})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range b.services() {
		group.Add(s)
	}
	ctx, stop := context.WithCancel(t.Context())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	if err := group.Run(ctx); err != nil {
		t.Error(err)
	}
}

func victimConfig(t *testing.T, data, database string) app.Config {
	t.Helper()
	cfg, err := app.LoadConfig(app.Env{Getenv: func(string) string { return "" }}, nil)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Data, cfg.Database, cfg.Broker = data, database, "database"
	return cfg
}

// exiting writes down what it handles, and ends the process at the poison.
type exiting struct{}

func (exiting) Handle(ctx context.Context, tx mainstay.Tx, m *mainstay.Message) error {
	if m.Key == os.Getenv(victimPoison) {
		os.Exit(victimExit)
	}
	_, err := tx.ExecContext(ctx, "insert into mail (id) values ($1)", m.ID)
	return err
}

// TestCrash_OfAHandler runs a handler that calls os.Exit at one message: the message ends as many processes as its
// budget says and is a dead letter then, its neighbours are handled and uncharged, and the next process stays up.
func TestCrash_OfAHandler(t *testing.T) {
	t.Parallel()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		crash(t, 1, dir, "", "sqlite", "file:"+filepath.Join(dir, "mainstay.db")+"?_pragma=busy_timeout(5000)")
	})
	t.Run("two processes on postgres", func(t *testing.T) {
		t.Parallel()
		url := pgtest.New(t)
		db, err := sql.Open("pgx", url)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close() // it was used once
		if _, err := migrate.Up(t.Context(), db, mainstay.Postgres, 4); err != nil {
			t.Fatal(err)
		}
		crash(t, 2, t.TempDir(), url, "pgx", url)
	})
}

func crash(t *testing.T, processes int, dir, database, driver, source string) {
	t.Helper()
	db, err := sql.Open(driver, source)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close() // it is only read
	set := func(cfg *app.Config) { *cfg = victimConfig(t, dir, database) }
	var poison string
	t.Run("orders", func(t *testing.T) {
		r := run(t, set, hooks{})
		var all []*order.Order
		for range 20 {
			all = append(all, placed(t, "tok_ok", "mug-red"))
		}
		poison = all[7].ID
		r.accept(t, all...)
		for _, o := range all {
			r.wantEnd(t, o.ID, "confirmed")
		}
		if _, err := db.ExecContext(t.Context(), "create table mail (id text)"); err != nil {
			t.Fatal(err)
		}
	})
	if deaths := reap(t, db, processes, dir, database, poison); deaths != 4 {
		t.Errorf("%d processes died, want 4", deaths)
	}
	t.Run("afterwards", func(t *testing.T) {
		r := run(t, set, hooks{})
		if d := r.wantDeadLetter(t, "mailer", poison); d.kind != "crash" || d.typ != order.EventPlaced {
			t.Errorf("the dead letter is %+v", d)
		}
		r.wantParked(t, "mailer", poison, 2) // the dead head, and what came after it
	})
	count(t, db, 38, "select count(*) from mail")
	count(t, db, 38, "select count(distinct id) from mail")
	count(t, db, 2, "select count(*) from parked")
}

func count(t *testing.T, db *sql.DB, want int, query string) {
	t.Helper()
	var n int
	if err := db.QueryRowContext(t.Context(), query).Scan(&n); err != nil || n != want {
		t.Errorf("%s: %d, error %v; want %d", query, n, err, want)
	}
}

// reap keeps processes running, each started again when the poison has ended it, until everything else is handled
// and nothing is suspected. It gives the number of deaths.
func reap(t *testing.T, db *sql.DB, processes int, dir, database, poison string) (deaths int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	var mu sync.Mutex
	var all sync.WaitGroup
	for i := range processes {
		all.Go(func() {
			for victim(ctx, t, db, filepath.Join(dir, map[bool]string{true: fmt.Sprint(i)}[database != ""]), database, poison) {
				mu.Lock()
				deaths++
				mu.Unlock()
			}
		})
	}
	all.Wait()
	return deaths
}

// victim runs one process until the poison has ended it, which is true, or all is done.
func victim(ctx context.Context, t *testing.T, db *sql.DB, dir, database, poison string) bool {
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestVictim$")
	cmd.Env = append(os.Environ(), victimData+"="+dir, victimDatabase+"="+database, victimPoison+"="+poison)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Error(err)
		return false
	}
	if err := cmd.Start(); err != nil {
		t.Error(err)
		return false
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-ended:
			if cmd.ProcessState.ExitCode() != victimExit {
				t.Errorf("a process ended with %v", err)
				return false
			}
			return true
		case <-tick.C:
		}
		var open int
		query := `select 38 - (select count(*) from mail) + (select count(*) from crash where sequence = 0 or running) + 1 - (select count(*) from dead_letter)`
		if err := db.QueryRowContext(ctx, query).Scan(&open); err == nil && open == 0 {
			_ = stdin.Close() // it stops
			if err := <-ended; err != nil {
				t.Errorf("stopping: %v", err)
			}
			return false
		}
	}
}
