package process_test

import (
	"bytes"
	"context"
	"database/sql"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/mainstay-io/mainstay/internal/testkit/cluster"
	"github.com/mainstay-io/mainstay/internal/testkit/proc"
)

// before is the commit whose processes do not know when an order ended (migration 11); its own latest migration is 10.
const before = "01c7e9d81628a2dec0cc91c6242fb22f79842c3b"

// buildBefore builds the binaries of that commit, by kind.
func buildBefore(t *testing.T) map[string]string {
	t.Helper()
	dir := t.TempDir()
	run := func(name string, args ...string) error {
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Logf("%s: %v\n%s", cmd, err, out)
		}
		return err
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	if err := run("git", "-C", root, "archive", "--output", filepath.Join(dir, "before.tar"), before); err != nil {
		t.Skipf("skipped: this machine cannot build the program of before: it has no git, or not the history with commit %s", before)
	}
	if err := run("tar", "-xf", "before.tar"); err != nil {
		t.Fatal("unpacking the sources of before")
	}
	bin := filepath.Join(dir, "bin") + string(filepath.Separator)
	if err := run("go", "build", "-o", bin, "./cmd/ingest", "./cmd/outbox", "./cmd/worker", "./cmd/mainstay"); err != nil {
		t.Fatal("building the sources of before")
	}
	binaries := map[string]string{}
	for _, kind := range []string{cluster.Ingest, cluster.Outbox, cluster.Worker, cluster.Tool} {
		binaries[kind] = bin + kind
	}
	return binaries
}

// TestProcesses_Upgrade brings a running system of the commit before a migration to the one after it, under load:
// the schema is expanded, the backfill dies in the middle, processes are replaced one after another, the backfill is
// made again while both kinds work, and the schema is contracted when only new ones are left.
func TestProcesses_Upgrade(t *testing.T) {
	t.Parallel()
	u := &upgrade{t: t, old: buildBefore(t), tool: proc.BuildPlain(t, "./cmd/mainstay")}
	shape := cluster.Shape{Ingest: 2, Flags: brief(), Binaries: u.old}
	underLoad(t, shape, func(ctx context.Context, c *cluster.Cluster) {
		u.c, u.ctx = c, ctx
		u.killBackfill()
		u.refused("contract", "was not applied yet")

		names := c.Names("")
		half := len(names) / 2
		u.replace(names[:half]...)
		u.replace("worker-1") // worker-2 stays for now
		u.bothWork("worker-1", "worker-2")
		u.during("the backfill, made again", func() { u.migrate("up", "--chunk", "50") })
		u.bothWork("worker-1", "worker-2")
		u.refused("contract", "older ones are connected")
		if n := u.number(`select oldest from compatibility`); n != 0 {
			t.Errorf("what was refused has made the schema one for programs that know %d", n)
		}

		for _, name := range names[half:] {
			if name != "worker-1" {
				u.replace(name)
			}
		}
		u.during("the contraction", func() { u.migrate("contract") })
		u.oldIsRefused()
		if n := u.number(`select count(*) from pg_trigger where tgname = 'order_end'`); n != 0 {
			t.Error("the trigger for older programs is still there")
		}
		c.Tool = u.tool
	})
	const wrong = `select count(*) from orders where (status in ('confirmed', 'cancelled')) <> (ended_at is not null) or ended_at < created_at`
	if n := u.number(wrong); n != 0 {
		t.Errorf("the end of %d orders is wrong", n)
	}
}

// upgrade is a system on its way to this checkout.
type upgrade struct {
	t    *testing.T
	c    *cluster.Cluster
	ctx  context.Context //nolint:containedctx // of one run of the test
	old  map[string]string
	tool string
}

func (u *upgrade) number(query string) int {
	u.t.Helper()
	var n int
	if err := u.c.DB.QueryRowContext(context.WithoutCancel(u.ctx), query).Scan(&n); err != nil {
		u.t.Fatal(err)
	}
	return n
}

// during does something while orders are under way, before and after it.
func (u *upgrade) during(what string, do func()) {
	u.t.Helper()
	u.c.WaitAccepted(u.ctx, clients)
	busy(u.ctx, u.t, u.c, what)
	do()
	u.c.WaitAccepted(u.ctx, clients)
	busy(u.ctx, u.t, u.c, "after "+what)
}

func (u *upgrade) replace(names ...string) {
	u.t.Helper()
	for _, name := range names {
		u.during("replacing "+name, func() {
			p := u.c.Process(name)
			p.Stop()
			p.Bin = proc.Build(u.t, "./cmd/"+p.Kind)
			p.Start()
		})
	}
}

