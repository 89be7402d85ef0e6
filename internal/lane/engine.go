package lane

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/broker"
	"github.com/mainstay-io/mainstay/internal/clock"
	"github.com/mainstay-io/mainstay/internal/history"
	"github.com/mainstay-io/mainstay/internal/lease"
)

// Consumer is one durable reader of topics, with what it does on messages: exactly one of Handler and Participant.
type Consumer struct {
	Name   string
	Topics []string
	// Elsewhere are those of the topics that another database may write. As long as this one has not, what the broker
	// does not bring of them is asked for, from that database.
	Elsewhere []string
	// Latest starts a new consumer at the end of the logs.
	Latest  bool
	Handler mainstay.BatchHandler
	// Participant handles commands of sagas.
	Participant *Participant
	// Timers is optional: work that becomes due by time.
	Timers Timers
	// Awaits are topics, beside the consumer's own, in which what a timer waits for may be in line. While it is, the
	// timers of that lane fire later, but those that are urgent, and never by more than some lease times.
	Awaits []string
}

// Participant handles commands of sagas by the message's type. A local one has Commands, a remote one Remote.
type Participant struct {
	// Commands handle a command each; their errors are as those of any BatchHandler, and a Rejection becomes the
	// reply.
	Commands map[string]mainstay.BatchHandler
	// Remote handles every command of Types by a call.
	Remote mainstay.Remote
	Types  []string
	// Source names the participant in its replies.
	Source string
}

// Timers is work of a lane that becomes due by time.
type Timers interface {
	// Due reads what is due in the given lanes.
	Due(ctx context.Context, lanes []int, now time.Time, limit int) (ids []string, err error)
	// Urgent reads what among it must not wait for what is in line.
	Urgent(ctx context.Context, lanes []int, now time.Time, limit int) (ids []string, err error)
	// Fire does it, in a transaction under the lanes' leases; an id that is not due any more is left alone.
	Fire(ctx context.Context, tx mainstay.Tx, ids []string) error
	// Abandon makes one that ends its processes not due any more, and visible to a person, without what Fire does.
	Abandon(ctx context.Context, tx mainstay.Tx, id string, why error) error
}

// Retry says how failed messages and unknown calls are repeated.
type Retry struct {
	// Base is the longest first delay; delays double up to Cap, each drawn at random below that.
	Base, Cap time.Duration
	// Budget is for how long after the first failure a message is tried again, and MinAttempts how often at least.
	Budget      time.Duration
	MinAttempts int
	// Crashes is how many processes in a row a message may end, more than three, before it is a dead letter; one that is
	// replayed after that may end one.
	Crashes int
}

// Config is what an engine needs. Zero durations and numbers get defaults.
type Config struct {
	Store  Store
	Reader broker.Reader
	// Follow, where every message of the log is written by this process, calls deliver with what it commits, in the
	// order of the log, until stop is called. It spares messages the way through the broker, which brings them all the
	// same. Nil where the broker is the only way.
	Follow func(deliver func([]*mainstay.Message)) (stop func())
	// Known, where no other process can use Store, reads what is known of steps, outside any unit: then calls are made
	// first, and parked when they are not answered at once. Nil: all calls are parked first.
	Known func(ctx context.Context, consumer string, stepKeys []string) ([]Barrier, error)
	// Owners is how the databases of topics elsewhere are asked; without it there are none.
	Owners broker.Owners
	// Compared says that a relay publishes to what Reader reads: nothing is read then before it has compared log and
	// broker, since what the broker has may be of another history.
	Compared bool
	Lanes    int
	// Holder names this process in leases; ForceLeases takes them from anybody, for a process that is alone.
	Holder      string
	ForceLeases bool
	LeaseTTL    time.Duration
	// Batch is the most messages of one transaction, Pool the transactions of one consumer at a time.
	Batch int
	Pool  int
	// Calls is how many remote calls of one consumer run at a time, CallTimeout bounds each of them.
	Calls       int
	CallTimeout time.Duration
	Retry       Retry
	// TimerPoll is how often timers are looked at, Sweep how often the logs are compared with the places.
	TimerPoll time.Duration
	Sweep     time.Duration
	Clock     clock.Clock
	Logger    *slog.Logger
	Hooks     Hooks
}

