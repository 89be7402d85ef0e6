package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mainstay-io/mainstay/internal/client"
	"github.com/mainstay-io/mainstay/internal/clock"
	"github.com/mainstay-io/mainstay/internal/problem"
	"github.com/mainstay-io/mainstay/internal/testkit/load"
	"github.com/mainstay-io/mainstay/internal/testkit/proc"
)

func TestServe_AnswersAKeyOnce(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	bin, dir := proc.Build(t, "./cmd/mainstay"), t.TempDir()
	s := startServer(t, bin, "--data", dir)
	body := encoded(t, load.OrderOf("tok_ok", "mug-red"))
	other := encoded(t, load.OrderOf("tok_ok", "mug-blue"))

	first := post(ctx, t, s.URL, body, "Idempotency-Key", "k-1")
	var placed client.Order
	if err := json.Unmarshal(first.body, &placed); err != nil || first.status != http.StatusAccepted ||
		first.header.Get("Location") != "/v1/orders/"+placed.ID || first.header.Get("Idempotent-Replayed") != "" {
		t.Fatalf("got %d %v %s, error %v", first.status, first.header, first.body, err)
	}
	replayed := func(headers ...string) {
		t.Helper()
		again := post(ctx, t, s.URL, body, headers...)
		if again.status != first.status || !bytes.Equal(again.body, first.body) || again.header.Get("Location") != first.header.Get("Location") ||
			again.header.Get("Content-Type") != first.header.Get("Content-Type") || again.header.Get("Idempotent-Replayed") != "true" {
			t.Errorf("got %d %v\n%s\nwant the first answer again\n%s", again.status, again.header, again.body, first.body)
		}
	}
	replayed("Idempotency-Key", "k-1")
	replayed("Idempotency-Key", `"k-1"`) // the same key as a string of structured fields
	wantProblem(t, post(ctx, t, s.URL, other, "Idempotency-Key", "k-1"), http.StatusUnprocessableEntity, problem.KeyReused)
	wantProblem(t, post(ctx, t, s.URL, body), http.StatusBadRequest, problem.KeyMissing)
	wantProblem(t, post(ctx, t, s.URL, body, "Idempotency-Key", "  "), http.StatusBadRequest, problem.KeyMissing)
	wantProblem(t, post(ctx, t, s.URL, body, "Idempotency-Key", strings.Repeat("k", 256)), http.StatusBadRequest, problem.KeyInvalid)
	wantProblem(t, post(ctx, t, s.URL, body, "Idempotency-Key", "a", "Idempotency-Key", "b"), http.StatusBadRequest, problem.KeyInvalid)

	s.wantEnd(ctx, t, placed.ID, "confirmed")
	replayed("Idempotency-Key", "k-1") // as it was then, not as the order is now
	s.Kill()
	s = startServer(t, bin, "--data", dir)
	replayed("Idempotency-Key", "k-1")
	wantProblem(t, post(ctx, t, s.URL, other, "Idempotency-Key", "k-1"), http.StatusUnprocessableEntity, problem.KeyReused)
	if out := verify(t, "--data", dir); !strings.Contains(out, "\n1 accepted: 1 confirmed") {
		t.Errorf("want one order:\n%s", out)
	}
}

// TestServe_TakesARaceForAKeyOnce sends the same from 64 clients at once: all get the one order.
func TestServe_TakesARaceForAKeyOnce(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	bin, dir := proc.Build(t, "./cmd/mainstay"), t.TempDir()
	s := startServer(t, bin, "--data", dir)
	body := encoded(t, load.OrderOf("tok_ok", "mug-red"))
	const rounds, clients = 5, 64
	for range rounds {
		key, gate := client.NewKey(), make(chan struct{})
		answers := make([]answer, clients)
		var all sync.WaitGroup
		for i := range clients {
			all.Go(func() {
				<-gate
				answers[i] = post(ctx, t, s.URL, body, "Idempotency-Key", key)
			})
		}
		close(gate)
		all.Wait()
		fresh := 0
		for _, a := range answers {
			if a.status != http.StatusAccepted || !bytes.Equal(a.body, answers[0].body) {
				t.Errorf("got %d %s; want 202 %s", a.status, a.body, answers[0].body)
			}
			if a.header.Get("Idempotent-Replayed") == "" {
				fresh++
			}
		}
		if fresh != 1 {
			t.Errorf("%d answers claim to be the first", fresh)
		}
		var o client.Order
		if err := json.Unmarshal(answers[0].body, &o); err != nil {
			t.Fatal(err)
		}
		s.wantEnd(ctx, t, o.ID, "confirmed")
	}
	if out := verify(t, "--data", dir); !strings.Contains(out, "\n5 accepted: 5 confirmed") {
		t.Errorf("want an order a round:\n%s", out)
	}
}

