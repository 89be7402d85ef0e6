package demo

import (
	"fmt"
	"slices"
	"sync"

	"github.com/mainstay-io/mainstay/internal/client"
)

// order is what the clients know of one order.
type order struct {
	planned
	// sent, and whether it was answered with 202.
	sent, accepted bool
	// ids are the orders that the answers to its key named, without repetitions: one, if all is well.
	ids []string
	// requests is how often it was sent before it was first answered; replayed says that the server had accepted it
	// with an earlier request, whose answer was lost.
	requests int
	replayed bool
	// again says that its key was sent once more in the end, and answered with its order.
	again bool
	// last is the latest answer about it.
	last client.Order
	// refusal is why it, or its key in the end, was not accepted; gone is why it could not be read any more. Both are nil
	// if all is well.
	refusal, gone error
}

func (o *order) ended() bool { return o.accepted && o.last.Ended() }

// id names the order for people: by its key, as long as it has no id.
func (o *order) id() string {
	if len(o.ids) == 0 {
		return "key " + o.key
	}
	return o.ids[0]
}

// board is what is known of all orders. It may be used by many goroutines.
type board struct {
	kinds  []kind
	prefix string

	mu     sync.Mutex
	orders []order
	news   []string // the latest last
	enough int      // accepted orders after which peak is closed
	peak   chan struct{}
}

// newsKept is how many of the latest events are shown.
const newsKept = 5

func newBoard(all []planned, kinds []kind, prefix string) *board {
	b := &board{kinds: kinds, prefix: prefix, peak: make(chan struct{}), enough: len(all) * (peakBegins + peakEnds) / 200}
	for _, p := range all {
		b.orders = append(b.orders, order{planned: p})
	}
	return b
}

// snapshot copies all orders.
func (b *board) snapshot() []order {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]order(nil), b.orders...)
}

// latest are the latest events.
func (b *board) latest() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string(nil), b.news...)
}

func (b *board) update(i int, change func(o *order)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	o := &b.orders[i]
	before := o.last.Status
	change(o)
	if after := o.last.Status; after != before {
		b.tell(o)
	}
}

// tell adds an event; b.mu is held.
func (b *board) tell(o *order) {
	text := fmt.Sprintf("%s  %-20s %s", shortID(o.last.ID), b.kinds[o.kind].name, say(o.last.Status))
	if o.last.Reason != nil {
		text += ": " + say(o.last.Reason.Code)
	}
	b.news = append(b.news, text)
	b.news = b.news[max(0, len(b.news)-newsKept):]
}

func shortID(id string) string { return id[max(0, len(id)-12):] }

// sent notes that an order is on its way.
func (b *board) sent(i int) { b.update(i, func(o *order) { o.sent = true }) }

// placed notes the answer to the first placing, and to the one in the end; err is why there was none, or a refusal.
func (b *board) placed(i int, p client.Placed, err error) {
	b.update(i, func(o *order) {
		switch {
		case err != nil:
			o.refusal = err
		case o.accepted:
			o.again = slices.Equal(o.ids, []string{p.ID})
		default:
			o.accepted, o.replayed, o.last = true, p.Replayed, p.Order
		}
		if o.requests == 0 {
			o.requests = p.Attempts
		}
		if err == nil && !slices.Contains(o.ids, p.ID) {
			o.ids = append(o.ids, p.ID)
		}
	})
	b.checkPeak()
}

// checkPeak closes peak when the height of the load is reached.
func (b *board) checkPeak() {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	for i := range b.orders {
		if b.orders[i].accepted {
			n++
		}
	}
	if n >= b.enough {
		select {
		case <-b.peak:
		default:
			close(b.peak)
		}
	}
}

// seen notes the answer to a reading.
func (b *board) seen(i int, got client.Order, err error) {
	b.update(i, func(o *order) {
		o.gone = err
		if err == nil {
			o.last = got
		}
	})
}

// tally are numbers of orders.
type tally struct {
	planned, sent, accepted, refused             int
	pending, confirmed, cancelled, needsOperator int
	requests, replayed, again                    int
}

// ended are those with which nothing more happens.
func (t tally) ended() int { return t.confirmed + t.cancelled + t.needsOperator }

// inFlight are those that were sent and have not come to an end.
func (t tally) inFlight() int { return t.sent - t.refused - t.ended() }

func (b *board) tally() tally {
	t := tally{}
	for _, o := range b.snapshot() {
		t.add(&o)
	}
	return t
}

func (t *tally) add(o *order) {
	t.planned++
	t.requests += o.requests
	count(&t.sent, o.sent)
	count(&t.accepted, o.accepted)
	count(&t.replayed, o.replayed)
	count(&t.again, o.again)
	count(&t.refused, !o.accepted && o.refusal != nil)
	if o.accepted {
		count(&t.pending, o.last.Status == client.StatusPending)
		count(&t.confirmed, o.last.Status == client.StatusConfirmed)
		count(&t.cancelled, o.last.Status == client.StatusCancelled)
		count(&t.needsOperator, o.last.Status == client.StatusNeedsOperator)
	}
}

func count(n *int, is bool) {
	if is {
		*n++
	}
}