func (c *Config) setDefaults() {
	setDefault(&c.LeaseTTL, 5*time.Second)
	setDefault(&c.Batch, 256)
	setDefault(&c.Pool, 1)
	setDefault(&c.Calls, 64)
	setDefault(&c.CallTimeout, 2*time.Second)
	setDefault(&c.Retry.Base, 100*time.Millisecond)
	setDefault(&c.Retry.Cap, 10*time.Second)
	setDefault(&c.Retry.Budget, 2*time.Minute)
	setDefault(&c.Retry.MinAttempts, 3)
	setDefault(&c.Retry.Crashes, 4)
	setDefault(&c.TimerPoll, 200*time.Millisecond)
	setDefault(&c.Sweep, time.Second)
	if c.Clock == nil {
		c.Clock = clock.System
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Hooks == nil {
		c.Hooks = noHooks{}
	}
}

func setDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// Engine runs consumers. Make one with New, call Run once.
type Engine struct {
	cfg   Config
	runs  []*run
	feeds map[int]*feed // of the goroutine that runs Run
	lost  chan struct{} // has a value when lanes were lost, or can be given back
	// gate is held shared by everything that runs a handler, and alone by a message that must run alone.
	gate sync.RWMutex
	// again has the lanes that are to be subscribed to anew; guarded by mu.
	again map[int]bool
	// waiting says that log and broker were not compared yet; of the goroutine that runs Run.
	waiting bool
	// stopping answers true once Run's context has ended.
	stopping func() bool

	mu    sync.Mutex
	ready map[string]string // consumer -> why it is not ready
}

// New checks the consumers and makes an engine for them.
func New(cfg Config, consumers ...Consumer) (*Engine, error) {
	cfg.setDefaults()
	e := &Engine{cfg: cfg, feeds: map[int]*feed{}, again: map[int]bool{}, lost: make(chan struct{}, 1), stopping: func() bool { return false }, ready: map[string]string{}}
	names := map[string]bool{}
	for _, c := range consumers {
		if err := c.validate(); err != nil {
			return nil, err
		}
		if names[c.Name] {
			return nil, fmt.Errorf("there are two consumers named %q", c.Name)
		}
		names[c.Name] = true
		e.ready[c.Name] = "not started"
		e.runs = append(e.runs, newRun(e, c))
	}
	return e, nil
}

func (c *Consumer) validate() error {
	switch {
	case c.Name == "":
		return errors.New("a consumer needs a name")
	case len(c.Topics) == 0:
		return fmt.Errorf("consumer %q needs a topic", c.Name)
	case (c.Handler == nil) == (c.Participant == nil):
		return fmt.Errorf("consumer %q needs a handler or a participant, and not both", c.Name)
	case c.Participant != nil && (c.Participant.Remote == nil) == (len(c.Participant.Commands) == 0):
		return fmt.Errorf("participant %q needs commands or a remote handler, and not both", c.Name)
	}
	return nil
}

// Run works until ctx ends, finishes the units of work that have begun, and gives the leases back. Units that take
// longer than half of LeaseTTL are then interrupted, which counts for no message. Calls that are under way when ctx
// ends are given up; they are repeated, with the same key, by whoever holds the lane next.
func (e *Engine) Run(ctx context.Context) error {
	work, stopWork := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stopWork(nil)
	e.stopping = func() bool { return ctx.Err() != nil }
	for _, r := range e.runs {
		reg := Registration{Consumer: r.c.Name, Topics: r.c.Topics, Latest: r.c.Latest, Elsewhere: r.c.Elsewhere}
		if err := e.retry(ctx, "registering "+r.c.Name, func() error { return e.cfg.Store.Register(ctx, reg) }); err != nil {
			return endOf(ctx, err)
		}
	}
	var all sync.WaitGroup
	for _, r := range e.runs {
		r.start(ctx, work, &all)
	}
	all.Go(func() { e.sweep(ctx) })
	if e.cfg.Follow != nil {
		defer e.cfg.Follow(e.tell)()
	}
	if e.cfg.Owners != nil {
		all.Go(func() { e.askOwners(ctx) })
	}
	e.manage(ctx)
	e.stopFeeds()
	grace := time.AfterFunc(e.cfg.LeaseTTL/2, func() { stopWork(mainstay.ErrShutdown) })
	defer grace.Stop()
	all.Wait()
	e.leave(work)
	return nil
}

// endOf is nil when err only says that ctx has ended.
func endOf(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil //nolint:nilerr // that is its purpose
	}
	return err
}

