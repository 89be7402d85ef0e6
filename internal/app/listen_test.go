package app_test

import (
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/mainstay-io/mainstay/internal/app"
)

// occupied is an address at which somebody listens already.
func occupied(t *testing.T) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l.Addr().String()
}

func TestListen_RefusesABusyAddressThatWasGiven(t *testing.T) {
	t.Parallel()
	addr := occupied(t)
	for _, args := range [][]string{{"--http", addr}, {"--ops", addr}} {
		c, err := load(t, nil, args...)
		if err != nil {
			t.Fatal(err)
		}
		_, err = app.Listen(t.Context(), c, strings.TrimPrefix(args[0], "--"))
		var coded *app.Error
		if !errors.As(err, &coded) || coded.Code != app.ExitConflict {
			t.Fatalf("error is %v", err)
		}
		if want := "listening on " + addr + " (flag " + args[0] + "): another process listens there"; err.Error() != want {
			t.Errorf("error is %q, want %q", err, want)
		}
		if !strings.Contains(coded.Hint, args[0]) {
			t.Errorf("the hint names no flag: %s", coded.Hint)
		}
	}
}

func TestListen_TakesTheNextFreePortWhenNobodyChose(t *testing.T) {
	t.Parallel()
	busy := occupied(t)
	c := app.Config{HTTP: busy, Ops: busy} // without origins all values are defaults
	first, err := app.Listen(t.Context(), c, "http")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = first.Close() }()
	if first.Addr().String() == busy || !strings.HasPrefix(first.Notice, busy+" is in use, so --http is "+first.Addr().String()) {
		t.Errorf("listening on %v: %q", first.Addr(), first.Notice)
	}
	second, err := app.Listen(t.Context(), c, "http", next(first.Addr().String(), 1), next(first.Addr().String(), 2))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = second.Close() }()
	for _, taken := range []string{next(first.Addr().String(), 1), next(first.Addr().String(), 2)} {
		if second.Addr().String() == taken {
			t.Errorf("took %s, which another setting wants", taken)
		}
	}
}

// next is the address with a port that is by higher.
func next(addr string, by int) string {
	tcp, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		panic(err)
	}
	tcp.Port += by
	return tcp.String()
}

func TestListen_SaysWhatElseIsWrong(t *testing.T) {
	t.Parallel()
	_, err := app.Listen(t.Context(), app.Config{HTTP: "192.0.2.1:80"}, "http")
	var coded *app.Error
	if !errors.As(err, &coded) || coded.Code != app.ExitUsage || strings.Count(err.Error(), "192.0.2.1:80") != 1 {
		t.Errorf("error is %v", err)
	}
}

func TestBound_URLIsForThisMachine(t *testing.T) {
	t.Parallel()
	for listen, host := range map[string]string{"127.0.0.1:0": "http://127.0.0.1:", "0.0.0.0:0": "http://127.0.0.1:"} {
		b, err := app.Listen(t.Context(), app.Config{HTTP: listen}, "http")
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(b.URL(), host) || b.Notice != "" {
			t.Errorf("%s gives %s (%s)", listen, b.URL(), b.Notice)
		}
		_ = b.Close()
	}
}
