// Package process is what all processes of the backbone share: how one starts, says where everything is, answers
// probes and stops. Each process is a package below it; ingest, outbox and worker are parts too, of which serve is
// made.
package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/obs"
	"github.com/mainstay-io/mainstay/internal/problem"
)

// Host is one process while it is put together: parts add their services, checks, routes and lines to it.
type Host struct {
	Config   app.Config
	Log      *slog.Logger
	Group    *app.Group
	Health   *app.Health
	Registry *prometheus.Registry
	// Web observes the process's HTTP servers.
	Web *obs.HTTP
	// OpsRoutes are served on the ops address, beside probes and metrics.
	OpsRoutes *http.ServeMux

	ops      app.Bound
	opsName  string
	greeting strings.Builder
	notices  []string
}

// Main runs the process called name until ctx ends: it listens on the ops address, puts the process together by
// build, greets on standard output and runs what was added. What build has opened is closed in any case.
func Main(ctx context.Context, name string, env app.Env, cfg app.Config, build func(context.Context, *Host) error) (err error) {
	tuneGC(env.Getenv)
	h := newHost(env, cfg)
	defer func() { err = errors.Join(err, h.Group.Close()) }()
	if h.ops, err = h.Listen(ctx, "ops", cfg.HTTP); err != nil {
		return err
	}
	if err := build(ctx, h); err != nil {
		return err
	}
	h.Group.Add(h.opsServer().Service(app.Probes))
	h.Group.Add(app.Service{Name: "readiness", Stage: app.Probes, Run: h.Health.Watch})
	h.Health.Start()
	h.greet(env.Stdout, name)
	return h.Group.Run(ctx)
}

func newHost(env app.Env, cfg app.Config) *Host {
	log := obs.NewLogger(env.Stderr, cfg.LogLevel, cfg.LogFormat, env.IsTerminal(env.Stderr))
	for _, v := range app.UnknownVariables(env) {
		log.Warn("unknown variable, which changes nothing", "variable", v.Name, "nearest", v.Nearest)
	}
	health, reg := app.NewHealth(log), prometheus.NewRegistry()
	build := app.ThisBuild()
	obs.Register(reg, build.Version, build.Revision, build.Go)
	obs.RegisterReady(reg, health.Ready)
	return &Host{
		Config: cfg, Log: log, Health: health, Group: app.NewGroup(log, health, cfg.ShutdownGrace),
		Registry: reg, Web: obs.NewHTTP(reg), OpsRoutes: http.NewServeMux(), opsName: "ops",
	}
}

// Listen listens on the address of the named setting; see app.Listen.
func (h *Host) Listen(ctx context.Context, name string, taken ...string) (app.Bound, error) {
	l, err := app.Listen(ctx, h.Config, name, taken...)
	if err != nil {
		return l, err
	}
	h.Group.Opened(name+" address", func(context.Context) error {
		_ = l.Close() // the server owns it once it runs
		return nil
	})
	if l.Notice != "" {
		h.notices = append(h.notices, l.Notice)
	}
	return l, nil
}

// Say adds a line to the greeting: what something is called, and where it is or what it does.
func (h *Host) Say(what, format string, args ...any) {
	fmt.Fprintf(&h.greeting, "  %-9s %s\n", what, fmt.Sprintf(format, args...))
}

// SayOps adds the line about the ops address, under the name that its server has in metrics, too.
func (h *Host) SayOps(name string) {
	h.opsName = name
	h.Say(name, "%s   (/readyz, /metrics)", h.ops.URL())
}

// Tell adds text to the end of the greeting.
func (h *Host) Tell(text string) { h.greeting.WriteString(text) }

// greet prints where everything is.
func (h *Host) greet(w io.Writer, name string) {
	var s strings.Builder
	fmt.Fprintf(&s, "%s %s\n", name, app.ThisBuild().Version)
	for _, notice := range h.notices {
		fmt.Fprintf(&s, "  note      %s\n", notice)
	}
	s.WriteString(h.greeting.String())
	_, _ = io.WriteString(w, s.String())
}

func (h *Host) opsServer() *app.Server {
	h.Health.Routes(h.OpsRoutes)
	h.OpsRoutes.Handle("GET /metrics", obs.Handler(h.Registry))
	problem.MountFallback(h.OpsRoutes)
	return app.NewServer(app.HTTP{
		Name: h.opsName + " API", Listener: h.ops, Handler: h.OpsRoutes, Log: h.Log, Observer: h.Web.Server(h.opsName),
	})
}

// Add adds services.
func (h *Host) Add(services ...app.Service) {
	for _, s := range services {
		h.Group.Add(s)
	}
}

// OpenPostgres opens the configured database for the life of the process, as a dependency of its readiness.
func (h *Host) OpenPostgres(ctx context.Context) (*Database, error) {
	db, err := OpenPostgres(ctx, h.Config, h.Log)
	if err != nil {
		return nil, err
	}
	h.Group.Opened("database", func(context.Context) error { return db.Close() })
	h.Health.Check("database", db.Reads.PingContext)
	return db, nil
}
