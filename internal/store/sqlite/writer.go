package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/clock"
	"github.com/mainstay-io/mainstay/internal/lane"
)

// Bounds of a fold, and of what may wait for one.
const (
	queue    = 1024
	maxFold  = 128
	foldTime = 10 * time.Millisecond
)

// ErrClosed means that the store was closed before the unit had its turn; nothing was written.
var ErrClosed = errors.New("the database is closed")

// ErrFailed means that the disk has failed in a commit: the store takes nothing more, as nobody knows whether that
// transaction is written. Whoever opens the file next finds out.
var ErrFailed = errors.New("the disk has failed in a commit")

// errUnknown is of the units of that commit.
var errUnknown = errors.New("nobody knows whether it is written")

// job is one unit of work on its way through the writer.
type job struct {
	ctx  context.Context //nolint:containedctx // it is the caller's, for as long as the caller waits
	fn   func(ctx context.Context, tx *tx) error
	done chan error // has room for one
	err  error
	// skipped says that it did not run, as its caller had left.
	skipped bool
	sent    []*mainstay.Message
	// after is what runs once it is committed.
	after []func()
}

// do runs fn in a transaction that it may share with others, whatever becomes of those, and waits for the commit. When
// a neighbour fails, fn runs twice, and what the first time has written is gone.
func (s *Store) do(ctx context.Context, queue chan *job, fn func(ctx context.Context, tx *tx) error) error {
	if ctx.Value(insideKey{}) != nil {
		return errors.New("a transaction inside a transaction: use the one that is there")
	}
	j := &job{ctx: ctx, fn: fn, done: make(chan error, 1)}
	select {
	case queue <- j:
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-s.quit:
		return ErrClosed
	case <-s.failed:
		return s.refusal()
	}
	// From here on the outcome is the writer's to tell: a caller that left early would not know it.
	select {
	case err := <-j.done:
		return err
	case <-s.quit:
	}
	s.done.Wait()
	select {
	case err := <-j.done:
		return err
	default:
		return ErrClosed
	}
}

// Run runs fn in one transaction and commits it; for the business's own writes outside any handler.
func (s *Store) Run(ctx context.Context, fn func(ctx context.Context, tx mainstay.Tx) error) error {
	return s.do(ctx, s.intake, func(ctx context.Context, tx *tx) error { return fn(ctx, tx) })
}

type insideKey struct{}

// writer owns the one connection that writes.
type writer struct {
	store      *Store
	conn       *sql.Conn
	statements map[string]*prepared
	guarded    bool                // units of this fold have savepoints
	values     []driver.NamedValue // of the statement that is being run
}

func (w *writer) run() {
	for {
		select {
		case <-w.store.quit:
			w.close()
			return
		case j := <-w.store.drain:
			w.fold(j)
		case j := <-w.store.intake:
			w.fold(j)
		}
	}
}

// next gives a job that has already arrived, those that finish work before those that begin it.
func (w *writer) next() *job {
	select {
	case j := <-w.store.drain:
		return j
	default:
	}
	select {
	case j := <-w.store.drain:
		return j
	case j := <-w.store.intake:
		return j
	default:
		return nil
	}
}

// fold runs the first job and what has arrived behind it in one transaction.
func (w *writer) fold(first *job) {
	ctx := context.Background()
	jobs := []*job{first}
	if err := w.store.failure.Load(); err != nil {
		w.answer(jobs, *err)
		return
	}
	w.guarded = false
	err := w.exec(ctx, "begin immediate")
	if err == nil {
		began := clock.Start()
		err = w.unit(ctx, jobs)
		for err == nil && len(jobs) < maxFold && began.Elapsed() < foldTime {
			j := w.next()
			if j == nil {
				break
			}
			jobs = append(jobs, j)
			err = w.unit(ctx, jobs)
		}
		if err == nil {
			err = w.commit(ctx)
		}
		if err != nil {
			_ = w.exec(ctx, "rollback") // SQLite may have done so by itself
		}
	}
	w.answer(jobs, err)
}

// commit commits. When the disk fails in that, the transaction may be in the file, though it is not for this process:
// the next commit would take its place, and the next start would bring it back. So there is no next commit.
func (w *writer) commit(ctx context.Context) error {
	err := w.exec(ctx, "commit")
	if sqliteError(err) != codeIOErr {
		return err
	}
	failure := fmt.Errorf("%w: %w", ErrFailed, err)
	w.store.failure.Store(&failure)
	close(w.store.failed)
	return fmt.Errorf("%w: %w", errUnknown, failure)
}

