package demo

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/mainstay-io/mainstay/internal/client"
	"github.com/mainstay-io/mainstay/internal/clock"
	"github.com/mainstay-io/mainstay/internal/problem"
)

// accepted is the status of an answer that an order was accepted with.
const accepted = 202

// stocked is an article with what was known of it before the first order.
type stocked struct {
	before, after client.Stock
}

// setScene sets stock and carriers, and says so.
func (s *show) setScene(ctx context.Context) error {
	var text []string
	for _, l := range levels() {
		stock, err := s.client.PutStock(ctx, s.board.prefix+l.sku, l.onHand)
		if err != nil {
			return err
		}
		s.stock = append(s.stock, stocked{before: stock})
		text = append(text, fmt.Sprintf("%s %d", stock.SKU, stock.OnHand))
	}
	was, err := s.client.Carrier(ctx, nowhere)
	if err != nil {
		return err
	}
	if _, err := s.client.PutCarrier(ctx, nowhere, 0); err != nil {
		return err
	}
	s.screen.say("  stock      %s", strings.Join(text, ", "))
	s.screen.say("  carriers   those of %s take nothing (capacity 0, it was %s)", nowhere, capacity(was))
	if s.server == nil {
		s.screen.say("             to undo: curl -X PUT %s/v1/carriers/%s -H 'Content-Type: application/json' -d '{\"capacity\":%s}'",
			s.o.OpsURL, nowhere, inJSON(was))
	}
	return nil
}

func capacity(c client.Carrier) string {
	if c.Capacity == nil {
		return "unlimited"
	}
	return fmt.Sprint(*c.Capacity)
}

func inJSON(c client.Carrier) string {
	if c.Capacity == nil {
		return "null"
	}
	return capacity(c)
}

// load sends all orders and follows each to its end, until ctx ends at the latest. In the middle of it, a server of
// the demo's own is killed and started again. The error is about the server.
func (s *show) load(ctx context.Context) error {
	var clients sync.WaitGroup
	since := clock.Start()
	for i, p := range s.board.snapshot() {
		clients.Go(func() { s.order(ctx, i, p.planned, since) })
	}
	err := s.disturb(ctx)
	if err != nil {
		s.stop(err)
	}
	clients.Wait()
	return err
}

// order is one client: it sends an order when its time has come, blindly again until there is an answer, and waits
// for its end.
func (s *show) order(ctx context.Context, i int, p planned, since clock.Mono) {
	due := time.NewTimer(p.at - since.Elapsed())
	defer due.Stop()
	select {
	case <-due.C:
	case <-ctx.Done():
		return
	}
	s.board.sent(i)
	placed, err := s.place(ctx, i, p)
	if err != nil {
		return
	}
	got, err := s.client.Await(ctx, placed.ID, s.patience())
	if ctx.Err() == nil {
		s.board.seen(i, got, err)
	}
}

// place sends an order under its key until there is an answer, and notes that.
func (s *show) place(ctx context.Context, i int, p planned) (client.Placed, error) {
	placed, err := s.client.PlaceOrder(ctx, p.key, p.body)
	s.board.placed(i, placed, err)
	s.journal.add(p.key, statusOf(err), placed.ID)
	return placed, err
}

// statusOf is the status of the answer to a placing, 0 for none.
func statusOf(err error) int {
	var p *problem.Problem
	switch {
	case err == nil:
		return accepted
	case errors.As(err, &p):
		return p.Status
	default:
		return 0
	}
}

// disturb kills the server at the height of the load and starts it again.
func (s *show) disturb(ctx context.Context) error {
	if s.server == nil {
		return nil
	}
	select {
	case <-s.board.peak:
	case <-ctx.Done():
		return nil
	}
	pid, inFlight, since := s.server.pid(), s.board.tally().inFlight(), clock.Start()
	s.server.killHard()
	s.screen.say("kill -9 %d at the height of the load: %d orders were in flight", pid, inFlight)
	if _, err := s.server.start(ctx, s.client); err != nil {
		return err
	}
	down := since.Elapsed()
	s.kill = &Kill{PID: pid, InFlight: inFlight, DownSeconds: down.Round(time.Millisecond).Seconds()}
	s.screen.say("started again after %.2f s as process %d, on the same directory", down.Seconds(), s.server.pid())
	return nil
}

// recountAtATime bounds the requests of the recount, recountPatience their time.
const (
	recountAtATime  = 16
	recountPatience = 10 * time.Second
)

// recount asks for everything once more, when the waiting is over: each key must name its order, each order must be
// there, and the stock tells what was shipped. The error says that there was no answer; an answer that is wrong is
// noted.
func (s *show) recount(ctx context.Context) error {
	s.screen.say("Sending every key once more, and reading every order.")
	ctx, cancel := context.WithTimeout(ctx, recountPatience)
	defer cancel()
	var clients errgroup.Group
	clients.SetLimit(recountAtATime)
	for i, o := range s.board.snapshot() {
		if o.accepted {
			clients.Go(func() error { return s.again(ctx, i, &o) })
		}
	}
	if err := clients.Wait(); err != nil {
		return err
	}
	for i := range s.stock {
		after, err := s.client.Stock(ctx, s.stock[i].before.SKU)
		if err != nil {
			return err
		}
		s.stock[i].after = after
	}
	return nil
}

// again sends an accepted order's key once more, and reads the order.
func (s *show) again(ctx context.Context, i int, o *order) error {
	if _, err := s.place(ctx, i, o.planned); err != nil && statusOf(err) == 0 {
		return err
	}
	got, err := s.client.Order(ctx, o.ids[0], 0)
	s.board.seen(i, got, err)
	if statusOf(err) == 0 {
		return err
	}
	return nil
}