// TestServe_TellsEveryMistake posts bodies that are wrong: every mistake is named by its pointer, nothing is stored,
// and the key is still free.
func TestServe_TellsEveryMistake(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	bin, dir := proc.Build(t, "./cmd/mainstay"), t.TempDir()
	s := startServer(t, bin, "--data", dir)
	good := string(encoded(t, load.OrderOf("tok_ok", "mug-red")))
	for name, c := range map[string]struct {
		body     string
		code     problem.Code
		pointers []string
	}{
		"all at once": {
			`{"customer_id":"","currency":"eur","lines":[{"sku":"MUG","quantity":0,"unit_price":-1},{"sku":"mug-red","quantity":10001,"unit_price":1}],"payment":{},"shipping":{"name":"Ada","line1":"1 Main St","city":"","postal_code":"75001","country":"France"},"gift":true}`,
			problem.InvalidBody,
			[]string{
				"/gift", "/customer_id", "/currency", "/lines/0/sku", "/lines/0/quantity", "/lines/0/unit_price", "/lines/1/quantity",
				"/payment/token", "/shipping/city", "/shipping/country",
			},
		},
		"a wrong type":          {strings.Replace(good, `"quantity":2`, `"quantity":"2"`, 1), problem.InvalidBody, []string{"/lines/0/quantity"}},
		"a fraction of a cent":  {strings.Replace(good, `"unit_price":1250`, `"unit_price":12.5`, 1), problem.InvalidBody, []string{"/lines/0/unit_price"}},
		"another case":          {strings.Replace(good, `"currency"`, `"Currency"`, 1), problem.InvalidBody, []string{"/Currency", "/currency"}},
		"the same member twice": {strings.Replace(good, `{`, `{"customer_id":"c-2",`, 1), problem.MalformedJSON, nil},
		"trailing data":         {good + `{}`, problem.MalformedJSON, nil},
		"half a body":           {good[:len(good)/2], problem.MalformedJSON, nil},
		"nothing":               {"", problem.MalformedJSON, nil},
	} {
		a := post(ctx, t, s.URL, []byte(c.body), "Idempotency-Key", "k-1")
		p := wantProblem(t, a, http.StatusBadRequest, c.code)
		var pointers []string
		for _, m := range p.Errors {
			pointers = append(pointers, m.Pointer)
		}
		if diff := cmp.Diff(sorted(c.pointers), sorted(pointers)); c.pointers != nil && diff != "" {
			t.Errorf("%s: pointers (-want +got):\n%s%s", name, diff, a.body)
		}
	}
	wantProblem(t, post(ctx, t, s.URL, []byte(strings.Repeat(" ", 300<<10)+good), "Idempotency-Key", "k-1"), http.StatusRequestEntityTooLarge, problem.BodyTooLarge)
	if a := post(ctx, t, s.URL, []byte(good), "Idempotency-Key", "k-1"); a.status != http.StatusAccepted || a.header.Get("Idempotent-Replayed") != "" {
		t.Errorf("the key is not free: %d %s", a.status, a.body)
	}
	if out := verify(t, "--data", dir); !strings.Contains(out, "\n1 accepted") {
		t.Errorf("want one order:\n%s", out)
	}
}

