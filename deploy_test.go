package mainstay_test

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/store/postgres"
	"github.com/mainstay-io/mainstay/internal/testkit/pgtest"
	"github.com/mainstay-io/mainstay/internal/testkit/proc"
)

// deployment is the files that start the system in containers.
type deployment struct{ compose, dockerfile, prometheus, alerts string }

// composition is compose.yaml as far as it is used; a key that is not here is refused, since nothing would check it.
type composition struct {
	Name     string                    `yaml:"name"`
	Process  yaml.Node                 `yaml:"x-process"`
	Ready    yaml.Node                 `yaml:"x-ready"`
	Services map[string]*container     `yaml:"services"`
	Volumes  map[string]map[string]any `yaml:"volumes"`
}

type container struct {
	Image string `yaml:"image"`
	Build struct {
		Context    string `yaml:"context"`
		Dockerfile string `yaml:"dockerfile"`
		Target     string `yaml:"target"`
	} `yaml:"build"`
	Command     []string          `yaml:"command"`
	Environment map[string]string `yaml:"environment"`
	DependsOn   map[string]struct {
		Condition string `yaml:"condition"`
	} `yaml:"depends_on"`
	Ports       []string `yaml:"ports"`
	Volumes     []string `yaml:"volumes"`
	Healthcheck *struct {
		Test        []string      `yaml:"test"`
		Interval    time.Duration `yaml:"interval"`
		Timeout     time.Duration `yaml:"timeout"`
		StartPeriod time.Duration `yaml:"start_period"`
		Retries     int           `yaml:"retries"`
	} `yaml:"healthcheck"`
	Restart string        `yaml:"restart"`
	Grace   time.Duration `yaml:"stop_grace_period"`
	Deploy  struct {
		Replicas int `yaml:"replicas"`
	} `yaml:"deploy"`
	ReadOnly bool     `yaml:"read_only"`
	CapDrop  []string `yaml:"cap_drop"`
}

func (c *container) replicas() int { return max(1, c.Deploy.Replicas) }

// longRunning says whether it is one of the processes that scale out, and not a tool that ends.
func (c *container) longRunning() bool {
	return slices.Contains([]string{app.Ingest, app.Outbox, app.Worker}, c.Build.Target)
}

// TestDeploy_AgreesWithTheCode holds the files that start the system in containers against the code that they start:
// images, targets, flags, variables, ports, volumes, order of starting, and who is asked for metrics.
func TestDeploy_AgreesWithTheCode(t *testing.T) {
	t.Parallel()
	for _, problem := range theDeployment(t).problems() {
		t.Error(problem)
	}
}

// TestDeploy_CommandsOfTheToolExist runs what compose.yaml has the operators' tool do, against a database that is not
// there: a command line that is wrong ends with another code.
func TestDeploy_CommandsOfTheToolExist(t *testing.T) {
	t.Parallel()
	c, err := parseComposition(theDeployment(t).compose)
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{c.Services["migrate"].Command, {"migrate", "upward"}} {
		cmd := exec.CommandContext(t.Context(), proc.BuildPlain(t, "./cmd/mainstay"), args...)
		cmd.Env = append(os.Environ(), "MAINSTAY_DATABASE=postgres://mainstay@127.0.0.1:1/mainstay")
		out, _ := cmd.CombinedOutput() // the code says it
		want := app.ExitUnreachable
		if args[1] == "upward" {
			want = app.ExitUsage
		}
		if got := cmd.ProcessState.ExitCode(); got != want {
			t.Errorf("mainstay %s: exit code %d, want %d: %s", strings.Join(args, " "), got, want, out)
		}
	}
}

func theDeployment(t *testing.T) deployment {
	t.Helper()
	return deployment{read(t, "compose.yaml"), read(t, "deploy/Dockerfile"), read(t, "deploy/prometheus.yml"), read(t, "deploy/alerts.yml")}
}

func parseComposition(text string) (*composition, error) {
	var c composition
	dec := yaml.NewDecoder(strings.NewReader(text))
	dec.KnownFields(true)
	if err := dec.Decode(&c); err != nil {
		return nil, fmt.Errorf("compose.yaml: %w", err)
	}
	for name, s := range c.Services {
		if s == nil {
			return nil, fmt.Errorf("compose.yaml: %s is empty", name)
		}
	}
	return &c, nil
}

