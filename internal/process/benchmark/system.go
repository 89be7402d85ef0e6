package benchmark

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/broker/natsbroker"
	"github.com/mainstay-io/mainstay/internal/client"
	"github.com/mainstay-io/mainstay/internal/process/carrier"
)

const (
	// startPatience is how long a system may take to be ready, stopPatience to end.
	startPatience = 30 * time.Second
	stopPatience  = 30 * time.Second
	// askAgain is the pause between two questions whether it is ready.
	askAgain = 10 * time.Millisecond
	// lastWords is how many lines of its log an error shows.
	lastWords = 4
)

// system is a `serve` of this measurement's own, with what it keeps.
type system struct {
	target
	dir     string
	scratch *scratch // nil on SQLite
	// nats is the server on which the system makes its stream; without a URL where it is an embedded one.
	nats natsbroker.Config
	cmd  *exec.Cmd
	log  string
	done chan struct{} // closed when the process has ended
	all  sync.WaitGroup
}

// startSystem starts a system and waits until it is ready.
func startSystem(ctx context.Context, o Options) (_ *system, err error) {
	dir, err := os.MkdirTemp("", "mainstay-bench-")
	if err != nil {
		return nil, fmt.Errorf("making a directory for the measured system: %w", err)
	}
	s := &system{dir: dir, log: filepath.Join(dir, "log"), done: make(chan struct{})}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if err := s.claimStream(ctx, o.Config); err != nil {
		return nil, err
	}
	database := o.Config.Database
	if isPostgres(database) {
		if s.scratch, err = newScratch(ctx, database, o.Config.Lanes); err != nil {
			return nil, err
		}
		database = s.scratch.url
	}
	s.config, s.postgres = systemConfig(o.Config), database
	return s, s.spawn(ctx, o, database)
}

// claimStream makes sure that the system will make the stream on that server, and will not find another's.
func (s *system) claimStream(ctx context.Context, cfg app.Config) error {
	if !strings.Contains(cfg.Broker, "://") {
		return nil
	}
	nats := natsbroker.Config{URL: cfg.Broker, Access: carrier.Access(cfg)}
	taken, err := natsbroker.Exists(ctx, nats)
	if err != nil {
		return carrier.Explain(err, cfg.Broker)
	}
	if taken {
		return app.Errorf(app.ExitConflict, "Measure the system that uses it, with --url, or name another server.",
			"the broker %s has the stream of a system already", app.Redact(cfg.Broker))
	}
	s.nats = nats
	return nil
}

// dropStream deletes the stream that the system has made.
func (s *system) dropStream() error {
	ctx, cancel := context.WithTimeout(context.Background(), dropPatience)
	defer cancel()
	b, err := natsbroker.Open(ctx, s.nats)
	if err != nil {
		return fmt.Errorf("deleting the measured system's stream: %w", err)
	}
	return errors.Join(b.Drop(ctx), b.Close())
}

// systemConfig is what the system runs on, for the report.
func systemConfig(cfg app.Config) map[string]string {
	c := map[string]string{}
	for _, setting := range app.Settings() {
		switch setting.Name {
		case "database", "broker", "nats_sync", "lanes", "worker_concurrency":
			c[setting.Name] = setting.Value(cfg)
		}
	}
	if cfg.Lanes == 0 {
		c["lanes"] = "the default"
	}
	if cfg.Broker != "" {
		delete(c, "nats_sync")
	}
	if cfg.Database == "" {
		c["database"] = "SQLite in a temporary directory"
	}
	if cfg.Broker == "" {
		c["broker"] = "embedded NATS"
	}
	return c
}

