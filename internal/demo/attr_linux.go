package demo

import "syscall"

// attributes keep a terminal's Ctrl-C from the server, which is the demo's to stop, and let the kernel stop it when
// the demo is killed.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
