package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/testkit/load"
	"github.com/mainstay-io/mainstay/internal/testkit/proc"
)

// powerCuts is how often the power is cut in one run.
const powerCuts = 3

// TestServe_SurvivesPowerCuts cuts the power of the disk under load from clients that retry blindly: what was not
// synced is gone, for database and broker alike. The broker syncs lazily and so loses its tail, which is filled again
// from the outbox; nothing that was accepted is lost. The first time the server outlives its disk, and ends by itself.
func TestServe_SurvivesPowerCuts(t *testing.T) {
	t.Parallel()
	d := newDisk(t)
	bin, data := proc.Build(t, "./cmd/mainstay"), filepath.Join(d.dir, "data")
	http, ops := proc.FreeAddr(t), proc.FreeAddr(t)
	start := func() *server {
		return waitServer(t, proc.Start(t, bin, "serve", "--data", data, "--http", http, "--ops", ops,
			"--call-timeout", "300ms", "--step-timeout", "1s", "--order-deadline", "3m"))
	}
	s := start()
	blind := load.Blind(t, s.URL, s.OpsURL)
	j := load.NewJournal(t)
	loading, stopLoad := context.WithCancel(t.Context())
	defer stopLoad()
	waitLoad := load.Run(loading, t, j, 12, blind)
	overlapped, refilled := 0, 0
	for i := range powerCuts {
		linger(t, time.Duration(1000+rand.IntN(1500))*time.Millisecond)
		d.cut(t)
		if i == 0 {
			wantDiskFailed(t, s)
		} else {
			s.Kill()
		}
		d.powerOn(t)
		if inFlight(t, "sqlite", "file:"+filepath.Join(data, "mainstay.db")) > 0 {
			overlapped++
		}
		s = start()
		wantReady(t.Context(), t, s)
		if strings.Contains(s.Stderr(), `"msg":"broker lost messages, refilling"`) {
			refilled++
		}
	}
	stopLoad()
	waitLoad()
	ids := j.Accepted()
	for _, id := range ids {
		if o, err := s.Await(t.Context(), id, 3*time.Minute); err != nil || !o.Ended() {
			t.Fatalf("order %s did not end: %+v, error %v", id, o, err)
		}
	}
	out := verify(t, "--data", data, "--journal", j.Path())
	t.Logf("%d orders, %d power cuts: %d met sagas in flight, after %d the broker had lost messages\n%s", len(ids), powerCuts, overlapped, refilled, out)
	if overlapped == 0 || refilled == 0 {
		t.Errorf("inconclusive: of %d power cuts %d met sagas in flight, after %d the broker had lost messages", powerCuts, overlapped, refilled)
	}
	stop(t.Context(), t, s)
}

// wantDiskFailed wants a server under load to end by itself, and to say why: the disk refuses its commits, and nobody
// knows what of the last one is there.
func wantDiskFailed(t *testing.T, s *server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	code, err := s.Wait(ctx)
	if err != nil || code != app.ExitError {
		t.Errorf("it ended with code %d, %v; want %d", code, err, app.ExitError)
	}
	if said := s.Stderr(); !strings.Contains(said, "the disk has failed in a commit") || !strings.Contains(said, "Check the disk, then start again") {
		t.Errorf("it does not say why it ended, and what to do: %s", said[max(0, len(said)-2000):])
	}
}

// disk is a file system of its own in a file, whose power can be cut.
type disk struct{ image, dir string }

// diskPrefix begins the names of the disks' folders; the test process's number follows.
const diskPrefix = "mainstay-power-"

// newDisk makes a disk and mounts it for as long as the test runs. What a killed test has left behind is removed.
func newDisk(t testing.TB) *disk {
	t.Helper()
	for _, tool := range []string{"mkfs.ext4", "mount", "umount"} {
		if _, err := exec.LookPath(tool); err != nil || os.Geteuid() != 0 {
			t.Skipf("this machine cannot cut the power of a disk: it takes root (user %d) and %s (%v)", os.Geteuid(), tool, err)
		}
	}
	sweepDisks(t)
	base := filepath.Join(os.TempDir(), diskPrefix+strconv.Itoa(os.Getpid()))
	d := &disk{image: filepath.Join(base, "image"), dir: filepath.Join(base, "disk")}
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { removeDisk(t, base) })
	if err := os.WriteFile(d.image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(d.image, 512<<20); err != nil {
		t.Fatal(err)
	}
	if err := tool("mkfs.ext4", "-q", "-F", d.image); err != nil {
		t.Fatal(err)
	}
	if err := tool("mount", "-o", "loop", d.image, d.dir); err != nil {
		t.Skipf("this machine cannot mount a disk in a file: %v", err)
	}
	return d
}

// sweepDisks removes the disks of processes that are gone.
func sweepDisks(t testing.TB) {
	t.Helper()
	left, err := filepath.Glob(filepath.Join(os.TempDir(), diskPrefix+"*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, base := range left {
		pid, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(base), diskPrefix))
		if err == nil && syscall.Kill(pid, 0) == syscall.ESRCH {
			removeDisk(t, base)
		}
	}
}

// removeDisk unmounts a disk, whose loop device goes with the mount, and removes its file. A mount that is still
// there stops it: what is below would be removed otherwise.
func removeDisk(t testing.TB, base string) {
	t.Helper()
	mount := filepath.Join(base, "disk")
	if mounted(t, mount) {
		if err := syscall.Unmount(mount, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmounting %s: %v", mount, err)
			return
		}
	}
	if err := os.RemoveAll(base); err != nil {
		t.Error(err)
	}
}

func mounted(t testing.TB, dir string) bool {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Contains(mounts, []byte(" "+dir+" "))
}

// EXT4_IOC_SHUTDOWN, with the flag that keeps even the file system's own log from being written.
const (
	ext4Shutdown = 0x8004587d
	noLogFlush   = 2
)

// cut takes the power: from now on the disk has what had reached it, and refuses everything.
func (d *disk) cut(t testing.TB) {
	t.Helper()
	f, err := os.Open(d.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() // a directory
	how := uint32(noLogFlush)
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), ext4Shutdown, uintptr(unsafe.Pointer(&how))); errno != 0 {
		t.Skipf("this machine cannot cut the power of a file system: %v", errno)
	}
}

// powerOn mounts the disk again, which replays the file system's log.
func (d *disk) powerOn(t testing.TB) {
	t.Helper()
	if err := tool("umount", d.dir); err != nil {
		t.Fatal(err)
	}
	if err := tool("mount", "-o", "loop", d.image, d.dir); err != nil {
		t.Fatal(err)
	}
}

func tool(name string, args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, out)
	}
	return nil
}
