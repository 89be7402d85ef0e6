package postgres

import (
	"context"
	"fmt"
	"hash/crc32"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
)

// wakes signals those who wait for something in this process; signals are coalesced.
type wakes struct {
	mu   sync.Mutex
	subs map[chan struct{}]struct{}
}

func (w *wakes) wake() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.subs {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

func (w *wakes) subscribe() (<-chan struct{}, func()) {
	c := make(chan struct{}, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.subs == nil {
		w.subs = map[chan struct{}]struct{}{}
	}
	w.subs[c] = struct{}{}
	return c, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.subs, c)
	}
}

// Between processes, news goes by NOTIFY: never in a unit of work, since its commit takes a lock of the whole cluster,
// but in transactions of their own, on a session of their own, which write nothing and so wait for no disk. One is
// under way at a time, and the next one not before newsGap, however much there is to tell. Whoever listens polls as
// well: news may be lost, and cost time then and nothing else.
const (
	// newsGap bounds the news of a process to 500 a second. A sequencer or a relay that has more to do does not wait
	// for it.
	newsGap = 2 * time.Millisecond
	// newsTimeout bounds one NOTIFY, newsPause the pause after one that failed.
	newsTimeout = 5 * time.Second
	newsPause   = time.Second
)

// The kinds of news.
const (
	appended = iota // this process has appended to the outbox
	grown           // the log has grown
	ended           // orders have ended
	kinds
)

// news is what processes of a database tell each other.
type news struct {
	log *slog.Logger
	cfg *pgx.ConnConfig // nil: by polling only
	// channels are the names of NOTIFY's channels; they tell schemas of one database apart.
	channels [kinds]string
	here     [kinds]wakes
	due      [kinds]atomic.Bool
	tell     chan struct{} // has a value when something is due
	// wanted are the kinds that somebody here waits for; more has a value when there is one more of them.
	wanted [kinds]atomic.Bool
	more   chan struct{}
	// self is the session that tells: its own news is no news to a process.
	self atomic.Uint32

	mu                 sync.Mutex
	closed             bool
	telling, listening bool
	ctx                context.Context //nolint:containedctx // ends the two sessions when the store is closed
	stop               context.CancelFunc
	all                sync.WaitGroup
}

func newNews(cfg *pgx.ConnConfig, log *slog.Logger) *news {
	n := &news{log: log, cfg: cfg, tell: make(chan struct{}, 1), more: make(chan struct{}, 1)}
	n.ctx, n.stop = context.WithCancel(context.Background())
	return n
}

func (n *news) name(space string) {
	for kind, name := range [kinds]string{"appended", "grown", "ended"} {
		n.channels[kind] = fmt.Sprintf("mainstay_%s_%08x", name, crc32.ChecksumIEEE([]byte(space)))
	}
}

// close ends the sessions and waits for them.
func (n *news) close() {
	n.mu.Lock()
	n.closed = true
	n.mu.Unlock()
	n.stop()
	n.all.Wait()
}

// say tells everybody in this process, and soon those in others.
func (n *news) say(kind int) {
	n.here[kind].wake()
	if !n.run(&n.telling, n.teller) || n.due[kind].Swap(true) {
		return
	}
	select {
	case n.tell <- struct{}{}:
	default:
	}
}

// hear gives a channel that has a value after news of the kind. A process listens to no other kinds than those: to be
// told costs the server and the process as much as to tell.
func (n *news) hear(kind int) (<-chan struct{}, func()) {
	c, stop := n.here[kind].subscribe()
	if !n.wanted[kind].Swap(true) {
		select {
		case n.more <- struct{}{}:
		default:
		}
	}
	n.run(&n.listening, n.listener)
	return c, stop
}

// run makes sure that a session is at work; false when there is none.
func (n *news) run(running *bool, session func(context.Context, *pgx.Conn) error) bool {
	if n.cfg == nil {
		return false
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return false
	}
	if !*running {
		*running = true
		n.all.Go(func() { n.keep(session) })
	}
	return true
}

