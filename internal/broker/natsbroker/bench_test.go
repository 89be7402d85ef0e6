package natsbroker_test

import (
	"fmt"
	"testing"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/broker/brokertest"
	"github.com/mainstay-io/mainstay/internal/broker/natsbroker"
	"github.com/mainstay-io/mainstay/internal/broker/natsembed"
)

// BenchmarkPublish is one round of n messages over four lanes, acknowledged.
func BenchmarkPublish(b *testing.B) {
	for _, sync := range []struct {
		name string
		mode natsbroker.Sync
	}{{"always", natsbroker.SyncAlways}, {"lazy", natsbroker.SyncLazy}} {
		for _, n := range []int{1, 10, 100, 1000} {
			b.Run(fmt.Sprintf("%s/%d", sync.name, n), func(b *testing.B) {
				srv := startServer(b, natsembed.Config{Lazy: sync.mode == natsbroker.SyncLazy})
				benchmarkRounds(b, open(b, natsbroker.Config{InProcess: srv, Sync: sync.mode}), n)
			})
		}
	}
}

func benchmarkRounds(b *testing.B, to *natsbroker.Broker, n int) {
	const lanes = 4
	expect := map[mainstay.TopicLane]int64{}
	seq := int64(0)
	for b.Loop() {
		ms := make([]*mainstay.Message, n)
		for i := range ms {
			seq++
			ms[i] = brokertest.Message(brokertest.Log(i%lanes), seq)
		}
		last, err := to.Publish(b.Context(), ms, expect)
		if err != nil {
			b.Fatal(err)
		}
		for log, position := range last {
			expect[log] = position
		}
	}
	b.ReportMetric(float64(b.N*n)/b.Elapsed().Seconds(), "msg/s")
}
