// Package sqlite is the machinery's store on SQLite: one file, one writer. All writes go through one goroutine that
// folds the units of work that have arrived into one transaction, from which each can be taken out again, so that one
// wait for the disk serves many of them and each still fails alone. Reads use connections of their own.
//
// The file must have one process at a time; whoever opens it holds the directory's lock.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"

	"modernc.org/sqlite" // the driver, and its error type

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/clock"
	"github.com/mainstay-io/mainstay/internal/history"
	"github.com/mainstay-io/mainstay/outbox"
)

// Config says which file, and how.
type Config struct {
	Path string
	// Sync is SQLite's synchronous setting: FULL (the default) keeps what was committed when the power goes.
	Sync   string
	Clock  clock.Clock // nil: the system's
	Logger *slog.Logger
}

// Store is an open database. It is safe for concurrent use.
type Store struct {
	cfg     Config
	reads   *sql.DB
	queries sync.Map // prepared on reads: query text -> *sql.Stmt
	writes  *sql.DB
	outbox  *outbox.Outbox

	drain  chan *job
	intake chan *job
	quit   chan struct{}
	once   sync.Once
	done   sync.WaitGroup
	// failed is closed once failure is there, which is for good.
	failed  chan struct{}
	failure atomic.Pointer[error]

	tail      *tail
	wakes     wakes
	followers followers

	past     atomic.Pointer[history.Seam]
	compared atomic.Bool
	origin   string
}

const readers = 4

// DSN is how the file is opened; writers begin their transactions with the write lock in hand.
func DSN(path, synchronous string, readOnly bool) string {
	q := url.Values{}
	q.Add("_pragma", "busy_timeout(5000)")
	q.Add("_pragma", "foreign_keys(1)")
	if readOnly {
		q.Add("_pragma", "query_only(1)")
	} else {
		q.Add("_pragma", "journal_mode(WAL)")
		q.Add("_pragma", "synchronous("+synchronous+")")
		q.Add("_pragma", "journal_size_limit(67108864)")
		q.Add("_pragma", "wal_autocheckpoint(8000)") // 32 MB, so that a page that many commits change is copied once
		q.Add("_pragma", "cache_size(-16000)")       // KiB: the ends of all tables and indexes
		q.Add("_pragma", "temp_store(MEMORY)")       // what a savepoint would restore, above all
		q.Add("_txlock", "immediate")
	}
	return "file:" + (&url.URL{Path: path}).EscapedPath() + "?" + q.Encode()
}

// Open opens a database whose schema is up to date, and starts its writer. Close it.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if cfg.Clock == nil {
		cfg.Clock = clock.System
	}
	if cfg.Sync == "" {
		cfg.Sync = "FULL"
	}
	writes, err := sql.Open("sqlite", DSN(cfg.Path, cfg.Sync, false))
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", cfg.Path, err)
	}
	writes.SetMaxOpenConns(1)
	reads, err := sql.Open("sqlite", DSN(cfg.Path, cfg.Sync, true))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening %s: %w", cfg.Path, err), writes.Close())
	}
	reads.SetMaxOpenConns(readers)
	reads.SetMaxIdleConns(readers)
	s := &Store{
		cfg: cfg, reads: reads, writes: writes,
		drain: make(chan *job, queue), intake: make(chan *job, queue), quit: make(chan struct{}), failed: make(chan struct{}),
	}
	s.tail = newTail(s.incarnation)
	if err := s.start(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("opening %s: %w", cfg.Path, err), reads.Close(), writes.Close())
	}
	return s, nil
}

func (s *Store) start(ctx context.Context) error {
	ob, err := outbox.Open(ctx, s.reads, mainstay.SQLite)
	if err != nil {
		return err
	}
	s.outbox = ob
	past, err := readHistory(ctx, s.reads)
	if err != nil {
		return err
	}
	s.past.Store(past)
	var founded int64
	if err := queryRow(ctx, s.reads, originQuery, nil, &founded); err != nil {
		return fmt.Errorf("reading when the database was founded: %w", err)
	}
	s.origin = strconv.FormatInt(founded, 36)
	conn, err := s.writes.Conn(ctx)
	if err != nil {
		return err
	}
	w := &writer{store: s, conn: conn, statements: map[string]*prepared{}}
	s.done.Go(w.run)
	return nil
}

// Close ends the writer after the units that it has begun, and closes the file. It may be called twice.
func (s *Store) Close() error {
	var err error
	s.once.Do(func() {
		close(s.quit)
		s.done.Wait()
		err = errors.Join(s.reads.Close(), s.writes.Close())
	})
	return err
}

// Lanes is the number of lanes of every topic of this database.
func (s *Store) Lanes() int { return s.outbox.Lanes() }

// QueryContext reads outside any unit, through a statement that is prepared once for a query; so queries must be
// constants of the program. A read is not interrupted when ctx ends: it is short, and watching ctx costs more.
func (s *Store) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	ctx = context.WithoutCancel(ctx)
	if st, ok := s.queries.Load(query); ok {
		return st.(*sql.Stmt).QueryContext(ctx, args...) //nolint:errcheck // it is all that is stored
	}
	st, err := s.reads.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	if first, there := s.queries.LoadOrStore(query, st); there {
		_ = st.Close()         // somebody else was faster
		st = first.(*sql.Stmt) //nolint:errcheck // it is all that is stored
	}
	return st.QueryContext(ctx, args...)
}

// Reader is for reads outside any unit.
func (s *Store) Reader() *sql.DB { return s.reads }

// Dialect is mainstay.SQLite.
func (s *Store) Dialect() mainstay.Dialect { return mainstay.SQLite }

// sqliteError gives the primary result code of the driver's error, 0 for any other error.
func sqliteError(err error) int {
	var e *sqlite.Error
	if errors.As(err, &e) {
		return e.Code() & 0xff
	}
	return 0
}
