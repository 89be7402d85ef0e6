package demo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/client"
	"github.com/mainstay-io/mainstay/internal/clock"
	"github.com/mainstay-io/mainstay/internal/verify"
)

// Place says where a server keeps its data: the directory, or the URL of the database. Both may be empty: unknown.
type Place struct{ Data, Database string }

func (p Place) known() bool { return p != Place{} }

// Options say which server to use and how to print.
type Options struct {
	// URL and OpsURL are the addresses of a running server. Both are empty for a server of the demo's own.
	URL, OpsURL string
	// Place is where the running server keeps its data; without it there is nothing to verify.
	Place Place
	// Executable is the program whose `serve` is started, as os.Executable names it.
	Executable string
	// Patience is how long the demo waits for orders to end, from its start; 40 s when zero.
	Patience time.Duration
	// JSON prints the result as one JSON document; what happens meanwhile goes to standard error.
	JSON bool
	// Verify checks the invariants of the data at a place, against the journal, JSON lines of the demo's clients.
	// When complete, there were no other clients.
	Verify func(ctx context.Context, at Place, journal io.Reader, complete bool) (verify.Report, error)
}

const (
	// defaultPatience keeps the whole demo within a minute.
	defaultPatience = 40 * time.Second
	// spread is how long it takes to send all orders.
	spread = 10 * time.Second
)

// errTimeIsUp ends the waiting; it is no failure by itself.
var errTimeIsUp = errors.New("the time of the demo is up")

// show is one run of the demo.
type show struct {
	o       Options
	env     app.Env
	screen  *screen
	board   *board
	journal *journal
	client  *client.Client
	server  *server // nil when the server is not ours
	since   clock.Mono
	kill    *Kill
	stock   []stocked
	stop    context.CancelCauseFunc
}

func (s *show) patience() time.Duration { return cmp.Or(s.o.Patience, defaultPatience) }

// Run runs the demo to its end, within a minute. The error is of code app.ExitPartial when an order was lost, doubled
// or did not end as it should have, and of code app.ExitInterrupted when ctx ended first. Before it returns, its
// server is stopped and waited for, and its directory removed, unless it is evidence.
func Run(ctx context.Context, env app.Env, o Options) error {
	s := &show{o: o, env: env, since: clock.Start()}
	out := env.Stdout
	if o.JSON {
		out = env.Stderr
	}
	kinds := allKinds()
	if o.URL != "" {
		kinds = kindsForOthers(kinds)
	}
	s.board = newBoard(plan(kinds, skuPrefix(o.URL != ""), spread))
	s.screen = newScreen(out, env)
	run, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	s.stop = stop
	var err error
	if o.URL == "" {
		err = s.withOwnServer(run)
	} else {
		err = s.withRunningServer(run)
	}
	return s.explain(ctx, run, err)
}

// explain says what ended the demo: a signal and the end of its server come before what they caused.
func (s *show) explain(ctx, run context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		t := s.board.tally()
		return app.Errorf(app.ExitInterrupted, s.leftBehind(), "interrupted: %d of %d orders were sent, %d had ended", t.sent, t.planned, t.ended())
	case run.Err() != nil:
		return context.Cause(run)
	default:
		return err
	}
}

func (s *show) leftBehind() string {
	if s.o.URL != "" {
		return "The orders that were accepted go on without the demo; `mainstay order get` shows them."
	}
	return "The demo's server was stopped and its directory removed."
}

// connect makes the client that all share: as stubborn as a client can be.
func (s *show) connect(url, opsURL string) error {
	c, err := client.New(client.Config{
		URL: url, OpsURL: opsURL, Attempts: 1_000_000, Backoff: 10 * time.Millisecond, MaxBackoff: 100 * time.Millisecond,
	})
	s.client = c
	return err
}

// withOwnServer runs the demo on a server that it starts, kills and stops.
func (s *show) withOwnServer(ctx context.Context) (err error) {
	s.screen.say("Starting a server in a temporary directory, to kill it later on.")
	s.server, err = newServer(s.o.Executable, s.stop)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.server.close()) }()
	if err := s.connect(s.server.URL(), s.server.OpsURL()); err != nil {
		return err
	}
	defer s.client.Close()
	took, err := s.server.start(ctx, s.client)
	if err != nil {
		return err
	}
	s.screen.say("  server     process %d on %s, ready after %.2f s", s.server.pid(), s.server.URL(), took.Seconds())
	if s.journal, err = newJournal(s.server.journalFile()); err != nil {
		return err
	}
	defer s.journal.close()
	if err := s.perform(ctx); err != nil {
		return err
	}
	if err := s.server.terminate(); err != nil {
		return err
	}
	return s.conclude(ctx, Place{Data: s.server.data()}, true)
}