// spawn starts the process. Its settings are variables: other users of the machine can read flags.
func (s *system) spawn(ctx context.Context, o Options, database string) error {
	log, err := os.Create(s.log)
	if err != nil {
		return fmt.Errorf("making the measured system's log: %w", err)
	}
	defer log.Close()                                                             // the process has its own
	cmd := exec.CommandContext(context.WithoutCancel(ctx), o.Executable, "serve") //nolint:gosec // it is this program
	cmd.Env = append(withoutSettings(os.Environ()),
		"MAINSTAY_DATA="+filepath.Join(s.dir, "data"), "MAINSTAY_HTTP=127.0.0.1:0", "MAINSTAY_OPS=127.0.0.1:0",
		"MAINSTAY_DATABASE="+database, "MAINSTAY_LOG_FORMAT=text")
	for _, setting := range app.Settings() {
		switch setting.Name {
		case "nats_sync", "lanes", "worker_concurrency", "nats_creds", "nats_nkey", "nats_tls_ca", "nats_tls_cert", "nats_tls_key":
			cmd.Env = append(cmd.Env, setting.Variable()+"="+setting.Value(o.Config))
		}
	}
	cmd.Env = append(cmd.Env, "MAINSTAY_BROKER="+o.Config.Broker)
	cmd.Stderr, cmd.SysProcAttr = log, &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for this process
	said, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return fmt.Errorf("starting the measured system: %w", err)
	}
	s.cmd = cmd
	greeting := make(chan greeting, 1)
	s.all.Go(func() {
		readGreeting(said, greeting)
		_ = cmd.Wait() // whoever waits for its end looks at its state
		close(s.done)
	})
	return s.await(ctx, greeting)
}

// greeting is where a system says that it is.
type greeting struct{ url, ops string }

// readGreeting sends the greeting, once it is whole, and reads on to the end.
func readGreeting(from io.Reader, to chan<- greeting) {
	var g greeting
	for lines := bufio.NewScanner(from); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), "  orders "); ok {
			g.url, _, _ = strings.Cut(strings.TrimSpace(rest), "/v1/orders")
		}
		if rest, ok := strings.CutPrefix(lines.Text(), "  operator "); ok {
			g.ops, _, _ = strings.Cut(strings.TrimSpace(rest), " ")
			to <- g
		}
	}
}

// await waits until the system is ready.
func (s *system) await(ctx context.Context, said <-chan greeting) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startPatience, fmt.Errorf("it was not ready after %v", startPatience))
	defer cancel()
	select {
	case g := <-said:
		s.url, s.ops = g.url, []string{g.ops}
	case <-s.done:
		return s.ended()
	case <-ctx.Done():
		return fmt.Errorf("starting the measured system: %w", context.Cause(ctx))
	}
	c, err := client.New(client.Config{OpsURL: s.ops[0]})
	if err != nil {
		return err
	}
	defer c.Close()
	for {
		if r, err := c.Ready(ctx); err == nil && r.Ready {
			return nil
		}
		select {
		case <-time.After(askAgain):
		case <-s.done:
			return s.ended()
		case <-ctx.Done():
			return fmt.Errorf("starting the measured system: %w", context.Cause(ctx))
		}
	}
}

// ended is the error of a system that could not start, with the exit code that it gave.
func (s *system) ended() error {
	return app.Errorf(max(s.cmd.ProcessState.ExitCode(), app.ExitError), "", "the measured system could not start%s", s.words())
}

// words are the last lines that the system has written.
func (s *system) words() string {
	text, err := os.ReadFile(s.log)
	if err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return "\n  it said: " + strings.Join(lines[max(0, len(lines)-lastWords):], "\n           ")
}

// close stops the system and removes what it kept. Orders that have not ended go with it.
func (s *system) close() error {
	var err error
	if s.cmd != nil {
		_ = s.cmd.Process.Signal(syscall.SIGTERM) // it may have ended by itself
		late := time.AfterFunc(stopPatience, func() { _ = s.cmd.Process.Kill() })
		s.all.Wait()
		if !late.Stop() {
			err = fmt.Errorf("stopping the measured system: it was still there %v after SIGTERM%s", stopPatience, s.words())
		}
	}
	if s.scratch != nil {
		err = errors.Join(err, s.scratch.drop())
	}
	if s.nats.URL != "" {
		err = errors.Join(err, s.dropStream())
	}
	return errors.Join(err, os.RemoveAll(s.dir))
}

// withoutSettings keeps the settings of other systems away: a measurement must not touch their databases.
func withoutSettings(environ []string) []string {
	var kept []string
	for _, v := range environ {
		if !strings.HasPrefix(v, "MAINSTAY_") {
			kept = append(kept, v)
		}
	}
	return kept
}
