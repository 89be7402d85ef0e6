package order_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/clock"
	"github.com/mainstay-io/mainstay/internal/order"
	"github.com/mainstay-io/mainstay/internal/problem"
)

const good = `{"customer_id":"c-1","currency":"EUR","lines":[{"sku":"mug-red","quantity":2,"unit_price":1250}],` +
	`"payment":{"token":"tok_ok"},"shipping":{"name":"Ada","line1":"1 Main St","city":"Paris","postal_code":"75001","country":"FR"}}`

// with replaces text of the good body.
func with(pairs ...string) string { return strings.NewReplacer(pairs...).Replace(good) }

func TestDecode_Takes(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		body  string
		total int64
	}{
		"the example":     {good, 2500},
		"free line":       {with(`"unit_price":1250}`, `"unit_price":1250},{"sku":"gift","quantity":1,"unit_price":0}`), 2500},
		"the most":        {with(`"quantity":2,"unit_price":1250`, `"quantity":10000,"unit_price":1000000000`), 10_000_000_000_000},
		"other alphabets": {with("Ada", "Ада Лавлейс"), 2500},
		"longest sku":     {with("mug-red", strings.Repeat("a", 64)), 2500},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, total, p := order.Decode([]byte(c.body)); p != nil || total != c.total {
				t.Fatalf("got %d, %v %+v", total, p, p)
			}
		})
	}
}

func TestDecode_Refuses(t *testing.T) {
	t.Parallel()
	line := `{"sku":"a","quantity":1,"unit_price":1},`
	for name, c := range map[string]struct {
		body string
		at   []string
	}{
		"nothing": {`{}`, []string{
			"/customer_id", "/currency", "/lines", "/payment/token", "/shipping/name", "/shipping/line1",
			"/shipping/city", "/shipping/postal_code", "/shipping/country",
		}},
		"null members":         {with(`"c-1"`, "null", `"FR"`, "null"), []string{"/customer_id", "/shipping/country"}},
		"blank customer":       {with("c-1", "  "), []string{"/customer_id"}},
		"long customer":        {with("c-1", strings.Repeat("c", 129)), []string{"/customer_id"}},
		"control character":    {with("Ada", `A\u0000da`), []string{"/shipping/name"}},
		"currency in lower":    {with("EUR", "eur"), []string{"/currency"}},
		"currency of old":      {with("EUR", "DEM"), []string{"/currency"}},
		"currency in two":      {with("EUR", "D A"), []string{"/currency"}},
		"no lines":             {with(`[{"sku":"mug-red","quantity":2,"unit_price":1250}]`, `[]`), []string{"/lines"}},
		"too many lines":       {with(`"lines":[`, `"lines":[`+strings.Repeat(line, 100)), []string{"/lines"}},
		"sku in capitals":      {with("mug-red", "Mug"), []string{"/lines/0/sku"}},
		"sku begins with dot":  {with("mug-red", ".mug"), []string{"/lines/0/sku"}},
		"sku too long":         {with("mug-red", strings.Repeat("a", 65)), []string{"/lines/0/sku"}},
		"quantity of none":     {with(`"quantity":2`, `"quantity":0`), []string{"/lines/0/quantity"}},
		"quantity too large":   {with(`"quantity":2`, `"quantity":10001`), []string{"/lines/0/quantity"}},
		"price below zero":     {with("1250", "-1"), []string{"/lines/0/unit_price"}},
		"price too large":      {with("1250", "1000000001"), []string{"/lines/0/unit_price"}},
		"price as a fraction":  {with("1250", "12.50"), []string{"/lines/0/unit_price"}},
		"price left out":       {with(`,"unit_price":1250}`, `},{"sku":"mug-red","quantity":2,"unit_price":1}`), []string{"/lines/0/unit_price"}},
		"price is null":        {with("1250", "null"), []string{"/lines/0/unit_price"}},
		"nothing to pay":       {with("1250", "0"), []string{"/lines"}},
		"token with a space":   {with("tok_ok", "tok ok"), []string{"/payment/token"}},
		"country in lower":     {with("FR", "fr"), []string{"/shipping/country"}},
		"unknown and wrong":    {with(`"city"`, `"City":"x","city"`, `"quantity":2`, `"quantity":"2"`), []string{"/lines/0/quantity", "/shipping/City"}},
		"mistakes of all kind": {with(`"c-1"`, "7", "mug-red", "", "FR", "F"), []string{"/customer_id", "/lines/0/sku", "/shipping/country"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, _, p := order.Decode([]byte(c.body))
			if p == nil {
				t.Fatal("taken")
			}
			var at []string
			for _, m := range p.Errors {
				at = append(at, m.Pointer)
			}
			if diff := cmp.Diff(c.at, at); diff != "" || p.Status != http.StatusBadRequest {
				t.Fatalf("%d %s", p.Status, diff)
			}
		})
	}
}

