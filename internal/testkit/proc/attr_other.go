//go:build !linux

package proc

import "syscall"

// attributes put the process in a group of its own, so that what it starts can be ended with it.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
