package proc

import "syscall"

// attributes put the process in a group of its own, so that what it starts can be ended with it, and let the kernel
// end it with the tests, however they end.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