func FuzzDecode(f *testing.F) {
	for _, seed := range []string{good, `{}`, `{"lines":[{"quantity":9223372036854775807}]}`, `[]`, `{"lines":null}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		d, total, p := order.Decode(body)
		if p != nil {
			if p.Status != http.StatusBadRequest || len(p.Errors) == 0 {
				t.Fatalf("refused with %+v", p)
			}
			return
		}
		if total <= 0 || len(d.Lines) == 0 {
			t.Fatalf("taken with a total of %d: %q", total, body)
		}
		again, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		d2, total2, p := order.Decode(again)
		if p != nil || total2 != total || !cmp.Equal(d, d2) {
			t.Fatalf("%q is read as %+v, then as %+v, %v", body, d, d2, p)
		}
	})
}

// fakes are what the routes stand on.
type fakes struct {
	mu       sync.Mutex
	err      error
	taken    []order.Submission
	orders   map[string]*order.View
	waitFor  func(ctx context.Context, id string) error
	replayed bool
}

func (f *fakes) Accept(_ context.Context, s order.Submission) (order.Receipt, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.taken = append(f.taken, s)
	return order.Receipt{Answer: s.Answer, Replayed: f.replayed}, f.err
}

func (f *fakes) Get(_ context.Context, id string) (order.View, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if o := f.orders[id]; o != nil {
		return *o, f.err
	}
	return order.View{}, errors.Join(order.ErrNotFound, f.err)
}

func (f *fakes) Wait(ctx context.Context, id string, already func() (bool, error)) error {
	if ended, err := already(); ended || err != nil {
		return err
	}
	return f.waitFor(ctx, id)
}

func (f *fakes) do(t *testing.T, method, target, body string, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	mux := http.NewServeMux()
	(&order.HTTP{Accepter: f, Reader: f, Waiter: f, Clock: clock.System, Log: slog.New(slog.DiscardHandler)}).Mount(mux)
	problem.MountFallback(mux)
	r := httptest.NewRequestWithContext(t.Context(), method, target, strings.NewReader(body))
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, r)
	return w
}

func TestPost_RefusesAQuery(t *testing.T) {
	t.Parallel()
	f := &fakes{}
	w := f.do(t, "POST", "/v1/orders?wait=30s", good, "Idempotency-Key", "k-1")
	if w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "GET it with ?wait=30s") || len(f.taken) > 0 {
		t.Fatalf("%d %s, handed in: %d", w.Code, w.Body, len(f.taken))
	}
}

func TestPost_AnswersWithTheOrder(t *testing.T) {
	t.Parallel()
	f := &fakes{}
	w := f.do(t, "POST", "/v1/orders", good, "Idempotency-Key", "k-1")
	var got order.View
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
		t.Fatalf("%d %s: %v", w.Code, w.Body, err)
	}
	if w.Code != 202 || w.Header().Get("Location") != "/v1/orders/"+got.ID || w.Header().Get("Idempotent-Replayed") != "" {
		t.Fatalf("%d %v", w.Code, w.Header())
	}
	if got.Status != "pending" || got.Total != 2500 || got.Currency != "EUR" || got.CreatedAt.IsZero() || got.Reason != nil {
		t.Fatalf("%+v", got)
	}
	for _, private := range []string{"tok_ok", "Ada", "Main St", "Paris", "75001"} {
		if strings.Contains(w.Body.String(), private) {
			t.Errorf("%q is told", private)
		}
	}
	s := f.taken[0]
	if s.Order.Payment.Token != "tok_ok" || s.Order.Shipping.Country != "FR" || s.Route != "POST /v1/orders" || string(s.Body) != good {
		t.Fatalf("handed in %+v", s)
	}
}

func TestPost_MarksAReplay(t *testing.T) {
	t.Parallel()
	f := &fakes{replayed: true}
	if w := f.do(t, "POST", "/v1/orders", good, "Idempotency-Key", "k"); w.Header().Get("Idempotent-Replayed") != "true" {
		t.Fatalf("%v", w.Header())
	}
}

func TestPost_Refuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		body   string
		header []string
		err    error
		code   problem.Code
	}{
		"no key":       {good, nil, nil, problem.KeyMissing},
		"blank key":    {good, []string{"Idempotency-Key", " "}, nil, problem.KeyMissing},
		"bad body":     {`{}`, []string{"Idempotency-Key", "k"}, nil, problem.InvalidBody},
		"not json":     {`x`, []string{"Idempotency-Key", "k"}, nil, problem.MalformedJSON},
		"a form":       {good, []string{"Idempotency-Key", "k", "Content-Type", "text/plain"}, nil, problem.UnsupportedMediaType},
		"too large":    {strings.Repeat(" ", 256<<10+1), []string{"Idempotency-Key", "k"}, nil, problem.BodyTooLarge},
		"reused key":   {good, []string{"Idempotency-Key", "k"}, problem.New(problem.KeyReused, ""), problem.KeyReused},
		"other errors": {good, []string{"Idempotency-Key", "k"}, errors.New("secret"), problem.Unavailable},
		"a bug":        {good, []string{"Idempotency-Key", "k"}, mainstay.Terminal(errors.New("secret")), problem.Internal},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := (&fakes{err: c.err}).do(t, "POST", "/v1/orders", c.body, c.header...)
			var p problem.Problem
			if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || p.Code != c.code || w.Code != c.code.Status() {
				t.Fatalf("%d %s: %v", w.Code, w.Body, err)
			}
			if strings.Contains(w.Body.String(), "secret") {
				t.Fatal("tells its insides")
			}
		})
	}
}

const id = "0190a6c0-0000-7000-8000-000000000001"

func TestGet(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		target string
		status int
		waits  time.Duration // the deadline that Wait gets, at most
	}{
		"as it is":      {"/v1/orders/" + id, 200, 0},
		"a duration":    {"/v1/orders/" + id + "?wait=30s", 200, 30 * time.Second},
		"seconds":       {"/v1/orders/" + id + "?wait=60", 200, time.Minute},
		"no time":       {"/v1/orders/" + id + "?wait=0", 200, 0},
		"too long":      {"/v1/orders/" + id + "?wait=61s", 400, 0},
		"below zero":    {"/v1/orders/" + id + "?wait=-1s", 400, 0},
		"nonsense":      {"/v1/orders/" + id + "?wait=soon", 400, 0},
		"empty":         {"/v1/orders/" + id + "?wait=", 400, 0},
		"twice":         {"/v1/orders/" + id + "?wait=1s&wait=2s", 400, 0},
		"unknown":       {"/v1/orders/0190a6c0-0000-7000-8000-000000000002", 404, 0},
		"no id":         {"/v1/orders/x", 404, 0},
		"other id form": {"/v1/orders/urn:uuid:" + id, 404, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := &fakes{orders: map[string]*order.View{id: {ID: id, Status: order.Pending}}}
			var waited time.Duration
			f.waitFor = func(ctx context.Context, _ string) error {
				end, _ := ctx.Deadline()
				waited = time.Until(end)
				f.mu.Lock()
				defer f.mu.Unlock()
				f.orders[id].Status, f.orders[id].Reason = order.Cancelled, &order.Reason{Code: "card_declined"}
				return nil
			}
			w := f.do(t, "GET", c.target, "")
			if w.Code != c.status || waited > c.waits || waited < c.waits-10*time.Second {
				t.Fatalf("%d after %v: %s", w.Code, waited, w.Body)
			}
			if c.waits > 0 && !strings.Contains(w.Body.String(), `"status":"cancelled"`) {
				t.Fatalf("%s", w.Body)
			}
		})
	}
}

func TestGet_AnswersWithWhatIsTrueAtTheDeadline(t *testing.T) {
	t.Parallel()
	f := &fakes{orders: map[string]*order.View{id: {ID: id, Status: order.Pending}}}
	f.waitFor = func(ctx context.Context, _ string) error { <-ctx.Done(); return context.Cause(ctx) }
	if w := f.do(t, "GET", "/v1/orders/"+id+"?wait=1ms", ""); w.Code != 200 || !strings.Contains(w.Body.String(), "pending") {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
}

func TestGet_TellsThatTooManyWait(t *testing.T) {
	t.Parallel()
	f := &fakes{orders: map[string]*order.View{id: {ID: id, Status: order.Pending}}}
	f.waitFor = func(context.Context, string) error { return fmt.Errorf("waiting: %w", order.ErrTooManyWaiters) }
	if w := f.do(t, "GET", "/v1/orders/"+id+"?wait=1s", ""); w.Code != 503 || w.Header().Get("Retry-After") != "1" {
		t.Fatalf("%d %v", w.Code, w.Header())
	}
}
