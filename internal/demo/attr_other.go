//go:build !linux

package demo

import "syscall"

// attributes keep a terminal's Ctrl-C from the server, which is the demo's to stop.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