// keep runs a session again and again until the store is closed.
func (n *news) keep(session func(context.Context, *pgx.Conn) error) {
	for n.ctx.Err() == nil {
		conn, err := pgx.ConnectConfig(n.ctx, n.cfg)
		if err == nil {
			err = session(n.ctx, conn)
			closing, cancel := context.WithTimeout(context.WithoutCancel(n.ctx), newsPause)
			_ = conn.Close(closing) // it is of no more use
			cancel()
		}
		if n.ctx.Err() == nil {
			n.log.DebugContext(n.ctx, "a session for wake-ups was lost; polling goes on", "err", err)
			pause(n.ctx, newsPause)
		}
	}
}

const notifyQuery = `/* wake.notify */ select pg_notify(channel, '') from unnest($1::text[]) as channel`

// teller tells what is due.
func (n *news) teller(ctx context.Context, conn *pgx.Conn) error {
	n.self.Store(conn.PgConn().PID())
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-n.tell:
		}
		var channels []string
		for kind := range n.due {
			if n.due[kind].Swap(false) {
				channels = append(channels, n.channels[kind])
			}
		}
		bounded, cancel := context.WithTimeout(ctx, newsTimeout)
		_, err := conn.Exec(bounded, notifyQuery, channels)
		cancel()
		if err != nil {
			return err
		}
		pause(ctx, newsGap)
	}
}

// listener hears what other processes tell, of the kinds that are wanted.
func (n *news) listener(ctx context.Context, conn *pgx.Conn) error {
	kindOf := map[string]int{}
	for {
		if err := n.listen(ctx, conn, kindOf); err != nil {
			return err
		}
		if err := n.heed(ctx, conn, kindOf); err != nil {
			return err
		}
	}
}

// listen listens to what is wanted and not in kindOf yet. What was told before is lost, so it begins by waking all who
// wait for it.
func (n *news) listen(ctx context.Context, conn *pgx.Conn, kindOf map[string]int) error {
	for kind, channel := range n.channels {
		if _, listens := kindOf[channel]; listens || !n.wanted[kind].Load() {
			continue
		}
		if _, err := conn.Exec(ctx, "listen "+pgx.Identifier{channel}.Sanitize()); err != nil {
			return err
		}
		kindOf[channel] = kind
		n.here[kind].wake()
	}
	return nil
}

// heed hears until there is more to listen to; then it answers nil.
func (n *news) heed(ctx context.Context, conn *pgx.Conn, kindOf map[string]int) error {
	waiting, stop := context.WithCancel(ctx)
	var watch sync.WaitGroup
	defer watch.Wait()
	defer stop()
	watch.Go(func() {
		select {
		case <-n.more:
			stop()
		case <-waiting.Done():
		}
	})
	for {
		told, err := conn.WaitForNotification(waiting)
		switch {
		case err != nil && waiting.Err() != nil && ctx.Err() == nil && !conn.IsClosed():
			return nil
		case err != nil:
			return err
		}
		if kind, ok := kindOf[told.Channel]; ok && told.PID != n.self.Load() {
			n.here[kind].wake()
		}
	}
}

// pause waits for d, or for the end of ctx.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// Wake gives a channel that has a value after the sequencer has made the log grow.
func (s *Store) Wake() (<-chan struct{}, func()) { return s.news.hear(grown) }

// Appended gives a channel that has a value after something was appended to the outbox.
func (s *Store) Appended() (<-chan struct{}, func()) { return s.news.hear(appended) }

// SayEnded tells all processes that orders have ended. It does not block.
func (s *Store) SayEnded() { s.news.say(ended) }

// Ended gives a channel that has a value after orders have ended.
func (s *Store) Ended() (<-chan struct{}, func()) { return s.news.hear(ended) }

// sayAppended tells the sequencer of it, wherever it is.
func (s *Store) sayAppended() {
	if s.tail.leads() {
		s.news.here[appended].wake()
		return
	}
	s.news.say(appended)
}
