package relay_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/mainstay-io/mainstay/internal/broker/brokertest"
	"github.com/mainstay-io/mainstay/internal/broker/membroker"
	"github.com/mainstay-io/mainstay/internal/relay"
)

// BenchmarkRelay is what the relay itself costs per message, over a database and a broker in memory.
func BenchmarkRelay(b *testing.B) {
	for _, n := range []int{1, 100, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) { benchmarkRelay(b, n) })
	}
}

func benchmarkRelay(b *testing.B, n int) {
	db, rounds := newDatabase(), &counter{done: make(chan struct{}, 1)}
	r := relay.New(relay.Config{
		Store: db, Leases: db, Broker: membroker.New(membroker.Options{}), Holder: "a", Lanes: 4, Hooks: rounds,
	})
	ctx, cancel := context.WithCancel(b.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = r.Run(ctx) })
	for b.Loop() {
		rounds.expect(n)
		db.grow(brokertest.Log(0), n)
		<-rounds.done
	}
	b.ReportMetric(float64(b.N*n)/b.Elapsed().Seconds(), "msg/s")
	cancel()
	wg.Wait()
}
