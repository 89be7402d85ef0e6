package brokertest

import (
	"context"
	"errors"
	"testing"

	"github.com/mainstay-io/mainstay/internal/broker"
)

func lifeCases() []testCase[broker.Broker] {
	return []testCase[broker.Broker]{
		{"IsReady", testReady},
		{"ClosingTheBrokerWakesNext", testBrokerCloseWakesNext},
		{"BrokerClosesTwice", testCloseTwice},
		{"ClosedBrokerSaysSo", testClosed},
		{"PublishEndsWithItsContext", testPublishContext},
	}
}

func testReady(t *testing.T, b broker.Broker, _ Options) {
	if err := b.Ready(t.Context()); err != nil {
		t.Fatalf("not ready: %v", err)
	}
}

func testBrokerCloseWakesNext(t *testing.T, b broker.Broker, _ Options) {
	wantNextClosed(t, subscribe(t, b, start(Log(0), 0)), b.Close)
}

func testCloseTwice(t *testing.T, b broker.Broker, _ Options) {
	sub := subscribe(t, b, start(Log(0), 0))
	for range 2 {
		if err := b.Close(); err != nil {
			t.Fatalf("closing the broker: %v", err)
		}
	}
	if err := sub.Close(); err != nil {
		t.Fatalf("closing a subscription after its broker: %v", err)
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
