package pgtest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// errNone is matched when the machine has no PostgreSQL at all.
var errNone = errors.New("no PostgreSQL")

// packageDirs are where the systems' packages put binaries that they keep out of PATH.
var packageDirs = []string{
	"/usr/lib/postgresql/*/bin", // Debian, Ubuntu
	"/usr/pgsql-*/bin",          // Red Hat and others, from the project's own packages
	"/usr/libexec/postgresql*",  // Alpine
	"/opt/homebrew/opt/postgresql*/bin",
	"/usr/local/opt/postgresql*/bin",
}

// findBinaries gives the folder with initdb and postgres: what PATH names, else the newest package's, else what
// pg_config points to. The error is errNone when there is none.
func findBinaries() (string, error) {
	candidates := []string{}
	if found, err := exec.LookPath("postgres"); err == nil {
		candidates = append(candidates, realDir(found))
	}
	candidates = append(candidates, newestFirst(globAll(packageDirs))...)
	if out, err := exec.CommandContext(context.Background(), "pg_config", "--bindir").Output(); err == nil {
		candidates = append(candidates, strings.TrimSpace(string(out)))
	}
	for _, dir := range candidates {
		if hasServer(dir) {
			return dir, nil
		}
	}
	return "", fmt.Errorf("%w: %s is not set, and initdb and postgres are neither in PATH nor in %s",
		errNone, Env, strings.Join(packageDirs, ", "))
}

// realDir is the folder of the file that name finally links to: initdb looks for its companions there.
func realDir(name string) string {
	if target, err := filepath.EvalSymlinks(name); err == nil {
		name = target
	}
	return filepath.Dir(name)
}

func globAll(patterns []string) []string {
	var dirs []string
	for _, p := range patterns {
		found, err := filepath.Glob(p)
		if err == nil {
			dirs = append(dirs, found...)
		}
	}
	return dirs
}

// newestFirst sorts folders by the version number in their names, the highest first; those without one come last.
func newestFirst(dirs []string) []string {
	number := regexp.MustCompile(`\d+(\.\d+)?`)
	version := func(dir string) float64 {
		v, err := strconv.ParseFloat(number.FindString(dir), 64)
		if err != nil {
			return 0
		}
		return v
	}
	sorted := slices.Clone(dirs)
	slices.SortStableFunc(sorted, func(a, b string) int { return cmp.Compare(version(b), version(a)) })
	return sorted
}

func hasServer(dir string) bool {
	for _, name := range []string{"initdb", "postgres"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.IsDir() || info.Mode()&0o111 == 0 {
			return false
		}
	}
	return true
}

// account is the user that the server runs as: nil for the user of the tests, who is not root.
type account struct{ uid, gid int }

// unprivileged picks the server's user: PostgreSQL refuses to run as root.
func unprivileged() (*account, error) {
	if os.Geteuid() != 0 {
		return nil, nil // nil is "stay who you are", documented on account
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, uidErr := strconv.Atoi(u.Uid)
		gid, gidErr := strconv.Atoi(u.Gid)
		if err := errors.Join(uidErr, gidErr); err != nil {
			return nil, fmt.Errorf("reading the ids of user %s: %w", name, err)
		}
		return &account{uid: uid, gid: gid}, nil
	}
	return nil, errors.New("running as root, and there is neither a user postgres nor nobody to run the server as")
}

// attributes make a process run as the account, in a session of its own so that no Ctrl-C of the tests reaches it.
func (a *account) attributes() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setsid: true}
	if a != nil {
		attr.Credential = &syscall.Credential{
			Uid: uint32(a.uid), Gid: uint32(a.gid), // ids from the user database fit 32 bits
		}
	}
	return attr
}

// memoryDir is a folder in memory with room for many databases, else the usual one for temporary files.
func memoryDir() string {
	const dir, room = "/dev/shm", 4 << 30
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil || fs.Bavail*uint64(fs.Bsize) < room || !openToAll(dir) {
		return os.TempDir()
	}
	return dir
}

// tempDir makes a folder below base, or where the account may work, that belongs to the account.
func (a *account) tempDir(base string) (string, error) {
	if a != nil && !openToAll(base) {
		base = "/tmp"
	}
	dir, err := os.MkdirTemp(base, "mainstay-pg-")
	if err != nil {
		return "", err
	}
	if a == nil {
		return dir, nil
	}
	if err := os.Chown(dir, a.uid, a.gid); err != nil {
		return "", errors.Join(err, os.RemoveAll(dir))
	}
	return dir, nil
}

// openToAll tells whether any user may work in dir and in what leads to it.
func openToAll(dir string) bool {
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm()&0o003 != 0o003 {
		return false
	}
	for parent := filepath.Dir(dir); parent != dir; dir, parent = parent, filepath.Dir(parent) {
		info, err := os.Stat(parent)
		if err != nil || info.Mode().Perm()&0o001 == 0 {
			return false
		}
	}
	return true
}