// problems are all disagreements, in words.
func (d deployment) problems() []string {
	c, err := parseComposition(d.compose)
	if err != nil {
		return []string{err.Error()}
	}
	r := &review{c: c, stages: parseDockerfile(d.dockerfile), configs: map[string]app.Config{}}
	for _, name := range slices.Sorted(maps.Keys(c.Services)) {
		s := c.Services[name]
		r.process(name, s)
		r.image(name, s)
		r.order(name, s)
		r.connections(name, s)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Services)) {
		r.ports(name, c.Services[name])
		r.volumes(name, c.Services[name])
	}
	r.shape()
	r.targets()
	r.scraped(d.prometheus)
	r.alerts(d.alerts)
	return r.found
}

// review collects what is wrong.
type review struct {
	c       *composition
	stages  []stage
	configs map[string]app.Config // of the processes, by service
	found   []string
}

// want notes a disagreement unless ok.
func (r *review) want(ok bool, format string, args ...any) {
	if !ok {
		r.found = append(r.found, fmt.Sprintf(format, args...))
	}
}

// process reads a process's settings as the process itself would.
func (r *review) process(name string, s *container) {
	if s.Build.Target != "" {
		for variable := range s.Environment {
			known := slices.ContainsFunc(app.Settings(), func(set app.Setting) bool {
				return set.Variable() == variable && (set.TakenBy(s.Build.Target) || s.Build.Target == "mainstay")
			})
			r.want(known, "%s: %s has no variable %s", name, s.Build.Target, variable)
		}
	}
	if !s.longRunning() {
		return
	}
	r.want(name == s.Build.Target, "%s: a process has the name of its kind, by which its metrics are found", name)
	flags := pflag.NewFlagSet(name, pflag.ContinueOnError)
	app.AddFlagsOf(s.Build.Target, flags)
	if err := flags.Parse(s.Command); err != nil || flags.NArg() > 0 {
		r.want(false, "%s: command %v: %v, %v left", name, s.Command, err, flags.Args())
		return
	}
	env := app.Env{Getenv: func(k string) string { return s.Environment[k] }, Stderr: io.Discard}
	cfg, err := app.LoadConfigOf(s.Build.Target, env, flags)
	if err != nil {
		r.want(false, "%s: %v", name, err)
		return
	}
	r.configs[name] = cfg
	r.want(s.Restart == "unless-stopped", "%s: restart must be unless-stopped", name)
	r.want(s.Grace > cfg.ShutdownGrace, "%s: stop_grace_period %v is not longer than shutdown_grace, %v", name, s.Grace, cfg.ShutdownGrace)
}

var (
	imageName  = regexp.MustCompile(`^[a-z0-9./-]+:v?(\d+)(?:\.(\d+))?(?:\.\d+)?(-[a-z]+)?$`)
	serverLine = regexp.MustCompile(`nats-server/v2 v2\.(\d+)\.`)
)

// image wants a build of a target that is there, or the version of another's image that the tests know.
func (r *review) image(name string, s *container) {
	if s.Image == "" {
		at := slices.IndexFunc(r.stages, func(st stage) bool { return st.name == s.Build.Target })
		r.want(at >= 0, "%s: the Dockerfile has no target %q", name, s.Build.Target)
		r.want(s.Build.Context == "." && s.Build.Dockerfile == "deploy/Dockerfile", "%s: built from %q by %q", name, s.Build.Context, s.Build.Dockerfile)
		r.health(name, s)
		r.want(s.ReadOnly && slices.Contains(s.CapDrop, "ALL"), "%s: needs neither a file system that can be written nor a capability", name)
		return
	}
	m := imageName.FindStringSubmatch(s.Image)
	if m == nil {
		r.want(false, "%s: image %s has no version", name, s.Image)
		return
	}
	switch name {
	case "postgres":
		tested := slices.ContainsFunc(pgtest.Versions(), func(v string) bool { return strings.HasPrefix(v, m[1]+".") })
		r.want(tested, "postgres: version %s is not tested; %v are", m[1], pgtest.Versions())
	case "nats":
		text, err := os.ReadFile("go.mod")
		v := serverLine.FindStringSubmatch(string(text))
		r.want(err == nil && v != nil && m[1] == "2" && m[2] == v[1], "nats: %s is not the version that go.mod has", s.Image)
		r.want(m[3] == "-alpine", "nats: %s has no program that could check its health", s.Image)
	}
	r.want(s.Restart == "unless-stopped", "%s: restart must be unless-stopped", name)
}