// withRunningServer runs the demo on a server that belongs to somebody.
func (s *show) withRunningServer(ctx context.Context) (err error) {
	if err := s.connect(s.o.URL, s.o.OpsURL); err != nil {
		return err
	}
	defer s.client.Close()
	if err := s.awaitReady(ctx); err != nil {
		return err
	}
	if s.journal, err = newJournal(""); err != nil {
		return err
	}
	defer s.journal.close()
	s.screen.say("Using the server at %s. It is not killed, and what is set stays set:", s.o.URL)
	if err := s.perform(ctx); err != nil {
		return err
	}
	return s.conclude(ctx, s.o.Place, false)
}

// awaitReady waits for a server that has only just been started. One that does not answer is not waited for.
func (s *show) awaitReady(ctx context.Context) error {
	limit := time.NewTimer(startPatience)
	defer limit.Stop()
	for {
		r, err := s.client.Ready(ctx)
		if err != nil || r.Ready {
			return err
		}
		select {
		case <-time.After(askAgain):
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-limit.C:
			return app.Errorf(app.ExitUnreachable, "Its log, and "+s.o.OpsURL+"/readyz, say more.",
				"the server at %s is not ready: %s", s.o.OpsURL, missing(r))
		}
	}
}

// missing are the checks that are in the way of readiness.
func missing(r client.Readiness) string {
	var names []string
	for _, c := range r.Checks {
		if !c.Ready {
			names = append(names, fmt.Sprintf("%s (%s)", c.Name, c.Reason))
		}
	}
	return strings.Join(names, ", ")
}

// perform sets the scene, sends all orders and waits for their ends.
func (s *show) perform(ctx context.Context) error {
	if err := s.setScene(ctx); err != nil {
		return err
	}
	t := s.board.tally()
	s.screen.say("  orders     %d of %d kinds, from clients that retry blindly with the same key", t.planned, len(s.board.kinds))
	if s.server == nil {
		s.screen.say("             none that needs a person: this server may wait long before it asks for one")
	}
	s.screen.say("")
	waiting, cancel := context.WithTimeoutCause(ctx, s.patience()-s.since.Elapsed(), errTimeIsUp)
	defer cancel()
	hide := s.screen.follow(ctx, s.board, s.since)
	err := s.load(waiting)
	hide()
	if err == nil && ctx.Err() == nil {
		err = s.recount(ctx)
	}
	return cmp.Or(context.Cause(ctx), err)
}

// conclude judges and prints. That the database could not be verified is an error, and hides nothing of the rest.
func (s *show) conclude(ctx context.Context, at Place, complete bool) error {
	report, failed := s.verify(ctx, at, complete)
	result := judge(s.board, s.stock, report, complete)
	result.Kill = s.kill
	result.Seconds = s.since.Elapsed().Round(10 * time.Millisecond).Seconds()
	switch {
	case failed != nil:
		result.NotVerified = failed.Error()
	case report == nil:
		result.NotVerified = "--data or --database would say where the server keeps it"
	}
	hint := ""
	if len(result.Mismatches) > 0 && s.server != nil {
		s.server.keep()
		hint = fmt.Sprintf("The evidence is kept: `mainstay verify --data %s --journal %s --journal-complete`.", s.server.data(), s.server.journalFile())
	}
	if err := result.print(s.env.Stdout, s.o.JSON, s.screen.paint(s.env.Stdout)); err != nil {
		return err
	}
	return cmp.Or(result.mismatch(hint), failed)
}

// verify checks the database; the report is nil when nobody said where it is.
func (s *show) verify(ctx context.Context, at Place, complete bool) (*verify.Report, error) {
	if !at.known() || s.o.Verify == nil {
		return nil, nil
	}
	text, err := s.journal.reader()
	if err != nil {
		return nil, err
	}
	report, err := s.o.Verify(ctx, at, text, complete)
	if err != nil {
		return nil, fmt.Errorf("verifying: %w", err)
	}
	return &report, nil
}
