package main

import (
	"syscall"
	"testing"
)

// readOnly is a flag of tmpfs.
const readOnly = syscall.MS_RDONLY

// tmpfs mounts a file system in memory, with flags and options of mount(2), for as long as the test runs, and gives
// its directory.
func tmpfs(t testing.TB, flags uintptr, options string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("mainstay-test", dir, "tmpfs", flags, options); err != nil {
		t.Skipf("this machine cannot mount a file system in memory: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmounting %s: %v", dir, err)
		}
	})
	return dir
}
