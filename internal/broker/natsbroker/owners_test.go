package natsbroker_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/mainstay-io/mainstay/internal/broker"
	"github.com/mainstay-io/mainstay/internal/broker/natsbroker"
	"github.com/mainstay-io/mainstay/internal/broker/natsembed"
)

// TestOwners_OnTheWire: what anybody may send to the subject of questions, and what anybody may answer, harms nobody.
// The stream keeps none of it.
func TestOwners_OnTheWire(t *testing.T) {
	t.Parallel()
	srv := startServer(t, natsembed.Config{})
	js := jetStream(t, srv)
	nc := js.Conn()
	asker, owner := open(t, natsbroker.Config{InProcess: srv}), open(t, natsbroker.Config{InProcess: srv})
	ask := func(topic string) (broker.Answer, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		return asker.Ask(ctx, broker.Question{Topic: topic, Logs: []broker.Wanted{{Lane: 1, Again: true}}})
	}
	if _, err := ask("orders"); err == nil || !strings.Contains(err.Error(), "nobody answers") {
		t.Fatalf("without any relay: %v", err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	asked := make(chan string, 100)
	go func() {
		done <- owner.Answer(ctx, "a", func(_ context.Context, q broker.Question) (broker.Answer, bool) {
			asked <- q.Topic
			return broker.Answer{Origin: "a"}, q.Topic == "orders"
		})
	}()
	t.Cleanup(func() { cancel(); <-done })
	wantAnswer := func(what string) {
		t.Helper()
		if a, err := ask("orders"); err != nil || a.Origin != "a" {
			t.Fatalf("%s: answered %+v, %v", what, a, err)
		}
	}
	ready := time.NewTicker(5 * time.Millisecond)
	defer ready.Stop()
	for _, err := ask("orders"); err != nil; _, err = ask("orders") {
		<-ready.C
	}
	for name, data := range map[string]string{
		"no JSON": "\x00\xff{", "nothing": "", "another shape": `{"Topic":7}`, "numbers out of range": `{"Topic":"orders","Logs":[{"Lane":1e99}]}`,
	} {
		if err := nc.PublishRequest("mainstay.refill", nats.NewInbox(), []byte(data)); err != nil {
			t.Fatal(err)
		}
		wantAnswer(name)
	}
	if err := nc.Publish("mainstay.refill", []byte(`{"Topic":"orders"}`)); err != nil { // nobody waits for the answer
		t.Fatal(err)
	}
	wantAnswer("a question without a reply")
	if st, err := js.Stream(t.Context(), "MAINSTAY"); err != nil || st.CachedInfo().State.LastSeq > 0 {
		t.Fatalf("the stream has kept something, %v", err)
	}

	stranger, err := nc.Subscribe("mainstay.refill", func(m *nats.Msg) { _ = m.Respond([]byte("not an answer")) })
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	if a, err := ask("others"); err == nil {
		t.Fatalf("a stranger's words became %+v", a)
	}
	if err := stranger.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	wantAnswer("after the stranger has gone")
}