// Watch blocks until ctx ends, and then returns nil, or until the disk has failed in a commit, with ErrFailed: the
// process is to end then.
func (s *Store) Watch(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-s.failed:
		return *s.failure.Load()
	}
}

// refusal is the answer of a store that takes nothing more.
func (s *Store) refusal() error { return fmt.Errorf("%w: %w", lane.ErrTransient, *s.failure.Load()) }

func (w *writer) answer(jobs []*job, err error) {
	if err != nil { // of the database, whatever it is: no unit is to blame for it
		err = fmt.Errorf("%w: committing: %w", lane.ErrTransient, err)
	}
	var sent []*mainstay.Message
	for _, j := range jobs {
		if j.err == nil {
			j.err = err
			sent = append(sent, j.sent...)
		} else {
			j.after = nil
		}
	}
	if err == nil && len(sent) > 0 {
		w.store.tail.add(sent)
		w.store.followers.tell(sent)
		w.store.wakes.wake()
	}
	for _, j := range jobs {
		if j.err == nil {
			for _, fn := range j.after {
				fn()
			}
		}
		j.done <- j.err
	}
}

// unit runs the last of the jobs. Its error is in the job, and then it has written nothing. The result is the error that
// ended the whole transaction: SQLite does that by itself when the disk is full or fails.
//
// A savepoint costs a copy of every page that is changed behind it, and hardly a unit fails. So the first units of a
// fold have none. When one fails, what is written is rolled back, and those before it run again; from then on each has
// a savepoint of its own, so no unit runs more than twice.
func (w *writer) unit(ctx context.Context, jobs []*job) error {
	j := jobs[len(jobs)-1]
	if w.guarded {
		return w.behindSavepoint(ctx, j)
	}
	if err := w.try(ctx, j); err != nil || j.err == nil || j.skipped {
		return err
	}
	if err := w.exec(ctx, "rollback"); err != nil {
		return err
	}
	if err := w.exec(ctx, "begin immediate"); err != nil {
		return err
	}
	w.guarded = true
	for _, before := range jobs[:len(jobs)-1] {
		if err := w.behindSavepoint(ctx, before); err != nil {
			return err
		}
	}
	return nil
}

// behindSavepoint runs a job so that it can be undone alone.
func (w *writer) behindSavepoint(ctx context.Context, j *job) error {
	if err := w.exec(ctx, "savepoint unit"); err != nil {
		return err
	}
	if err := w.try(ctx, j); err != nil {
		return err
	}
	if j.err != nil {
		if err := w.exec(ctx, "rollback to unit"); err != nil {
			return err
		}
	}
	return w.exec(ctx, "release unit")
}

// try runs a job. After an error of the job, which is in it, what it has written is still there.
func (w *writer) try(ctx context.Context, j *job) error {
	j.sent, j.after = nil, nil
	if j.skipped = j.ctx.Err() != nil; j.skipped {
		j.err = context.Cause(j.ctx)
		return nil
	}
	t := &tx{w: w, now: w.store.cfg.Clock()}
	if j.err = w.call(j, t); j.err == nil {
		j.sent, j.err = t.finish(ctx)
		j.after = t.after
	}
	t.closeRows()
	if t.lost != nil {
		j.err = nil // it shares the fate of the others
		return t.lost
	}
	if j.err != nil {
		j.err, j.sent = translate(j.err), nil
	}
	return nil
}

// call runs the job under its caller's context, which ends when the caller gives up; statements go on without.
func (w *writer) call(j *job, t *tx) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &mainstay.PanicError{Value: v, Stack: debug.Stack()}
		}
	}()
	return j.fn(context.WithValue(j.ctx, insideKey{}, true), t)
}

func (w *writer) exec(ctx context.Context, query string) error {
	st, _, err := w.statement(ctx, query, nil)
	if err == nil {
		_, err = st.ExecContext(ctx)
	}
	return err
}

// Primary result codes of SQLite for what is wrong with the database, not with the statement.
const (
	codeBusy      = 5
	codeLocked    = 6
	codeNoMemory  = 7
	codeReadOnly  = 8
	codeInterrupt = 9
	codeIOErr     = 10
	codeCorrupt   = 11
	codeFull      = 13
	codeCantOpen  = 14
)

func databaseToBlame(err error) bool {
	switch sqliteError(err) {
	case codeBusy, codeLocked, codeNoMemory, codeReadOnly, codeInterrupt, codeIOErr, codeCorrupt, codeFull, codeCantOpen:
		return true
	default:
		return false
	}
}

// translate marks what no unit is to blame for.
func translate(err error) error {
	if databaseToBlame(err) {
		return fmt.Errorf("%w: %w", lane.ErrTransient, err)
	}
	return err
}
