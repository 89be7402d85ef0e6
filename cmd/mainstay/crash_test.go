package main

import (
	"context"
	"database/sql"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	_ "modernc.org/sqlite" // the driver

	"github.com/mainstay-io/mainstay/internal/testkit/load"
	"github.com/mainstay-io/mainstay/internal/testkit/pgtest"
	"github.com/mainstay-io/mainstay/internal/testkit/proc"
)

// kills is how often the server is killed in one run: at least 30, more with MAINSTAY_TEST_KILLS.
func kills(t testing.TB) int {
	if testing.Short() {
		return 5
	}
	if n, err := strconv.Atoi(os.Getenv("MAINSTAY_TEST_KILLS")); err == nil {
		return max(30, n)
	}
	return 30
}

// TestServe_SurvivesKills kills the server again and again under load from clients that retry blindly, and then wants
// every invariant to hold. A run that did not meet what it is about is a failure as well.
func TestServe_SurvivesKills(t *testing.T) {
	t.Parallel()
	bin := proc.Build(t, "./cmd/mainstay")
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		survive(t, bin, []string{"--data", dir}, []string{"--data", dir}, "sqlite", "file:"+filepath.Join(dir, "mainstay.db")+"?mode=ro")
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		url := pgtest.New(t)
		runCommand(t, bin, "migrate", "up", "--database", url, "--lanes", "4")
		survive(t, bin, []string{"--data", t.TempDir(), "--database", url}, []string{"--database", url}, "pgx", url)
	})
}

// runCommand runs a command of the binary to its end and wants exit code 0.
func runCommand(t testing.TB, bin string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if out, err := exec.CommandContext(ctx, bin, args...).CombinedOutput(); err != nil {
		t.Fatalf("mainstay %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func survive(t *testing.T, bin string, serveArgs, verifyArgs []string, driver, source string) {
	t.Helper()
	http, ops := proc.FreeAddr(t), proc.FreeAddr(t)
	args := slices.Concat([]string{"serve", "--http", http, "--ops", ops, "--call-timeout", "300ms", "--step-timeout", "1s", "--order-deadline", "3m"}, serveArgs)
	start := func() *server { return waitServer(t, proc.Start(t, bin, args...)) }
	s := start()
	blind := load.Blind(t, s.URL, s.OpsURL)
	j := load.NewJournal(t)
	loading, stopLoad := context.WithCancel(t.Context())
	defer stopLoad()
	waitLoad := load.Run(loading, t, j, 12, blind)
	seen := map[string]float64{}
	overlapped := 0
	for range kills(t) {
		linger(t, time.Duration(100+rand.IntN(500))*time.Millisecond)
		for name, v := range counters(t.Context(), s.OpsURL, "mainstay_") {
			seen[name] += v
		}
		s.Kill()
		if inFlight(t, driver, source) > 0 {
			overlapped++
		}
		s = start()
	}
	linger(t, time.Second)
	stopLoad()
	waitLoad()
	ids := j.Accepted()
	for _, id := range ids {
		if o, err := s.Await(t.Context(), id, 3*time.Minute); err != nil || !o.Ended() {
			t.Fatalf("order %s did not end: %+v, error %v", id, o, err)
		}
	}
	for name, v := range counters(t.Context(), s.OpsURL, "mainstay_") {
		seen[name] += v
	}
	out := verify(t, append(slices.Clone(verifyArgs), "--journal", j.Path())...)
	t.Logf("%d orders of %.1f messages, %d of %d kills met sagas in flight\n%s", len(ids), messagesPerOrder(t, driver, source), overlapped, kills(t), out)
	conclusive(t, seen, overlapped)
}

// linger lets the load go on for a while.
func linger(t testing.TB, d time.Duration) {
	t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
	}
}

// inFlight counts sagas that have not ended, while no server runs.
func inFlight(t testing.TB, driver, source string) int {
	t.Helper()
	db, err := sql.Open(driver, source)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close() // it is only read
	var n int
	if err := db.QueryRowContext(t.Context(), `select count(*) from saga where ended_at is null`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// messagesPerOrder is how many messages it took to bring an order to its end, repetitions included.
func messagesPerOrder(t testing.TB, driver, source string) float64 {
	t.Helper()
	db, err := sql.Open(driver, source)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close() // it is only read
	var n float64
	if err := db.QueryRowContext(t.Context(), `select (select count(*) from outbox) * 1.0 / (select count(*) from saga)`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// conclusive fails the test unless what it is about has really happened.
func conclusive(t testing.TB, seen map[string]float64, overlapped int) {
	t.Helper()
	happened := func(what string, labels ...string) {
		var sum float64
		for name, v := range seen {
			if slices.ContainsFunc(labels, func(l string) bool { return strings.Contains(name, l) }) {
				sum += v
			}
		}
		if sum == 0 {
			t.Errorf("inconclusive: there were no %s; counters: %v", what, slices.Sorted(maps.Keys(seen)))
		}
		t.Logf("%s: %.0f", what, sum)
	}
	if overlapped == 0 {
		t.Error("inconclusive: no kill met a saga in flight")
	}
	happened("repeated messages", `outcome="duplicate"`, `outcome="repeated"`)
	happened("unknown outcomes", `outcome="unknown"`)
	happened("null compensations", `outcome="null"`)
}