// health wants a process to be asked by its own binary, as its image has no other program.
func (r *review) health(name string, s *container) {
	if !s.longRunning() {
		r.want(s.Healthcheck == nil, "%s: ends, and has no health", name)
		return
	}
	h := s.Healthcheck
	r.want(h != nil && slices.Equal(h.Test, []string{"CMD", "/" + s.Build.Target, "ready"}), "%s: its health is not checked by its own binary", name)
	r.want(h == nil || h.Timeout > 3*time.Second && h.Interval > 0 && h.Retries > 0 && h.StartPeriod > 0, "%s: its health check gives up before the answer can be there", name)
}

// order wants what a service waits for to be there, and able to say so.
func (r *review) order(name string, s *container) {
	for other, on := range s.DependsOn {
		o := r.c.Services[other]
		switch {
		case o == nil:
			r.want(false, "%s: depends on %s, which is not there", name, other)
		case on.Condition == "service_healthy":
			r.want(o.Healthcheck != nil && len(o.Healthcheck.Test) > 1 && o.Healthcheck.Test[0] == "CMD", "%s: waits for the health of %s, which nobody checks", name, other)
		case on.Condition == "service_completed_successfully":
			r.want(o.Restart == "no" && !o.longRunning(), "%s: waits for the end of %s, which does not end", name, other)
		default:
			r.want(false, "%s: condition %q for %s", name, on.Condition, other)
		}
	}
	for other, condition := range map[string]string{"postgres": "service_healthy", "migrate": "service_completed_successfully", "nats": "service_healthy"} {
		_, publishes := s.Environment["MAINSTAY_BROKER"]
		needs := s.longRunning() && (other != "nats" || publishes) || name == "migrate" && other == "postgres"
		r.want(!needs || s.DependsOn[other].Condition == condition, "%s: must wait for %s (%s)", name, other, condition)
	}
}

const (
	postgresPort = "5432"
	natsPort     = "4222"
)

// connections wants URLs to lead to services as these are set up.
func (r *review) connections(name string, s *container) {
	if text, ok := s.Environment["MAINSTAY_DATABASE"]; ok {
		u, err := url.Parse(text)
		if err != nil {
			r.want(false, "%s: %v", name, err)
			return
		}
		password, _ := u.User.Password()
		db := r.c.Services[u.Hostname()]
		r.want(db != nil && u.Port() == postgresPort && db.Environment["POSTGRES_USER"] == u.User.Username() &&
			db.Environment["POSTGRES_PASSWORD"] == password && "/"+db.Environment["POSTGRES_DB"] == u.Path,
			"%s: %s is not the database that postgres makes", name, text)
	}
	if text, ok := s.Environment["MAINSTAY_BROKER"]; ok {
		r.want(text == "nats://nats:"+natsPort && r.c.Services["nats"] != nil, "%s: there is no broker at %s", name, text)
	}
}

// listens gives the ports that a service listens on in its container.
func (r *review) listens(name string) []string {
	cfg, ours := r.configs[name]
	switch {
	case name == "prometheus":
		return []string{"9090"}
	case !ours:
		return nil
	case name == app.Ingest:
		return []string{port(cfg.HTTP), port(cfg.Ops)}
	default:
		return []string{port(cfg.Ops)}
	}
}

func port(addr string) string { return addr[strings.LastIndex(addr, ":")+1:] }

// ports wants what is published to be for this machine only, to be listened on, and to be exposed by the image.
func (r *review) ports(name string, s *container) {
	for _, p := range s.Ports {
		parts := strings.Split(p, ":")
		if len(parts) != 3 || parts[0] != "127.0.0.1" {
			r.want(false, "%s: port %s is not published on 127.0.0.1 only", name, p)
			continue
		}
		r.want(slices.Contains(r.listens(name), parts[2]), "%s: does not listen on port %s", name, parts[2])
	}
	if !s.longRunning() {
		return
	}
	for _, st := range r.stages {
		if st.name == s.Build.Target {
			r.want(slices.Equal(st.words("EXPOSE"), r.listens(name)), "%s: the image exposes %v, the process listens on %v", name, st.words("EXPOSE"), r.listens(name))
		}
	}
}

