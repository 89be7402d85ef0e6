package demo

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/client"
	"github.com/mainstay-io/mainstay/internal/verify"
)

// Result is what became of all orders.
type Result struct {
	// Sent orders were accepted or refused, or nobody knows. Requests is how often they were sent until they were
	// answered; Replayed had been accepted by then, and the answer was lost.
	Sent     int `json:"sent"`
	Requests int `json:"requests"`
	Replayed int `json:"replayed"`
	// Again is how many keys were sent once more when all was over, and named the same order.
	Again    int `json:"again"`
	Accepted int `json:"accepted"`
	// Ended orders are confirmed, cancelled, or need an operator.
	Ended         int `json:"ended"`
	Confirmed     int `json:"confirmed"`
	Cancelled     int `json:"cancelled"`
	NeedsOperator int `json:"needs_operator"`
	// Lost and Twice count the mismatches of these sorts.
	Lost  int `json:"lost"`
	Twice int `json:"twice"`
	// Owed is what must still be undone by a person.
	Owed  []Owed       `json:"owed"`
	Kinds []KindResult `json:"kinds"`
	// Mismatches are everything that is not as it should be. An order may have several.
	Mismatches []Mismatch `json:"mismatches"`
	// Kill is how the server was killed; nil if it was not.
	Kill *Kill `json:"kill,omitempty"`
	// Verify is what the database says; nil when it was not asked, and NotVerified says why.
	Verify      *verify.Report `json:"verify,omitempty"`
	NotVerified string         `json:"not_verified,omitempty"`
	Seconds     float64        `json:"seconds"`
}

// Owed is money, in minor units, and what must still be done with it.
type Owed struct {
	What     string `json:"what"`
	Currency string `json:"currency"`
	Amount   int64  `json:"amount"`
}

// KindResult is what became of the orders of a kind. Became counts them by their status, and their reason after a
// slash if they have one.
type KindResult struct {
	Kind   string         `json:"kind"`
	Sent   int            `json:"sent"`
	Became map[string]int `json:"became"`
	Why    string         `json:"why"`
}

// Sorts of mismatches.
const (
	mismatchLost  = "lost"
	mismatchTwice = "twice"
	mismatchWrong = "wrong"
)

// Mismatch is something that is not as it should be. ID names an order wherever there is one.
type Mismatch struct {
	Sort   string `json:"sort"`
	ID     string `json:"id"`
	Detail string `json:"detail"`
}

// Kill is how a server was killed. InFlight counts the orders that were sent and had not ended.
type Kill struct {
	PID         int     `json:"pid"`
	InFlight    int     `json:"in_flight"`
	DownSeconds float64 `json:"down_seconds"`
}

// judge says what became of all orders, and finds everything that is not as it should be. The report may be nil.
// When complete, the report is about no other orders than these.
func judge(b *board, stock []stocked, report *verify.Report, complete bool) *Result {
	t := b.tally()
	r := &Result{
		Sent: t.sent, Requests: t.requests, Replayed: t.replayed, Again: t.again, Accepted: t.accepted, Ended: t.ended(), Confirmed: t.confirmed, Cancelled: t.cancelled,
		NeedsOperator: t.needsOperator, Owed: []Owed{}, Mismatches: []Mismatch{}, Verify: report,
	}
	orders := b.snapshot()
	r.byKind(b.kinds, orders)
	r.checkOrders(b.kinds, orders)
	r.checkKeys(orders)
	if t.ended() == t.accepted {
		r.checkStock(b.prefix, b.kinds, orders, stock)
	}
	r.owed(b.kinds, orders)
	if report != nil {
		r.checkReport(report, complete)
	}
	r.Lost, r.Twice = r.count(mismatchLost), r.count(mismatchTwice)
	return r
}

func (r *Result) found(sort, id, format string, args ...any) {
	r.Mismatches = append(r.Mismatches, Mismatch{sort, id, fmt.Sprintf(format, args...)})
}

// count is the number of things with mismatches of a sort.
func (r *Result) count(sort string) int {
	ids := map[string]bool{}
	for _, m := range r.Mismatches {
		if m.Sort == sort {
			ids[m.ID] = true
		}
	}
	return len(ids)
}

func (r *Result) byKind(kinds []kind, orders []order) {
	for _, k := range kinds {
		r.Kinds = append(r.Kinds, KindResult{Kind: k.name, Became: map[string]int{}, Why: k.why})
	}
	for i := range orders {
		k := &r.Kinds[orders[i].kind]
		count(&k.Sent, orders[i].sent)
		k.Became[orders[i].became()]++
	}
}

// became is the status and the reason of an order.
func (o *order) became() string {
	switch {
	case !o.sent:
		return "not_sent"
	case !o.accepted && o.refusal != nil:
		return "not_accepted"
	case !o.accepted:
		return "not_answered"
	case o.gone != nil:
		return "gone"
	case o.last.Reason != nil:
		return o.last.Status + "/" + o.last.Reason.Code
	default:
		return o.last.Status
	}
}

// should is how the orders of a kind have to end, in the words of became.
func (k kind) should() string {
	if k.reason == "" {
		return k.status
	}
	return k.status + "/" + k.reason
}

