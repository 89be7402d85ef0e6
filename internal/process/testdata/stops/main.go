// Command stops is an outbox or a worker process that a fault meets at the worst moment, once for each file that it
// finds: `stops DIR outbox ...` dies between a publish and its record where DIR/publish is, and its relay's publishes to
// the lane that DIR/lane names fail; `stops DIR worker ...` pauses itself, as SIGSTOP does, between claiming an
// authorisation and sending it, where DIR/authorise is.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/broker"
	"github.com/mainstay-io/mainstay/internal/payment"
	"github.com/mainstay-io/mainstay/internal/process/outbox"
	"github.com/mainstay-io/mainstay/internal/process/worker"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	at := moments(os.Args[1])
	program := outbox.Program()
	program.Serve = outbox.Seams{Publisher: func(p broker.Publisher) broker.Publisher { return &publisher{p, at} }}.Main
	if os.Args[2] == "worker" {
		program = worker.Program()
		program.Serve = worker.Seams{Gateway: func(g payment.Gateway) payment.Gateway { return &gateway{g, at} }}.Main
	}
	os.Args = append(os.Args[:1], os.Args[3:]...)
	os.Exit(app.Main(ctx, program.Run))
}

// moments is a directory of the moments at which something is to happen.
type moments string

// come says that the moment has come: its file is there, and is used up.
func (m moments) come(name string) bool { return os.Remove(filepath.Join(string(m), name)) == nil }

// send tells the process's own operating system.
func send(sig syscall.Signal) {
	if err := syscall.Kill(os.Getpid(), sig); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}

type publisher struct {
	broker.Publisher
	at moments
}

func (p *publisher) Publish(ctx context.Context, msgs []*mainstay.Message, expect map[mainstay.TopicLane]int64) (map[mainstay.TopicLane]int64, error) {
	if broken, err := os.ReadFile(filepath.Join(string(p.at), "lane")); err == nil {
		for _, m := range msgs {
			if strconv.Itoa(m.Lane) == strings.TrimSpace(string(broken)) {
				return nil, errors.New("this lane takes nothing")
			}
		}
	}
	ends, err := p.Publisher.Publish(ctx, msgs, expect)
	if err == nil && p.at.come("publish") {
		send(syscall.SIGKILL)
	}
	return ends, err
}

type gateway struct {
	payment.Gateway
	at moments
}

func (g *gateway) Authorise(ctx context.Context, key string, r payment.AuthoriseRequest) error {
	if g.at.come("authorise") {
		send(syscall.SIGSTOP)
		// What the network was about to carry goes out, however long it took.
		ctx = context.WithoutCancel(ctx)
	}
	return g.Gateway.Authorise(ctx, key, r)
}
