package natsbroker_test

import (
	"fmt"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/broker"
	"github.com/mainstay-io/mainstay/internal/broker/natsbroker"
	"github.com/mainstay-io/mainstay/internal/broker/natsembed"
)

// BenchmarkThrough takes messages like those of an order's saga through the broker: rounds of n over all logs of eight
// topics, read by one subscription for each lane, as workers do. The processor time is the server's, too.
func BenchmarkThrough(b *testing.B) {
	for _, lanes := range []int{4, 16} {
		for _, n := range []int{10, 100, 1000} {
			b.Run(fmt.Sprintf("lanes-%d/round-%d", lanes, n), func(b *testing.B) { benchmarkThrough(b, lanes, n) })
		}
	}
}

func benchmarkThrough(b *testing.B, lanes, n int) {
	srv := startServer(b, natsembed.Config{Lazy: true})
	br := open(b, natsbroker.Config{InProcess: srv, Sync: natsbroker.SyncLazy, Origin: uuid.NewString()})
	logs := throughLogs(lanes)
	var readers sync.WaitGroup
	for lane := range lanes {
		var from []broker.Start
		want := 0
		for i, log := range logs {
			if log.Lane == lane {
				from = append(from, broker.Start{TopicLane: log, Incarnation: 1})
				want += (b.N + len(logs) - 1 - i) / len(logs)
			}
		}
		sub, err := br.Subscribe(b.Context(), from)
		if err != nil {
			b.Fatal(err)
		}
		readers.Go(func() {
			for got := 0; got < want; {
				ms, err := sub.Next(b.Context())
				if err != nil {
					b.Error(err)
					return
				}
				got += len(ms)
			}
			_ = sub.Close()
		})
	}
	b.ResetTimer()
	used := processorTime(b)
	throughRounds(b, br, logs, n)
	readers.Wait()
	b.ReportMetric(float64(processorTime(b)-used)/float64(b.N)/1e3, "cpu-µs/op")
	b.StopTimer()
}

func throughLogs(lanes int) []mainstay.TopicLane {
	var logs []mainstay.TopicLane
	for _, topic := range []string{"orders", "order-replies", "inventory-commands", "inventory-events", "payment-commands", "payment-events", "logistics-commands", "logistics-events"} {
		for lane := range lanes {
			logs = append(logs, mainstay.TopicLane{Topic: topic, Lane: lane})
		}
	}
	return logs
}

func throughRounds(b *testing.B, br *natsbroker.Broker, logs []mainstay.TopicLane, n int) {
	b.Helper()
	expect := map[mainstay.TopicLane]int64{}
	for sent := 0; sent < b.N; {
		ms := make([]*mainstay.Message, min(n, b.N-sent))
		for i := range ms {
			ms[i] = throughMessage(logs[sent%len(logs)], int64(sent/len(logs))+1)
			sent++
		}
		last, err := br.Publish(b.Context(), ms, expect)
		if err != nil {
			b.Fatal(err)
		}
		for log, position := range last {
			expect[log] = position
		}
	}
}

func throughMessage(log mainstay.TopicLane, seq int64) *mainstay.Message {
	order := "0190f5fe-7a3b-7c44-8e1a-" + fmt.Sprintf("%012d", seq)
	return &mainstay.Message{
		ID: "0190f5fe-7a3b-7c44-8e1a-2b7c" + strconv.Itoa(log.Lane) + "-" + strconv.FormatInt(seq, 10), Topic: log.Topic, Key: order, Type: "payment.authorise",
		Source: "/mainstay/orders", AggregateType: "order", AggregateID: order, CorrelationID: order, CausationID: order,
		Headers: map[string]string{"sagaid": order, "sagastep": "authorise", "sagaop": "do", "replyto": "order-replies"},
		Payload: make([]byte, 200), CreatedAt: time.Date(2026, 1, 2, 3, 4, 5, 678900000, time.UTC), Lane: log.Lane, Incarnation: 1, Sequence: seq,
	}
}

func processorTime(b *testing.B) int64 {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}