// TestServe_ShedsWhatIsTooMuch sends far more at once than may be in flight: what is refused is refused quickly, with
// Retry-After, and probes are answered meanwhile. Clients that come back are all served.
func TestServe_ShedsWhatIsTooMuch(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	bin, dir := proc.Build(t, "./cmd/mainstay"), t.TempDir()
	s := startServer(t, bin, "--data", dir, "--in-flight", "2")
	j, body := load.NewJournal(t), encoded(t, load.OrderOf("tok_ok", "mug-red"))
	wantReady(ctx, t, s)
	slow := openSlowly(ctx, t, s.URL, body) // two requests that are in flight until they are let go
	probe(ctx, t, s.OpsURL+"/livez")
	probe(ctx, t, s.OpsURL+"/readyz")
	for range 50 {
		began := clock.Start()
		wantProblem(t, post(ctx, t, s.URL, body, "Idempotency-Key", client.NewKey()), http.StatusServiceUnavailable, problem.Overloaded)
		if took := began.Elapsed(); took > time.Second {
			t.Errorf("a refusal took %v", took)
		}
	}
	slow()
	stubborn, err := client.New(client.Config{URL: s.URL, Attempts: 1000, MaxBackoff: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer stubborn.Close()
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			key := client.NewKey()
			placed, err := stubborn.PlaceOrder(ctx, key, load.OrderOf("tok_ok", "mug-red"))
			if err != nil {
				t.Error(err)
				return
			}
			j.Add(t, key, placed.ID)
		})
	}
	all.Wait()
	for _, id := range j.Accepted() {
		s.wantEnd(ctx, t, id, "confirmed")
	}
	verify(t, "--data", dir, "--journal", j.Path())
}

// openSlowly begins two posts whose bodies do not end, and returns when the server has read their beginning. The
// function that it gives ends them, and wants them accepted.
func openSlowly(ctx context.Context, t testing.TB, url string, body []byte) (end func()) {
	t.Helper()
	const n = 2
	var all sync.WaitGroup
	var ends []*io.PipeWriter
	for range n {
		r, w := io.Pipe()
		ends = append(ends, w)
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/v1/orders", r)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Idempotency-Key", client.NewKey())
		req.Header.Set("Expect", "100-continue") // the server answers it when the handler reads
		going := make(chan struct{})
		trace := &httptrace.ClientTrace{Got100Continue: func() { close(going) }}
		transport := &http.Transport{ExpectContinueTimeout: time.Minute}
		all.Go(func() {
			defer transport.CloseIdleConnections()
			resp, err := transport.RoundTrip(req.WithContext(httptrace.WithClientTrace(ctx, trace)))
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close() // it is not read
			if resp.StatusCode != http.StatusAccepted {
				t.Errorf("a request that was in flight got %s", resp.Status)
			}
		})
		select {
		case <-going:
		case <-ctx.Done():
			t.Fatal(ctx.Err())
		}
	}
	return func() {
		for _, w := range ends {
			if _, err := w.Write(body); err != nil {
				t.Error(err)
			}
			_ = w.Close() // a pipe closes always
		}
		all.Wait()
	}
}

// probe wants 200, soon.
func probe(ctx context.Context, t testing.TB, url string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("%s: %s", url, resp.Status)
	}
}

func sorted(list []string) []string { return slices.Sorted(slices.Values(list)) }

// TestServe_AnswersAWaiter asks with ?wait: an order that ends is told at once, one that does not when the wait is over.
func TestServe_AnswersAWaiter(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	bin, dir := proc.Build(t, "./cmd/mainstay"), t.TempDir()
	s := startServer(t, bin, "--data", dir, "--call-timeout", "2s")
	quick, slow := s.place(ctx, t, load.OrderOf("tok_ok", "mug-red")), s.place(ctx, t, load.OrderOf("tok_timeout", "mug-red"))
	wait := func(id string, wait time.Duration, status string, least, most time.Duration) {
		t.Helper()
		began := clock.Start()
		o, err := s.Order(ctx, id, wait)
		if took := began.Elapsed(); err != nil || o.Status != status || took < least || took > most {
			t.Errorf("waiting for %v: %q after %v, error %v; want %q after %v to %v", wait, o.Status, took, err, status, least, most)
		}
	}
	wait(quick.ID, 30*time.Second, client.StatusConfirmed, 0, 10*time.Second)
	wait(slow.ID, 300*time.Millisecond, client.StatusPending, 300*time.Millisecond, 1500*time.Millisecond)
	wait(slow.ID, 0, client.StatusPending, 0, time.Second)
	wait(slow.ID, 30*time.Second, client.StatusConfirmed, 0, 15*time.Second)
	wait(slow.ID, 30*time.Second, client.StatusConfirmed, 0, time.Second) // it has ended already
	for _, wrong := range []string{"61s", "-1s", "soon", ""} {
		a := get(ctx, t, s.URL+"/v1/orders/"+quick.ID+"?wait="+wrong)
		wantProblem(t, a, http.StatusBadRequest, problem.BadRequest)
	}
	verify(t, "--data", dir)
}

func get(ctx context.Context, t testing.TB, url string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close() // it is only read
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Error(err)
	}
	return answer{resp.StatusCode, resp.Header, body}
}
