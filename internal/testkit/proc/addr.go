package proc

import (
	"net"
	"testing"
)

// FreeAddr is an address of this machine that nobody listens on, to be had again after every restart.
func FreeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") // it does not block
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() // it was only asked for a number
	return l.Addr().String()
}