// retry repeats do while the database cannot take it, with growing pauses.
func (e *Engine) retry(ctx context.Context, what string, do func() error) error {
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		err := do()
		if err == nil || !errors.Is(err, ErrTransient) {
			return err
		}
		e.cfg.Logger.WarnContext(ctx, "the database did not take a transaction, trying again", "what", what, "err", err)
		if !wait(ctx, pause) {
			return context.Cause(ctx)
		}
	}
}

// wait pauses; false when ctx ended first.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// manage takes this process's part in sharing the lanes until ctx ends.
func (e *Engine) manage(ctx context.Context) {
	for {
		changed := map[int]bool{}
		seam, err := e.seam(ctx)
		for _, r := range e.runs {
			switch {
			case err != nil:
				r.logManage(ctx, "sharing lanes", err)
			case e.waiting:
				e.setReady(r.c.Name, "waits until a relay has compared the log with the broker; run the process outbox")
			default:
				r.manage(ctx, seam, changed)
			}
		}
		e.takeAgain(changed)
		for n := range changed {
			e.feed(ctx, n)
		}
		if !e.rest(ctx) {
			return
		}
	}
}

// seam reads the database's history; without a relay that compares, units are bound to no era.
func (e *Engine) seam(ctx context.Context) (history.Seam, error) {
	seam, err := e.cfg.Store.Seam(ctx)
	if !e.cfg.Compared {
		seam.Era = ""
	}
	e.waiting = err == nil && e.cfg.Compared && !seam.Compared
	return seam, err
}

// rest waits until the next turn at the lanes is due, or wanted earlier; false when ctx ended first.
func (e *Engine) rest(ctx context.Context) bool {
	pause := lease.TurnEvery(e.cfg.LeaseTTL)
	if e.waiting {
		pause = min(pause, comparedPause)
	}
	t := time.NewTimer(pause)
	defer t.Stop()
	select {
	case <-t.C:
	case <-e.lost:
		return wait(ctx, lostPause)
	case <-ctx.Done():
	}
	return ctx.Err() == nil
}

// comparedPause is how often is looked whether log and broker were compared.
const comparedPause = 25 * time.Millisecond

// lostPause keeps lanes that are lost again and again from making the engine busy.
const lostPause = 20 * time.Millisecond

// look makes manage look for lanes before its time.
func (e *Engine) look() {
	select {
	case e.lost <- struct{}{}:
	default:
	}
}

// leave gives all leases back.
func (e *Engine) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), e.cfg.LeaseTTL)
	defer cancel()
	for _, r := range e.runs {
		if err := r.member.Leave(ctx, r.leases()); err != nil {
			e.cfg.Logger.WarnContext(ctx, "leases were not given back, they will run out", "consumer", r.c.Name, "err", err)
		}
	}
}

func (e *Engine) setReady(consumer, reason string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ready[consumer] = reason
}

// Ready answers nil when every consumer holds lanes or knows who does, else says which does not and why.
func (e *Engine) Ready(context.Context) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	var errs []error
	for name, reason := range e.ready {
		if reason != "" {
			errs = append(errs, fmt.Errorf("consumer %s: %s", name, reason))
		}
	}
	return errors.Join(errs...)
}

// manage takes the consumer's turn at its lanes, and marks lanes whose set of holders changed.
func (r *run) manage(ctx context.Context, seam history.Seam, changed map[int]bool) {
	for _, n := range r.dropOthersOf(seam.Era) {
		changed[n] = true
	}
	change, err := r.member.Turn(ctx, r.leases())
	for _, l := range change.Lost {
		r.drop(l.Lane, l.Epoch)
		changed[l.Lane] = true
	}
	if err != nil {
		r.logManage(ctx, "sharing lanes", err)
		return
	}
	lease.LogTaken(ctx, r.e.cfg.Logger, change.Taken)
	if len(change.Taken) > 0 {
		r.remember(change.Taken)
		if err := r.adopt(ctx, change.Taken); err != nil {
			r.logManage(ctx, "reading the state of lanes", err)
			return
		}
		clear(r.unclean)
		for _, l := range change.Taken {
			changed[l.Lane] = true
		}
	}
	if idle := r.surplus(change.Surplus); len(idle) > 0 {
		for _, l := range idle {
			changed[l.Lane] = true
		}
		if err := r.e.cfg.Store.Release(ctx, r.e.cfg.Holder, idle); err != nil {
			r.logManage(ctx, "giving lanes back", err)
			return
		}
	}
	r.e.setReady(r.c.Name, cmp.Or(r.lost(), r.still()))
}