func (r *Result) checkOrders(kinds []kind, orders []order) {
	for i := range orders {
		o, want := &orders[i], kinds[orders[i].kind].should()
		if o.accepted && o.refusal != nil {
			r.found(mismatchWrong, o.id(), "was accepted, and then its key was refused: %v", o.refusal)
		}
		switch got := o.became(); {
		case got == want:
		case got == "gone":
			r.found(mismatchLost, o.id(), "was accepted, and is not there any more: %v", o.gone)
		case !o.accepted:
			r.found(mismatchWrong, o.id(), "was %s: %v", say(got), cmp.Or(o.refusal, errTimeIsUp))
		case !o.ended():
			r.found(mismatchWrong, o.id(), "has not ended in time")
		default:
			r.found(mismatchWrong, o.id(), "is %s, and should be %s", say(got), say(want))
		}
	}
}

// checkKeys finds keys that name several orders, and orders with several keys.
func (r *Result) checkKeys(orders []order) {
	keyOf := map[string]string{}
	for i := range orders {
		o := &orders[i]
		if len(o.ids) > 1 {
			r.found(mismatchTwice, o.id(), "key %s named %s as well", o.key, strings.Join(o.ids[1:], ", "))
		}
		for _, id := range o.ids {
			if other, taken := keyOf[id]; taken {
				r.found(mismatchTwice, id, "was the answer to two keys, %s and %s", other, o.key)
			}
			keyOf[id] = o.key
		}
	}
}

// checkStock compares what was shipped with what the confirmed orders contain.
func (r *Result) checkStock(prefix string, kinds []kind, orders []order, stock []stocked) {
	sold := map[string]int64{}
	for i := range orders {
		if orders[i].last.Status == client.StatusConfirmed {
			sold[prefix+kinds[orders[i].kind].sku] += quantity
		}
	}
	for _, s := range stock {
		before, after := s.before, s.after
		shipped := after.Shipped - before.Shipped
		switch want := sold[before.SKU]; {
		case shipped > want:
			r.found(mismatchTwice, before.SKU, "%d units were shipped, and the confirmed orders are about %d", shipped, want)
		case shipped < want:
			r.found(mismatchLost, before.SKU, "%d units were shipped, and the confirmed orders are about %d", shipped, want)
		}
		if a, b := before.OnHand+before.Reserved+before.Shipped, after.OnHand+after.Reserved+after.Shipped; a != b {
			r.found(mismatchWrong, before.SKU, "there were %d units, and now there are %d", a, b)
		}
		if after.Reserved != before.Reserved {
			r.found(mismatchWrong, before.SKU, "%d units are reserved, for nobody", after.Reserved-before.Reserved)
		}
	}
}

// owed sums up what orders that need an operator leave undone.
func (r *Result) owed(kinds []kind, orders []order) {
	for i := range orders {
		o := &orders[i]
		what := kinds[o.kind].owes
		if o.last.Status != client.StatusNeedsOperator || what == "" {
			continue
		}
		at := slices.IndexFunc(r.Owed, func(w Owed) bool { return w.What == what && w.Currency == o.last.Currency })
		if at < 0 {
			r.Owed = append(r.Owed, Owed{What: what, Currency: o.last.Currency})
			at = len(r.Owed) - 1
		}
		r.Owed[at].Amount += o.last.Total
	}
}

// checkReport takes over what the database says, and compares the numbers with the clients' if they are about the
// same orders.
func (r *Result) checkReport(report *verify.Report, complete bool) {
	for _, c := range report.Checks {
		for _, v := range c.Violations {
			r.found(sortOf(v.Rule), v.ID, "%s: %s", v.Rule, v.Detail)
		}
		if more := c.Found - int64(len(c.Violations)); more > 0 {
			r.found(mismatchWrong, c.Name, "%d more violations", more)
		}
	}
	if !complete {
		return
	}
	compare := func(what string, ours int, theirs int64) {
		if int64(ours) != theirs {
			r.found(mismatchWrong, what, "the clients know of %d, the database of %d", ours, theirs)
		}
	}
	compare("accepted", r.Accepted, report.Counts.Accepted)
	compare("confirmed", r.Confirmed, report.Counts.Confirmed)
	compare("cancelled", r.Cancelled, report.Counts.Cancelled)
	compare("needs_operator", r.NeedsOperator, report.Counts.NeedsOperator)
	r.compareOwed(report.Counts.Owed)
}

func (r *Result) compareOwed(theirs []verify.Amount) {
	ours := map[string]int64{}
	for _, o := range r.Owed {
		ours[o.Currency] += o.Amount
	}
	for _, a := range theirs {
		ours[a.Currency] -= a.Amount
	}
	for in, difference := range ours {
		if difference != 0 {
			r.found(mismatchWrong, "owed", "the clients and the database differ by %s", client.Money(difference, in))
		}
	}
}

// sortOf is the sort of a violation of one of verify's rules.
func sortOf(rule string) string {
	switch {
	case rule == "journal_lost", rule == "record_without_order", rule == "order_without_saga":
		return mismatchLost
	case strings.HasSuffix(rule, "_twice"), strings.Contains(rule, "_two_"), rule == "journal_unknown":
		return mismatchTwice
	default:
		return mismatchWrong
	}
}

// namedInError is how many mismatches an error names; the result has all.
const namedInError = 20

// mismatch is the error of a result that is not all good, nil when it is.
func (r *Result) mismatch(hint string) error {
	if len(r.Mismatches) == 0 {
		return nil
	}
	var b strings.Builder
	for i, m := range r.Mismatches {
		if i == namedInError {
			fmt.Fprintf(&b, "\n  and %d more", len(r.Mismatches)-i)
			break
		}
		fmt.Fprintf(&b, "\n  %s: %s %s", m.Sort, m.ID, m.Detail)
	}
	return app.Errorf(app.ExitPartial, hint, "%s not as it should be:%s", plural(len(r.Mismatches), "thing is", "things are"), b.String())
}
