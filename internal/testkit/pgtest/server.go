package pgtest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Mode is how a server is asked to stop, as pg_ctl names the modes.
type Mode string

// Smart waits for the clients to go, Fast disconnects them and writes a checkpoint, Immediate is a crash with
// notice: the next start recovers from the log.
const (
	Smart     Mode = "TERM"
	Fast      Mode = "INT"
	Immediate Mode = "QUIT"

	kill Mode = "KILL"
)

const (
	startTimeout = time.Minute
	stopTimeout  = time.Minute
	startTries   = 5
	pollEvery    = 50 * time.Millisecond
	// maxSocketDir leaves room for the socket's own name in the 104 bytes that the narrowest system has.
	maxSocketDir = 80
	logTail      = 16 << 10
)

// supervise starts the server, prints its process id, and prints "exited" when it has ended. The first line on its
// input names a signal for the server. When the input ends without a line, the tests have ended or died: it crashes
// the server and removes its files. Nobody reads its output by then, hence the trap.
const supervise = `
exec 3<&0
"$1/postgres" -D "$2/data" </dev/null >>"$2/log" 2>&1 3<&- &
server=$!
echo "$server"
( if read -r signal <&3; then kill -s "$signal" "$server"; else kill -s QUIT "$server"; exit 9; fi ) 2>/dev/null >&2 &
watcher=$!
trap '' PIPE
wait "$server"
echo exited
wait "$watcher"
if [ $? -eq 9 ]; then cd / && rm -rf "$2"; fi
`

// Server is a PostgreSQL of a test's own, to be stopped, killed and started again. Its methods fail the test when
// the server does not do what it is told, and may be called from one goroutine at a time.
type Server struct {
	t testing.TB
	s *server
}

// NewServer starts a server that ends with the test. Settings are lines of postgresql.conf that come after the
// usual ones. It skips the test if the machine has no binaries, also when MAINSTAY_TEST_POSTGRES is set: a server
// that others share must not be killed.
func NewServer(t testing.TB, settings ...string) *Server {
	t.Helper()
	bin, err := findBinaries()
	failOrSkip(t, err)
	s, err := initServer(bin, os.TempDir(), settings)
	failOrSkip(t, err)
	t.Cleanup(func() { s.remove(t) })
	own := &Server{t: t, s: s}
	own.Start()
	return own
}

// URL is where the server is; it stays the same over restarts.
func (s *Server) URL() string { return s.s.url() }

// DataDir is the server's data directory.
func (s *Server) DataDir() string { return filepath.Join(s.s.dir, "data") }

// NewDatabase gives the URL of a fresh database on this server. It is not dropped: the server ends with the test.
func (s *Server) NewDatabase() string {
	s.t.Helper()
	name := fmt.Sprintf("test_%d", s.s.nextDatabase())
	if err := execute(s.URL(), "create database "+name+" template template0"); err != nil {
		s.t.Fatalf("creating a database: %v", err)
	}
	fresh, err := withDatabase(s.URL(), name)
	if err != nil {
		s.t.Fatalf("naming a database: %v", err)
	}
	return fresh
}

// Start starts a stopped or killed server and returns when it answers.
func (s *Server) Start() {
	s.t.Helper()
	if err := s.s.start(); err != nil {
		s.t.Fatalf("starting PostgreSQL: %v", err)
	}
}

// Stop ends the server in the given mode and returns when it is gone.
func (s *Server) Stop(mode Mode) {
	s.t.Helper()
	if err := s.s.stop(mode); err != nil {
		s.t.Fatalf("stopping PostgreSQL: %v", err)
	}
}

// Kill9 kills the server and the backends it has at once, as the kernel does when memory runs out.
func (s *Server) Kill9() {
	s.t.Helper()
	if err := s.s.stop(kill); err != nil {
		s.t.Fatalf("killing PostgreSQL: %v", err)
	}
}

// Log is the end of what the server has logged.
func (s *Server) Log() string { return s.s.log() }

// server is a data directory and, while it runs, the process on it.
type server struct {
	bin, dir string
	port     int
	as       *account

	mu        sync.Mutex
	databases int

	// of the running process; nil while it is stopped
	shell   *exec.Cmd
	control *os.File
	report  *os.File
	lines   *bufio.Reader
	pid     int
}

// initServer makes a data directory below base; the server is not started yet.
func initServer(bin, base string, settings []string) (*server, error) {
	as, err := unprivileged()
	if err != nil {
		return nil, err
	}
	dir, err := as.tempDir(base)
	if err != nil {
		return nil, fmt.Errorf("making a folder for the server: %w", err)
	}
	s := &server{bin: bin, dir: dir, as: as}
	if err := s.initdb(settings); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return s, nil
}

func (s *server) initdb(settings []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	data := filepath.Join(s.dir, "data")
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, "initdb"), "--pgdata", data, "--no-sync", "--auth", "trust",
		"--username", "postgres", "--encoding", "UTF8", "--locale", "C")
	s.prepare(cmd)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, out)
	}
	port, err := freePort()
	if err != nil {
		return err
	}
	s.port = port
	return s.configure(settings)
}

// prepare makes cmd run as the server's user, in its folder and without the caller's PG* variables.
func (s *server) prepare(cmd *exec.Cmd) {
	cmd.SysProcAttr = s.as.attributes()
	cmd.Dir = s.dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC", "HOME=" + s.dir}
}