// remember keeps in mind which lanes were taken over from the dead, until they are adopted: the lease tells it once.
func (r *run) remember(taken []lease.Lease) {
	for i, l := range taken {
		r.unclean[l.Lane] = r.unclean[l.Lane] || l.Unclean
		taken[i].Unclean = r.unclean[l.Lane]
	}
}

func (r *run) logManage(ctx context.Context, what string, err error) {
	if ctx.Err() != nil {
		return
	}
	r.e.setReady(r.c.Name, what+": "+err.Error())
	r.e.cfg.Logger.WarnContext(ctx, "lanes could not be taken or kept, trying again", "consumer", r.c.Name, "what", what, "err", err)
}

// recognize looks whether the message at each place is the one that was handled: else the place is of another log, and
// what follows it must not be handled.
func (r *run) recognize(ctx context.Context, places []Place) error {
	after := map[mainstay.TopicLane]int64{}
	ids := map[mainstay.TopicLane]string{}
	for _, p := range places {
		if p.MessageID != "" && slices.Contains(r.c.Topics, p.Topic) {
			after[p.TopicLane], ids[p.TopicLane] = p.Sequence-1, p.MessageID
		}
	}
	ms, err := r.e.cfg.Store.ReadLog(ctx, after, len(after))
	if err != nil {
		return err
	}
	for _, m := range ms {
		log := m.TopicLane()
		if m.Sequence == after[log]+1 && m.ID != ids[log] {
			return fmt.Errorf("%s has handled message %s as %d of %s/%d, where the log has %s: the place is of another log",
				r.c.Name, ids[log], m.Sequence, m.Topic, m.Lane, m.ID)
		}
	}
	return nil
}

// errUncompared: the database's server was started again while lanes were taken.
var errUncompared = errors.New("no relay has compared the log with the broker in this era yet")

// adopt loads what the database knows of lanes that were just taken. Its history is read under their leases: whoever opens
// an incarnation ends all of them, so none is opened later that these lanes would not know of.
func (r *run) adopt(ctx context.Context, taken []lease.Lease) error {
	seam, err := r.e.seam(ctx)
	if err != nil {
		return err
	}
	if r.e.waiting {
		return errUncompared
	}
	lanes := make([]int, len(taken))
	states := map[int]*laneState{}
	for i, l := range taken {
		lanes[i] = l.Lane
		states[l.Lane] = newLaneState(l)
		states[l.Lane].era, states[l.Lane].current = seam.Era, seam.Current
	}
	places, err := r.e.cfg.Store.Places(ctx, r.c.Name, lanes)
	if err != nil {
		return err
	}
	away, err := r.elsewhere(ctx, places)
	if err != nil {
		return err
	}
	for _, p := range places {
		if !slices.Contains(r.c.Topics, p.Topic) {
			continue // of an earlier registration
		}
		states[p.Lane].places[p.Topic] = p
		states[p.Lane].past[p.Topic] = seam.Logs[p.TopicLane]
		states[p.Lane].arrived[p.Topic] = p.mark()
		if slices.Contains(away, p.Topic) {
			states[p.Lane].goElsewhere(p)
			continue
		}
		states[p.Lane].lacks[p.Topic] = true // what was published before the subscription begins
	}
	if err := r.recognize(ctx, places); err != nil {
		return err
	}
	parked, err := r.e.cfg.Store.ParkedKeys(ctx, r.c.Name, lanes)
	if err != nil {
		return err
	}
	for _, p := range parked {
		q := states[p.Lane].queue(p.key())
		q.rows = append(q.rows, p)
	}
	if err := r.examine(ctx, taken, states); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for n, ls := range states {
		r.lanes[n] = ls
		for _, q := range ls.queues {
			r.schedule(ls, q)
		}
	}
	r.signal()
	return nil
}
