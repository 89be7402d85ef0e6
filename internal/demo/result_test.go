package demo

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/client"
	"github.com/mainstay-io/mainstay/internal/verify"
)

// world is a demo that has gone well: every order has ended as its kind has to.
type world struct {
	board  *board
	stock  []stocked
	report *verify.Report
}

func perfect() *world {
	w := &world{board: newBoard(plan(allKinds(), skuPrefix(false), spread))}
	counts := verify.Counts{Owed: []verify.Amount{{Currency: "EUR", Amount: 4990}}}
	sold := map[string]int64{}
	for i, o := range w.board.orders {
		k := w.board.kinds[o.kind]
		w.board.orders[i].key = fmt.Sprintf("k-%d", i)
		got := client.Order{ID: fmt.Sprintf("o-%d", i), Status: k.status, Total: 2 * k.price, Currency: "EUR"}
		if k.reason != "" {
			got.Reason = &client.Reason{Code: k.reason}
		}
		w.board.sent(i)
		pending := got
		pending.Status, pending.Reason = client.StatusPending, nil
		w.board.placed(i, client.Placed{Order: pending, Attempts: 1 + i%7/6, Replayed: i%14 == 6}, nil)
		w.board.seen(i, got, nil)
		w.board.placed(i, client.Placed{Order: pending, Attempts: 1, Replayed: true}, nil)
		counts.Accepted++
		switch k.status {
		case client.StatusConfirmed:
			counts.Confirmed++
			sold["demo-"+k.sku] += 2
		case client.StatusCancelled:
			counts.Cancelled++
		default:
			counts.NeedsOperator++
		}
	}
	for _, l := range levels() {
		n := sold["demo-"+l.sku]
		before := client.Stock{SKU: "demo-" + l.sku, OnHand: l.onHand, Shipped: 7}
		after := client.Stock{SKU: before.SKU, OnHand: l.onHand - n, Shipped: 7 + n}
		w.stock = append(w.stock, stocked{before, after})
	}
	w.report = &verify.Report{Counts: counts, Open: []verify.Open{}, Checks: []verify.Check{
		{Name: "acceptance", Count: 212, Summary: "212 orders, each with its saga"},
		{Name: "gateway", Summary: "not checked: it is not there", Skipped: "it is not there"},
	}}
	return w
}

func (w *world) judge() *Result { return judge(w.board, w.stock, w.report, true) }

// find gives the first order of a kind.
func (w *world) find(kind string) *order {
	for i := range w.board.orders {
		if o := &w.board.orders[i]; w.board.kinds[o.kind].name == kind {
			return o
		}
	}
	panic("there is no kind " + kind)
}

func TestJudge_AllWell(t *testing.T) {
	t.Parallel()
	r := perfect().judge()
	r.Kill, r.Seconds = &Kill{PID: 4711, InFlight: 35, DownSeconds: 0.314}, 12.34
	if err := r.mismatch(""); err != nil {
		t.Error(err)
	}
	want := "212 accepted, 212 ended: 187 confirmed, 24 cancelled, 1 needs you; 0 lost, 0 twice; owed: void 49.90 EUR"
	if got := r.closing(); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	for name, inJSON := range map[string]bool{"result.txt": false, "result.json": true} {
		var b strings.Builder
		if err := r.print(&b, inJSON, paint{}); err != nil {
			t.Fatal(err)
		}
		golden(t, name, b.String())
	}
}

