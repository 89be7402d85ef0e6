package app

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"syscall"
)

// portsToTry bounds the search for a free port.
const portsToTry = 100

// Bound is an address that a process listens on.
type Bound struct {
	net.Listener
	// Notice is a sentence for people when it is not the address of the configuration, else "".
	Notice string
}

// URL is the address as a client on this machine uses it.
func (b Bound) URL() string { return urlOf(b.Addr().String()) }

func urlOf(addr string) string {
	host, port, _ := net.SplitHostPort(addr)
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "http://" + net.JoinHostPort(host, port)
}

// Listen listens on the address in the named setting ("http" or "ops"). A busy address that nobody chose gives way
// to the next port that is free and not in taken, the ports that other settings want; one that was chosen is refused
// with an error of code ExitConflict.
func Listen(ctx context.Context, c Config, name string, taken ...string) (Bound, error) {
	addr, origin := c.HTTP, c.Origin(name)
	if name == "ops" {
		addr = c.Ops
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	switch {
	case err == nil:
		return Bound{Listener: l}, nil
	case !errors.Is(err, syscall.EADDRINUSE):
		return Bound{}, Errorf(ExitUsage, "The address must be one of this machine, and a port below 1024 needs a privilege.",
			"listening on %s (%s): %w", addr, origin, cause(err))
	case origin.Kind != "default":
		return Bound{}, Errorf(ExitConflict,
			fmt.Sprintf("See who listens there with `ss -ltnp 'sport = :%s'`, or give another --%s; port 0 takes any free one.", portOf(addr), name),
			"listening on %s (%s): another process listens there", addr, origin)
	}
	return listenNear(ctx, addr, name, taken)
}

func listenNear(ctx context.Context, addr, name string, taken []string) (Bound, error) {
	host, first, _ := net.SplitHostPort(addr)
	port, _ := strconv.Atoi(first)
	for next := port + 1; next <= port+portsToTry; next++ {
		near := net.JoinHostPort(host, strconv.Itoa(next))
		if slices.Contains(taken, near) {
			continue
		}
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", near)
		if err == nil {
			notice := fmt.Sprintf("%s is in use, so --%s is %s this time", addr, name, near)
			return Bound{Listener: l, Notice: notice}, nil
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			return Bound{}, fmt.Errorf("listening on %s: %w", near, cause(err))
		}
	}
	return Bound{}, Errorf(ExitConflict, "Give a free address with --"+name+"; port 0 takes any free one.",
		"listening on %s: it and the %d ports after it are in use", addr, portsToTry)
}

// cause is err without the repetition of operation and address that package net puts before it.
func cause(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}