func (s *server) configure(settings []string) error {
	sockets := s.dir
	if len(sockets) > maxSocketDir {
		sockets = ""
	}
	lines := append([]string{
		"listen_addresses = '127.0.0.1'",
		"port = " + strconv.Itoa(s.port),
		"unix_socket_directories = '" + sockets + "'",
		"max_connections = 200",
		"fsync = on",
		"synchronous_commit = on",
		"log_line_prefix = '%m %d [%p] '",
		"timezone = 'UTC'",
	}, settings...)
	file, err := os.OpenFile(filepath.Join(s.dir, "data", "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("opening the server's settings: %w", err)
	}
	_, err = file.WriteString("\n" + strings.Join(lines, "\n") + "\n")
	return errors.Join(err, file.Close())
}

func (s *server) url() string {
	return fmt.Sprintf("postgres://postgres@127.0.0.1:%d/postgres?sslmode=disable", s.port)
}

func (s *server) nextDatabase() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.databases++
	return s.databases
}

// start runs the server and waits until it answers. It tries again when it ends at once: another process may have
// taken the port, or a killed server's last backend may still hold the shared memory.
func (s *server) start() error {
	if s.shell != nil {
		return errors.New("it is running already")
	}
	var err error
	for range startTries {
		if err = s.startOnce(); err == nil {
			return nil
		}
	}
	return err
}

func (s *server) startOnce() error {
	if err := s.spawn(); err != nil {
		return fmt.Errorf("starting the supervisor: %w", err)
	}
	if err := s.waitReady(); err != nil {
		return errors.Join(fmt.Errorf("%w\n%s", err, s.log()), s.stop(Immediate))
	}
	return nil
}

// spawn starts the supervisor and reads the server's process id from it. The pipes' other ends are closed here, so
// that each side sees when the other is gone.
func (s *server) spawn() error {
	input, control, err := os.Pipe()
	if err != nil {
		return err
	}
	defer input.Close() // the supervisor has its own copy
	report, output, err := os.Pipe()
	if err != nil {
		return errors.Join(err, control.Close())
	}
	defer output.Close() // the supervisor has its own copy
	shell := exec.CommandContext(context.Background(), "/bin/sh", "-c", supervise, "sh", s.bin, s.dir)
	s.prepare(shell)
	shell.Stdin, shell.Stdout = input, output
	if err := shell.Start(); err != nil {
		return errors.Join(err, control.Close(), report.Close())
	}
	s.shell, s.control, s.report, s.lines = shell, control, report, bufio.NewReader(report)
	line, err := s.lines.ReadString('\n')
	if err != nil {
		return fmt.Errorf("reading the server's process id: %w", err)
	}
	s.pid, err = strconv.Atoi(strings.TrimSpace(line))
	return err
}

// waitReady asks the server until it answers, and gives up when it ends.
func (s *server) waitReady() error {
	deadline := time.Now().Add(startTimeout)
	for {
		err := ping(s.url())
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the server does not answer after %v: %w", startTimeout, err)
		}
		if s.exited(pollEvery) {
			return fmt.Errorf("the server ended at its start: %w", err)
		}
	}
}

// exited waits up to d for the supervisor to say that the server has ended.
func (s *server) exited(d time.Duration) bool {
	if err := s.report.SetReadDeadline(time.Now().Add(d)); err != nil {
		return true
	}
	_, err := s.lines.ReadString('\n')
	return err == nil || !errors.Is(err, os.ErrDeadlineExceeded)
}

// stop signals the server, waits until it is gone and ends the supervisor.
func (s *server) stop(mode Mode) error {
	if s.shell == nil {
		return errors.New("it is not running")
	}
	var orphans []int
	if mode == kill {
		orphans = children(s.pid)
	}
	_, err := fmt.Fprintln(s.control, mode)
	for _, pid := range orphans {
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may have gone with its parent
	}
	if !s.exited(stopTimeout) {
		err = errors.Join(err, fmt.Errorf("it still runs %v after %s", stopTimeout, mode))
	}
	err = errors.Join(err, s.control.Close(), s.report.Close(), s.shell.Wait())
	s.shell, s.control, s.report, s.lines, s.pid = nil, nil, nil, nil, 0
	return err
}

// remove ends the server, if it runs, and deletes its files.
func (s *server) remove(t testing.TB) {
	if t.Failed() {
		t.Logf("the server's log:\n%s", s.log())
	}
	var err error
	if s.shell != nil {
		err = s.stop(Immediate)
	}
	if err = errors.Join(err, os.RemoveAll(s.dir)); err != nil {
		t.Logf("removing the test's PostgreSQL: %v", err)
	}
}

func (s *server) log() string {
	text, err := os.ReadFile(filepath.Join(s.dir, "log"))
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-logTail):])
}

// children are the processes that pid has started; none where the system does not tell.
func children(pid int) []int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return nil
	}
	var pids []int
	for _, field := range strings.Fields(string(text)) {
		if child, err := strconv.Atoi(field); err == nil {
			pids = append(pids, child)
		}
	}
	return pids
}

func freePort() (int, error) {
	var config net.ListenConfig
	listener, err := config.Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("looking for a free port: %w", err)
	}
	address, ok := listener.Addr().(*net.TCPAddr)
	if !ok {
		return 0, errors.Join(fmt.Errorf("the listener is on %v", listener.Addr()), listener.Close())
	}
	return address.Port, listener.Close()
}