// volumes wants every mount to be of a volume that is declared or a file that is there, where the image keeps its data.
func (r *review) volumes(name string, s *container) {
	var at []string
	for _, v := range s.Volumes {
		from, rest, _ := strings.Cut(v, ":")
		to, _, _ := strings.Cut(rest, ":")
		at = append(at, to)
		if strings.HasPrefix(from, "./") {
			_, err := os.Stat(from)
			r.want(err == nil, "%s: mounts %s, which is not there", name, from)
			continue
		}
		_, declared := r.c.Volumes[from]
		r.want(declared, "%s: volume %s is not declared", name, from)
	}
	data := map[string]string{
		"postgres": "/var/lib/postgresql/data", "nats": option(s.Command, "store_dir"),
		"prometheus": option(s.Command, "storage.tsdb.path"),
	}
	if want, keeps := data[name]; keeps {
		r.want(slices.Contains(at, want), "%s: keeps its data in %q, which is no volume", name, want)
	}
	if name == "prometheus" {
		r.want(slices.Contains(s.Volumes, "./deploy/prometheus.yml:"+option(s.Command, "config.file")+":ro"), "prometheus: does not read deploy/prometheus.yml")
	}
	if name == "nats" {
		r.want(slices.Contains(s.Command, "--jetstream"), "nats: has no JetStream")
		check := strings.Join(s.Healthcheck.Test, " ")
		r.want(strings.Contains(check, ":"+option(s.Command, "http_port")+"/healthz"), "nats: %q asks another port than its own", check)
	}
}

// option is the value of --name=value in a command.
func option(command []string, name string) string {
	for _, arg := range command {
		if v, ok := strings.CutPrefix(arg, "--"+name+"="); ok {
			return v
		}
	}
	return ""
}

// What max_connections has room for: so many processes, as more of a kind may be started, and so many sessions of people
// and tools, those that PostgreSQL keeps for its superuser included.
const (
	processesThere = 13
	sessionsBeside = 13
)

// shape wants what was promised, and enough connections for it.
func (r *review) shape() {
	for name, n := range map[string]int{"postgres": 1, "nats": 1, "migrate": 1, "ingest": 1, "outbox": 2, "worker": 2, "prometheus": 1} {
		s := r.c.Services[name]
		r.want(s != nil && s.replicas() == n, "there must be %d of %s", n, name)
	}
	used := map[string]bool{}
	for _, s := range r.c.Services {
		for _, v := range s.Volumes {
			from, _, _ := strings.Cut(v, ":")
			used[from] = true
		}
		for _, arg := range s.Command {
			if text, ok := strings.CutPrefix(arg, "max_connections="); ok {
				n, err := strconv.Atoi(text)
				r.want(err == nil && n >= processesThere*postgres.Sessions+sessionsBeside, "max_connections %s is too little for %d processes", text, processesThere)
			}
		}
	}
	for name := range r.c.Volumes {
		r.want(used[name], "nobody uses the volume %s", name)
	}
}

// scraped wants each long-running process to be asked for its metrics where they are.
func (r *review) scraped(text string) {
	var p struct {
		Global  map[string]any `yaml:"global"`
		Rules   []string       `yaml:"rule_files"`
		Scrapes []struct {
			Job string `yaml:"job_name"`
			DNS []struct {
				Names   []string `yaml:"names"`
				Type    string   `yaml:"type"`
				Port    int      `yaml:"port"`
				Refresh string   `yaml:"refresh_interval"`
			} `yaml:"dns_sd_configs"`
		} `yaml:"scrape_configs"`
	}
	dec := yaml.NewDecoder(bytes.NewReader([]byte(text)))
	dec.KnownFields(true)
	if err := dec.Decode(&p); err != nil {
		r.want(false, "deploy/prometheus.yml: %v", err)
		return
	}
	for _, file := range p.Rules {
		mounted := r.c.Services["prometheus"] != nil && slices.Contains(r.c.Services["prometheus"].Volumes, "./deploy/alerts.yml:"+file+":ro")
		r.want(mounted, "prometheus: its rules %s are not deploy/alerts.yml", file)
	}
	r.want(len(p.Rules) > 0, "prometheus: has no rules")
	asked := map[string]bool{}
	for _, job := range p.Scrapes {
		for _, target := range job.DNS {
			for _, name := range target.Names {
				cfg, ours := r.configs[name]
				asked[name] = true
				r.want(ours && target.Type == "A" && port(cfg.Ops) == strconv.Itoa(target.Port), "prometheus: %s has no metrics on port %d", name, target.Port)
			}
		}
	}
	for name := range r.configs {
		r.want(asked[name], "prometheus: does not ask %s", name)
	}
}
