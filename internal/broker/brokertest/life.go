package brokertest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/mainstay-io/mainstay/internal/broker"
)

func lifeCases() []testCase {
	return []testCase{
		{"IsReady", testReady},
		{"NextEndsWithItsContext", testNextContext},
		{"CloseWakesNext", testCloseWakesNext},
		{"ClosingTheBrokerWakesNext", testBrokerCloseWakesNext},
		{"CloseMayBeCalledTwice", testCloseTwice},
		{"ClosedBrokerSaysSo", testClosed},
		{"PublishEndsWithItsContext", testPublishContext},
	}
}

func testReady(t *testing.T, b broker.Broker, _ Options) {
	if err := b.Ready(t.Context()); err != nil {
		t.Fatalf("not ready: %v", err)
	}
}

func testNextContext(t *testing.T, b broker.Broker, _ Options) {
	sub := subscribe(t, b, start(Log(0), 0))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := sub.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("error is %v, want the context's", err)
	}
	publish(t, b, nil, Message(Log(0), 1))
	if got := Collect(t, sub, 1); got[0].Sequence != 1 {
		t.Fatalf("after a context's end, got %v", Sequences(got))
	}
}

func testCloseWakesNext(t *testing.T, b broker.Broker, _ Options) {
	sub := subscribe(t, b, start(Log(0), 0))
	wantNextClosed(t, sub, sub.Close)
}

func testBrokerCloseWakesNext(t *testing.T, b broker.Broker, _ Options) {
	wantNextClosed(t, subscribe(t, b, start(Log(0), 0)), b.Close)
}

func wantNextClosed(t *testing.T, sub broker.Subscription, closeIt func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	answer := make(chan error, 1)
	entered := make(chan struct{})
	go func() {
		close(entered)
		_, err := sub.Next(ctx)
		answer <- err
	}()
	<-entered
	if err := closeIt(); err != nil {
		t.Fatalf("closing: %v", err)
	}
	if err := <-answer; !errors.Is(err, broker.ErrClosed) {
		t.Fatalf("Next answered %v, want ErrClosed", err)
	}
}

func testCloseTwice(t *testing.T, b broker.Broker, _ Options) {
	sub := subscribe(t, b, start(Log(0), 0))
	for range 2 {
		if err := sub.Close(); err != nil {
			t.Fatalf("closing the subscription: %v", err)
		}
	}
	for range 2 {
		if err := b.Close(); err != nil {
			t.Fatalf("closing the broker: %v", err)
		}
	}
}

func testClosed(t *testing.T, b broker.Broker, _ Options) {
	if err := b.Close(); err != nil {
		t.Fatalf("closing: %v", err)
	}
	if _, err := b.Publish(t.Context(), Messages(Log(0), 1, 1), nil); !errors.Is(err, broker.ErrClosed) {
		t.Errorf("Publish answers %v", err)
	}
	if _, err := b.Tail(t.Context(), Log(0)); !errors.Is(err, broker.ErrClosed) {
		t.Errorf("Tail answers %v", err)
	}
	if _, err := b.Subscribe(t.Context(), []broker.Start{start(Log(0), 0)}); !errors.Is(err, broker.ErrClosed) {
		t.Errorf("Subscribe answers %v", err)
	}
	if err := b.Ready(t.Context()); err == nil {
		t.Error("a closed broker is ready")
	}
}

func testPublishContext(t *testing.T, b broker.Broker, _ Options) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.Publish(ctx, Messages(Log(0), 1, 3), nil); err == nil {
		t.Fatal("publishing under an ended context succeeded")
	}
	last := tail(t, b, Log(0))
	publish(t, b, nil, Messages(Log(0), last.Sequence+1, 5)...)
	if got := tail(t, b, Log(0)); got.Sequence != 5 {
		t.Fatalf("tail is %d, want 5", got.Sequence)
	}
}
