// Package postgres is the machinery's store on PostgreSQL: the outbox and its log, the sequencer, leases, the lanes'
// units of work, sagas and idempotency records.
//
// A unit of work takes two round trips and those of its handler: one begins the transaction, checks the leases and
// reads what the engine wants to know, and one runs what was queued, moves the places, appends to the outbox and
// commits. What must fail the transaction in either fails it by itself (see the function fence in the schema), so
// nobody waits to look at it. A unit that reads nothing is one round trip.
package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"maps"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/jmoiron/sqlx"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/clock"
	"github.com/mainstay-io/mainstay/outbox"
)

// Config says which database, and how. Zero values stand for the defaults.
type Config struct {
	URL string
	// Name is the sessions' application_name; "mainstay" by default.
	Name string
	// MaxConns bounds the connections for units of work; 16 by default. See Sessions for those besides.
	MaxConns int
	// StatementTimeout bounds each statement, and as long a session may be idle in a transaction; LockTimeout each
	// wait for a lock. They must be shorter than the leases: 5 s and 1 s by default.
	StatementTimeout time.Duration
	LockTimeout      time.Duration
	// PollOnly tells other processes nothing, and hears nothing of them: what was done there is found by polling.
	PollOnly bool
	// AllowUnsafe accepts a server with fsync or synchronous_commit off.
	AllowUnsafe bool
	// Chunk is how many rows the sequencer numbers in a round, at most; 20,000 by default.
	Chunk  int
	Clock  clock.Clock
	Logger *slog.Logger
}

func (c *Config) defaults() {
	if c.Name == "" {
		c.Name = "mainstay"
	}
	if c.MaxConns == 0 {
		c.MaxConns = workers
	}
	if c.StatementTimeout == 0 {
		c.StatementTimeout = 5 * time.Second
	}
	if c.LockTimeout == 0 {
		c.LockTimeout = time.Second
	}
	if c.Chunk == 0 {
		c.Chunk = 20_000
	}
	if c.Clock == nil {
		c.Clock = clock.System
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

// Store is an open database. It is safe for concurrent use.
type Store struct {
	cfg    Config
	db     *sqlx.DB // units of work and the machinery's reads: keys looked up in indexes, and nothing else
	seqDB  *sqlx.DB // the sequencer's own sessions
	reads  *sqlx.DB // for everybody else's reads
	upkeep *sqlx.DB // one session for the outbox's partitions, closed when it is not used
	outbox *outbox.Outbox
	// lockSpace keeps the advisory locks of two schemas of one database apart.
	lockSpace string
	unsafe    string // see Unsafe
	// origin names the database in what it publishes.
	origin string

	news *news
	tail *tail
	calm calm

	// presence has a session of its own for every holder of leases; its mutex is held across their round trips.
	presence struct {
		db       *sqlx.DB
		mu       sync.Mutex
		sessions map[string]*sql.Conn
	}

	mu       sync.Mutex
	seq      *sequencerState // nil: not read yet
	prepared string          // the era in which Prepare was called

	once sync.Once
}

// sequencerTimeout bounds a statement of the sequencer, a large difference included.
const sequencerTimeout = 2 * time.Minute

// upkeepTimeout bounds a statement that makes, detaches or drops a partition.
const upkeepTimeout = time.Minute

// Open connects and makes sure that the schema and the server's durability are what this binary needs; see
// *SchemaError and *UnsafeError. Close the store.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	cfg.defaults()
	parsed, err := pgx.ParseConfig(cfg.URL)
	if err != nil {
		return nil, fmt.Errorf("reading the database URL: %w", err)
	}
	s := &Store{cfg: cfg, tail: newTail()}
	session := map[string]string{
		"application_name":                    nameOf(cfg),
		"statement_timeout":                   millis(cfg.StatementTimeout),
		"idle_in_transaction_session_timeout": millis(cfg.StatementTimeout),
		"lock_timeout":                        millis(cfg.LockTimeout),
	}
	s.seqDB = connect(parsed, sequencers, session, rounds())
	s.news = newNews(nil, cfg.Logger)
	if !cfg.PollOnly {
		s.news.cfg = configure(parsed, session, map[string]string{"application_name": cfg.Name + " wake-ups"})
	}
	patient(parsed, 2*cfg.StatementTimeout)
	s.reads = connect(parsed, readers, session, lookups())
	s.db = pooled(stdlib.OpenDB(*configure(parsed, session, lookups()), stdlib.OptionAfterConnect(announce(cfg.PollOnly))), cfg.MaxConns)
	s.upkeep = connect(parsed, 1, session, map[string]string{"statement_timeout": millis(upkeepTimeout)})
	s.upkeep.SetConnMaxIdleTime(time.Minute)
	s.presence.db = connect(parsed, 0, session, map[string]string{"application_name": cfg.Name + " presence"})
	if err := s.check(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// lookups pins the plans of units of work. A statement of the machinery looks up a few keys; planned while its table
// was small or not analysed yet, it would go on to scan the whole of it. Every statement is planned once for each
// session: planning it for its arguments, again and again, costs more than many of them take to run.
func lookups() map[string]string {
	return map[string]string{
		"enable_seqscan": "off", "enable_hashjoin": "off", "enable_mergejoin": "off", "jit": "off",
		"plan_cache_mode": "force_generic_plan",
	}
}

// rounds pins the plans of the sequencer to the outbox's indexes.
func rounds() map[string]string {
	return map[string]string{
		"enable_seqscan": "off", "enable_bitmapscan": "off", "plan_cache_mode": "force_generic_plan", "jit": "off",
		"statement_timeout": millis(sequencerTimeout),
	}
}

// Bounds of the connections for units of work, for reads outside the machinery, and for numbering.
const (
	workers    = 16
	readers    = 8
	sequencers = 2
)

// Sessions is how many sessions with the server a process has at most: besides those, one each for upkeep, for
// wake-ups, and to be seen.
const Sessions = workers + readers + sequencers + 3

// connect makes a pool; no connection is opened yet. Later settings win.
func connect(base *pgx.ConnConfig, conns int, settings ...map[string]string) *sqlx.DB {
	return pooled(stdlib.OpenDB(*configure(base, settings...)), conns)
}

func pooled(db *sql.DB, conns int) *sqlx.DB {
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	return sqlx.NewDb(db, "pgx")
}

// configure copies base, with the settings of its sessions; later ones win.
func configure(base *pgx.ConnConfig, settings ...map[string]string) *pgx.ConnConfig {
	cfg := base.Copy()
	for _, some := range settings {
		maps.Copy(cfg.RuntimeParams, some)
	}
	return cfg
}

func millis(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

// Close closes all connections. It may be called twice.
func (s *Store) Close() error {
	var err error
	s.once.Do(func() {
		s.news.close()
		err = errors.Join(s.leave(), s.db.Close(), s.seqDB.Close(), s.reads.Close(), s.upkeep.Close())
	})
	return err
}

// Lanes is the number of lanes of every topic of this database.
func (s *Store) Lanes() int { return s.outbox.Lanes() }

// DB is for reads outside any unit.
func (s *Store) DB() *sqlx.DB { return s.reads }

// Dialect is mainstay.Postgres.
func (s *Store) Dialect() mainstay.Dialect { return mainstay.Postgres }

// lockClass is the first number of a lease's advisory locks; the second one is the lane.
func (s *Store) lockClass(name string) int32 {
	return int32(crc32.ChecksumIEEE([]byte(s.lockSpace + "/lease/" + name))) //nolint:gosec // any 32 bits will do
}