// bothWork waits until each of the workers has handled more than it had.
func (u *upgrade) bothWork(names ...string) {
	u.t.Helper()
	handled := func(name string) (n float64) {
		for _, v := range u.c.Process(name).Counters(u.ctx, "mainstay_handled_total") {
			n += v
		}
		return n
	}
	for _, name := range names {
		from := handled(name)
		u.c.Until(u.ctx, name+" handles messages", func(context.Context) (bool, error) { return handled(name) > from+clients, nil })
	}
}

func (u *upgrade) command(args ...string) *exec.Cmd {
	args = append(append([]string{"migrate"}, args...), "--database", u.c.Database)
	return exec.CommandContext(u.ctx, u.tool, args...)
}

func (u *upgrade) migrate(args ...string) {
	u.t.Helper()
	if out, err := u.command(args...).CombinedOutput(); err != nil {
		u.t.Fatalf("mainstay migrate %v: %v\n%s", args, err, out)
	}
}

// refused wants a command of the tool to end with exit code 5 and a reason.
func (u *upgrade) refused(command, why string) {
	u.t.Helper()
	cmd := u.command(command)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	_ = cmd.Run() // the state says how it ended
	if code := cmd.ProcessState.ExitCode(); code != 5 || !strings.Contains(stderr.String(), why) {
		u.t.Errorf("mainstay migrate %s ended with code %d, want 5 because %q\n%s", command, code, why, &stderr)
	}
}

// killBackfill runs the migration into rows that somebody holds, and kills it there, with a part of them filled.
func (u *upgrade) killBackfill() {
	u.t.Helper()
	u.c.Until(u.ctx, "many orders have ended", func(context.Context) (bool, error) {
		return u.number(`select count(*) from orders where status in ('confirmed', 'cancelled')`) > 60, nil
	})
	table := u.hold(`lock table backfill in exclusive mode`)
	running := proc.StartCommand(u.t, u.command("up", "--chunk", "10"))
	u.during("the expansion", func() {
		u.c.Until(u.ctx, "the schema is expanded", func(context.Context) (bool, error) {
			return u.number(`select count(*) from goose_db_version where version_id = 11`) == 1, nil
		})
	})
	row := u.hold(`select 1 from orders where id = (select id from orders where status in ('confirmed', 'cancelled') and ended_at is null
		order by id offset 30 limit 1) for update`)
	u.release(table)
	u.c.Until(u.ctx, "a part of the orders is filled", func(context.Context) (bool, error) {
		return u.number(`select coalesce(max(filled), 0) from backfill`) >= 10, nil
	})
	u.c.Until(u.ctx, "the migration says what it waits for", func(context.Context) (bool, error) {
		return regexp.MustCompile(`waiting for session \d+ \(.*from orders where id`).MatchString(running.Stderr()), nil
	})
	u.during("kill -9 of the backfill", running.Kill)
	u.release(row)
	if u.number(`select count(*) from orders where status in ('confirmed', 'cancelled') and ended_at is null`) == 0 {
		u.t.Error("inconclusive: the backfill was done when it was killed")
	}
}

// hold runs a statement in a transaction that stays open until it is released.
func (u *upgrade) hold(statement string) *sql.Tx {
	u.t.Helper()
	tx, err := u.c.DB.BeginTx(context.WithoutCancel(u.ctx), nil)
	if err == nil {
		_, err = tx.ExecContext(u.ctx, statement)
	}
	if err != nil {
		u.t.Fatal(err)
	}
	return tx
}

func (u *upgrade) release(tx *sql.Tx) {
	u.t.Helper()
	if err := tx.Rollback(); err != nil {
		u.t.Fatal(err)
	}
}

// oldIsRefused starts a process of before, which must end at once and say why.
func (u *upgrade) oldIsRefused() {
	u.t.Helper()
	p := u.c.Process("worker-2")
	args := append([]string{}, p.Args...)
	for i, arg := range args {
		if arg == "--ops" {
			args[i+1] = proc.FreeAddr(u.t)
		}
	}
	running := proc.Start(u.t, u.old[cluster.Worker], args...)
	ctx, cancel := context.WithTimeout(u.ctx, 20*time.Second)
	defer cancel()
	code, err := running.Wait(ctx)
	const why = "contracted for binaries that know migration 15, newer than the 10 that this one knows"
	if err != nil || code != 5 || !strings.Contains(running.Stderr(), why) {
		u.t.Errorf("the worker of before ended with code %d, error %v, want 5 because it %q\n%s", code, err, why, running.Stderr())
	}
}
