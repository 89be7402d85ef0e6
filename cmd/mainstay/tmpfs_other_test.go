//go:build !linux

package main

import "testing"

const readOnly = 0

// tmpfs skips the test: mounting is only done on Linux.
func tmpfs(t testing.TB, _ uintptr, _ string) string {
	t.Helper()
	t.Skip("this machine cannot mount a file system in memory: it is not Linux")
	return ""
}