func TestJudge_NamesWhatIsWrong(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		spoil   func(w *world) (id string)
		closing string
	}{
		"an order that is not there any more": {func(w *world) string {
			o := w.find("mug")
			o.gone = errors.New("404")
			return o.id()
		}, "1 lost, 0 twice;"},
		"a key that names two orders": {func(w *world) string {
			o := w.find("mug")
			o.ids = append(o.ids, "o-other")
			return o.id()
		}, "0 lost, 1 twice;"},
		"an order with two keys": {func(w *world) string {
			a, b := w.find("mug"), w.find("shirt")
			a.ids = b.ids
			return b.id()
		}, "0 lost, 1 twice;"},
		"an order that does not end": {func(w *world) string {
			o := w.find("sold out")
			o.last.Status = client.StatusPending
			return o.id()
		}, "212 accepted, 211 ended: 187 confirmed, 23 cancelled, 1 needs you; 0 lost, 0 twice, 2 wrong;"},
		"an order without an answer": {func(w *world) string {
			o := w.find("sold out")
			o.accepted, o.ids = false, nil
			return o.key
		}, "211 accepted, 211 ended: 187 confirmed, 23 cancelled, 1 needs you; 0 lost, 0 twice, 3 wrong;"},
		"an order with another end": {func(w *world) string {
			o := w.find("card declined")
			o.last.Reason.Code = "out_of_stock"
			return o.id()
		}, "0 lost, 0 twice, 1 wrong;"},
		"a key that is refused later on": {func(w *world) string {
			o := w.find("mug")
			o.refusal = errors.New("422")
			return o.id()
		}, "0 lost, 0 twice, 1 wrong;"},
		"too many units shipped": {func(w *world) string {
			w.stock[0].after.Shipped += 2
			w.stock[0].after.OnHand -= 2
			return "demo-mug"
		}, "0 lost, 1 twice;"},
		"too few units shipped": {func(w *world) string {
			w.stock[1].after.Shipped -= 2
			w.stock[1].after.Reserved += 2
			return "demo-shirt"
		}, "1 lost, 0 twice, 1 wrong;"},
		"units that vanished": {func(w *world) string {
			w.stock[1].after.OnHand--
			return "demo-shirt"
		}, "0 lost, 0 twice, 1 wrong;"},
		"an accepted order that the database lost": {func(w *world) string {
			w.violate("journal_lost", "o-5")
			return "o-5"
		}, "1 lost, 0 twice;"},
		"an order that nobody sent": {func(w *world) string {
			w.violate("journal_unknown", "o-new")
			return "o-new"
		}, "0 lost, 1 twice;"},
		"a message that counted twice": {func(w *world) string {
			w.violate("message_twice", "m-1")
			return "m-1"
		}, "0 lost, 1 twice;"},
		"another violation": {func(w *world) string {
			w.violate("hanging", "o-7")
			return "o-7"
		}, "0 lost, 0 twice, 1 wrong;"},
		"more violations than named": {func(w *world) string {
			w.report.Checks[0].Found = 5
			return "acceptance"
		}, "0 lost, 0 twice, 1 wrong;"},
		"an order that only the database knows": {func(w *world) string {
			w.report.Counts.Accepted++
			return "accepted"
		}, "0 lost, 0 twice, 1 wrong;"},
		"money that is owed to nobody": {func(w *world) string {
			w.report.Counts.Owed = nil
			return "owed"
		}, "0 lost, 0 twice, 1 wrong;"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := perfect()
			id := tt.spoil(w)
			r := w.judge()
			if got := r.closing(); !strings.Contains(got, tt.closing) {
				t.Errorf("the closing line is %q, want %q in it", got, tt.closing)
			}
			err := r.mismatch("keep it")
			if err == nil || app.ExitCode(context.Background(), err) != app.ExitPartial || !strings.Contains(err.Error(), id) || app.HintOf(err) != "keep it" {
				t.Errorf("the error is %v; want code %d and %s named", err, app.ExitPartial, id)
			}
		})
	}
}

func (w *world) violate(rule, id string) {
	c := &w.report.Checks[0]
	c.Found++
	c.Violations = append(c.Violations, verify.Violation{Rule: rule, ID: id, Detail: "is bad"})
}

func TestJudge_OfSomebodysServer(t *testing.T) {
	t.Parallel()
	w := perfect()
	w.report.Counts.Accepted += 1000
	if r := judge(w.board, w.stock, w.report, false); len(r.Mismatches) > 0 {
		t.Errorf("orders of others are none of its business: %+v", r.Mismatches)
	}
	var b strings.Builder
	r := judge(w.board, w.stock, nil, false)
	if err := r.print(&b, false, paint{}); err != nil || !strings.Contains(b.String(), "The database was not verified") {
		t.Errorf("%v, and it does not say that nothing was verified:\n%s", err, b.String())
	}
}

func TestPlan(t *testing.T) {
	t.Parallel()
	all, kinds, _ := plan(allKinds(), "demo-", spread)
	if len(all) != 212 || kinds[all[0].kind].owes == "" {
		t.Errorf("%d orders, the first %+v: what takes longest comes first", len(all), all[0])
	}
	keys := map[string]bool{}
	widest := 0
	for i, p := range all {
		keys[p.key] = true
		if p.at < 0 || p.at > spread || i > 0 && p.at < all[i-1].at {
			t.Fatalf("order %d is due at %v", i, p.at)
		}
		n := 0
		for _, q := range all {
			if q.at >= p.at && q.at < p.at+spread/40 {
				n++
			}
		}
		widest = max(widest, n)
	}
	if len(keys) != len(all) || widest < 60 || widest > 70 {
		t.Errorf("%d keys for %d orders, at most %d in a fortieth of the time", len(keys), len(all), widest)
	}
	if left := kindsForOthers(kinds); len(left) != len(kinds)-1 {
		t.Errorf("a running server gets %d of %d kinds", len(left), len(kinds))
	}
}

func TestBoard_ShowsThePeakOnce(t *testing.T) {
	t.Parallel()
	w := perfect() // more than enough orders: the channel was closed once, or this had panicked
	select {
	case <-w.board.peak:
	default:
		t.Error("the peak was not seen")
	}
	if got := w.board.latest(); len(got) != newsKept || !strings.Contains(got[newsKept-1], say(w.board.orders[211].last.Status)) {
		t.Errorf("the news are %q", got)
	}
}

func TestWithoutSettings(t *testing.T) {
	t.Parallel()
	got := withoutSettings([]string{"PATH=/bin", "MAINSTAY_DATABASE=postgres://prod/x", "HOME=/"})
	if strings.Join(got, " ") != "PATH=/bin HOME=/" {
		t.Errorf("got %q", got)
	}
}

func TestBoard_SeesAPeakThatSeveralReachTogether(t *testing.T) {
	t.Parallel()
	b := newBoard(plan(allKinds(), "demo-", spread))
	for i := range b.enough { // answered, and not counted yet
		b.orders[i].accepted = true
	}
	b.placed(b.enough, client.Placed{Order: client.Order{ID: "o"}}, nil)
	select {
	case <-b.peak:
	default:
		t.Error("the peak was not seen")
	}
}
