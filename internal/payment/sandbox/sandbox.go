// Package sandbox is the built-in payment gateway: a stand-in for a provider, with a durable store of its own that
// shares nothing with its callers', so that the two can be compared. It understands test tokens:
//
//	tok_ok                  everything works
//	tok_declined            authorisation rejected: card_declined
//	tok_insufficient_funds  authorisation rejected: insufficient_funds
//	tok_timeout             authorises, but answers the first call only after its deadline; a repetition is answered
//	tok_flaky               unavailable twice, before anything is done, then works
//	tok_capture_rejected    authorises; the capture is rejected, as the authorisation has expired
//	tok_void_fails          authorises; cancelling it is never available
//
// Any other token is rejected: invalid_token.
//
// An operation is answered when its transaction is durable, never before. Operations that arrive together share one
// transaction; one that arrives alone does not wait for company. Any number of processes may use one PostgreSQL
// database; a SQLite database belongs to one process.
package sandbox

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/payment"
)

// Errors that say that an outcome is unknown to the caller.
var (
	// ErrUnavailable is the sandbox's 503: the operation was not done this time.
	ErrUnavailable = errors.New("sandbox: service unavailable")
	// ErrClosed means that the gateway was closed before the operation was answered.
	ErrClosed = errors.New("sandbox: closed")
)

// Options tune a gateway; the zero value is fit for use.
type Options struct {
	// Latency is added to every answer, as a network would.
	Latency time.Duration
	// Late is how long tok_timeout keeps a caller waiting that has no deadline; 30 seconds when zero.
	Late time.Duration
	// MaxFold bounds the operations of one transaction; 256 when zero.
	MaxFold int
}

func (o Options) withDefaults() Options {
	if o.Late == 0 {
		o.Late = 30 * time.Second
	}
	if o.MaxFold == 0 {
		o.MaxFold = 256
	}
	return o
}

// Gateway is a payment.Gateway over a database.
type Gateway struct {
	opt   Options
	store store
	ops   chan *op
	done  chan struct{} // closed when the writer has ended
	stop  context.CancelFunc
	wg    sync.WaitGroup
}

var _ payment.Gateway = (*Gateway)(nil)

// Open makes the store's tables where they are missing and starts the writer. The database is the caller's: it is to
// be closed after the gateway. On SQLite one connection is taken for the writer and set to WAL with synchronous=FULL.
func Open(ctx context.Context, db *sql.DB, dialect mainstay.Dialect, opt Options) (*Gateway, error) {
	s, err := openStore(ctx, db, dialect)
	if err != nil {
		return nil, fmt.Errorf("opening the sandbox's store: %w", err)
	}
	opt = opt.withDefaults()
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	g := &Gateway{opt: opt, store: s, ops: make(chan *op, opt.MaxFold), done: make(chan struct{}), stop: stop}
	g.wg.Go(func() {
		defer close(g.done)
		g.write(run)
	})
	return g, nil
}

// Close ends the writer and waits for it. Operations under way are either finished or answered with ErrClosed.
func (g *Gateway) Close() error {
	g.stop()
	g.wg.Wait()
	return g.store.close()
}

// Authorise implements payment.Gateway.
func (g *Gateway) Authorise(ctx context.Context, key string, r payment.AuthoriseRequest) error {
	o := newOp(opAuthorise, key, r.OrderRef)
	o.amount, o.currency, o.token = r.Amount, r.Currency, r.Token
	o.hash = fingerprint("authorise", r.OrderRef, strconv.FormatInt(r.Amount, 10), r.Currency, r.Token)
	if err := g.do(ctx, o); err != nil {
		return err
	}
	if o.late {
		return wait(ctx, g.opt.Late)
	}
	return o.err
}

// Capture implements payment.Gateway.
func (g *Gateway) Capture(ctx context.Context, key string, r payment.CaptureRequest) error {
	o := newOp(opCapture, key, r.OrderRef)
	o.amount, o.currency = r.Amount, r.Currency
	o.hash = fingerprint("capture", r.OrderRef, strconv.FormatInt(r.Amount, 10), r.Currency)
	if err := g.do(ctx, o); err != nil {
		return err
	}
	return o.err
}

// Cancel implements payment.Gateway.
func (g *Gateway) Cancel(ctx context.Context, key string, r payment.CancelRequest) (payment.Cancellation, error) {
	o := newOp(opCancel, key, r.OrderRef)
	if err := g.do(ctx, o); err != nil {
		return payment.Cancellation{}, err
	}
	return o.cancelled, o.err
}

// do hands o to the writer and waits until its transaction has ended. An error means that o's outcome is unknown.
func (g *Gateway) do(ctx context.Context, o *op) error {
	if err := g.submit(ctx, o); err != nil {
		return err
	}
	if g.opt.Latency > 0 {
		return wait(ctx, g.opt.Latency)
	}
	return nil
}

func (g *Gateway) submit(ctx context.Context, o *op) error {
	select {
	case g.ops <- o:
	case <-g.done:
		return ErrClosed
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case <-o.done:
		return o.failed
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-g.done:
	}
	select { // the writer may have finished it in its last transaction
	case <-o.done:
		return o.failed
	default:
		return ErrClosed
	}
}

// write is the one writer: it folds what has arrived into one transaction.
func (g *Gateway) write(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case first := <-g.ops:
			g.fold(ctx, g.drain(first))
		}
	}
}

func (g *Gateway) drain(first *op) []*op {
	group := []*op{first}
	for len(group) < g.opt.MaxFold {
		select {
		case o := <-g.ops:
			group = append(group, o)
		default:
			return group
		}
	}
	return group
}

// fold runs a group in one transaction; when that fails, each operation gets one of its own, so that one that cannot
// be done fails alone.
func (g *Gateway) fold(ctx context.Context, group []*op) {
	err := g.transact(ctx, group)
	if err != nil && len(group) > 1 && ctx.Err() == nil {
		for _, o := range group {
			g.fold(ctx, []*op{o})
		}
		return
	}
	for _, o := range group {
		o.failed = err
		close(o.done)
	}
}

// transactTimeout bounds a transaction. It is not cut short by Close: what was begun is finished and answered.
const transactTimeout = 10 * time.Second

func (g *Gateway) transact(ctx context.Context, group []*op) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), transactTimeout)
	defer cancel()
	return g.store.transact(ctx, group)
}

// fingerprint is injective: each part is preceded by its length.
func fingerprint(parts ...string) []byte {
	h := sha256.New()
	for _, p := range parts {
		_, _ = fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return h.Sum(nil)
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
