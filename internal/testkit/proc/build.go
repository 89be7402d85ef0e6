package proc

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// builds remembers what this test process has built, by recipe: a func() (string, error) each.
var builds sync.Map

// recipe is what is built, and whether with the race detector.
type recipe struct {
	pkg  string
	race bool
}

// Build compiles a command of this module, named from the module's root ("./cmd/mainstay"), or of one that it requires,
// and gives the path of the binary. It is built with the race detector if the test runs with it, once per test process; test processes
// that build the same at the same time wait for each other, and a binary that is up to date is kept.
func Build(t testing.TB, pkg string) string {
	t.Helper()
	return recipe{pkg, raceEnabled}.path(t)
}

// BuildPlain is Build without the race detector, for a tool that is used in a test and is not what is tested: the
// detector makes SQLite thirty times as slow.
func BuildPlain(t testing.TB, pkg string) string {
	t.Helper()
	return recipe{pkg, false}.path(t)
}

func (r recipe) path(t testing.TB) string {
	t.Helper()
	once, _ := builds.LoadOrStore(r, sync.OnceValues(r.build))
	bin, err := once.(func() (string, error))() // nothing else is stored
	if err != nil {
		t.Fatalf("building %s: %v", r.pkg, err)
	}
	return bin
}

func (r recipe) build() (bin string, err error) {
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	dir, err := binaryDir(root, r.race)
	if err != nil {
		return "", err
	}
	unlock, err := lock(filepath.Join(dir, "lock"))
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	bin = filepath.Join(dir, commandName(r.pkg))
	args := []string{"build", "-o", bin}
	if r.race {
		args = append(args, "-race")
	}
	cmd := exec.CommandContext(context.Background(), "go", append(args, r.pkg)...)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%s: %w\n%s", cmd, err, out)
	}
	return bin, nil
}

// commandName is how the go tool names the binary of a package: a major version is no name.
func commandName(pkg string) string {
	name := path.Base(pkg)
	if majorVersion.MatchString(name) {
		name = path.Base(path.Dir(pkg))
	}
	return name
}

var majorVersion = regexp.MustCompile(`^v[0-9]+$`)

// moduleRoot is the folder of the go.mod above the test's working directory.
func moduleRoot() (string, error) {
	out, err := exec.CommandContext(context.Background(), "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("asking for the module: %w", err)
	}
	file := strings.TrimSpace(string(out))
	if filepath.Base(file) != "go.mod" {
		return "", errors.New("the test does not run inside a module")
	}
	return filepath.Dir(file), nil
}

// binaryDir is the user's own folder for binaries of this checkout, with and without the race detector apart.
func binaryDir(root string, race bool) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("looking for a folder to build in: %w", err)
	}
	name := fmt.Sprintf("%x", sha256.Sum256([]byte(root)))[:16]
	if race {
		name += "-race"
	}
	dir := filepath.Join(cache, "mainstay-testkit", name)
	return dir, os.MkdirAll(dir, 0o700)
}

// lock waits for the lock of the file, which ends with the process at the latest.
func lock(name string) (unlock func() error, err error) {
	file, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("locking %s: %w", name, err), file.Close())
	}
	return file.Close, nil
}
