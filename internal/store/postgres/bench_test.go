package postgres

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/lane"
)

// BenchmarkRound_Idle is what a poll costs that finds nothing.
func BenchmarkRound_Idle(b *testing.B) {
	s := newStore(b)
	l := lead(b, s)
	send(b, s, message("orders", "k"))
	drain(b, s, l)
	for b.Loop() {
		if _, _, err := s.Round(b.Context(), l); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRound_One is what a round costs that finds one message; appending it is not timed.
func BenchmarkRound_One(b *testing.B) {
	s := newStore(b)
	l := lead(b, s)
	for b.Loop() {
		b.StopTimer()
		send(b, s, message("orders", "k"))
		b.StartTimer()
		if n, _, err := s.Round(b.Context(), l); err != nil || n != 1 {
			b.Fatal(n, err)
		}
	}
}

// BenchmarkRound_OneOfMillions is the same behind 2,000,000 numbered rows, with a writing transaction held open since
// before the first of those that are timed: it must cost the same.
func BenchmarkRound_OneOfMillions(b *testing.B) {
	const rows = 2_000_000
	url := newDatabase(b)
	s := openStore(b, url)
	fill := pool(b, url)
	const insert = `insert into outbox (id, topic, lane, key, type, headers, payload)
select gen_random_uuid(), 'topic-' || n % 5, n % $2::int, 'k' || n, 'test.happened', '{}', convert_to(repeat('x', 300), 'utf8')
from generate_series(1, $1::int) as n`
	if _, err := fill.Exec(b.Context(), insert, rows, testLanes); err != nil {
		b.Fatal(err)
	}
	l := lead(b, s)
	began := time.Now()
	if n := drain(b, s, l); n != rows {
		b.Fatalf("%d numbered, want %d", n, rows)
	}
	b.Logf("%.0f rows/s numbered", rows/time.Since(began).Seconds())
	held, err := fill.Begin(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	defer held.Rollback(context.WithoutCancel(b.Context())) // its row is nobody's
	if _, err := held.Exec(b.Context(), insert, 1, testLanes); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		b.StopTimer()
		send(b, s, message("orders", "k"))
		b.StartTimer()
		if n, _, err := s.Round(b.Context(), l); err != nil || n != 1 {
			b.Fatal(n, err)
		}
	}
}

// BenchmarkDrain numbers a backlog of 100,000 messages of 300 bytes, in 5 topics.
func BenchmarkDrain(b *testing.B) {
	const backlog = 100_000
	s := newStore(b)
	l := lead(b, s)
	for b.Loop() {
		b.StopTimer()
		for n := 0; n < backlog; n += 5000 {
			ms := make([]*mainstay.Message, 5000)
			for i := range ms {
				ms[i] = message(fmt.Sprint("topic-", i%5), uuid.NewString())
				ms[i].Payload = make([]byte, 300)
			}
			send(b, s, ms...)
		}
		b.StartTimer()
		began := time.Now()
		if n := drain(b, s, l); n != backlog {
			b.Fatalf("%d numbered, want %d", n, backlog)
		}
		b.ReportMetric(backlog/time.Since(began).Seconds(), "rows/s")
	}
}

// BenchmarkUnit is a lane's smallest unit of work: a place, one statement of the handler's, one message.
func BenchmarkUnit(b *testing.B) {
	s := newStore(b)
	if err := s.Register(b.Context(), lane.Registration{Consumer: "c", Topics: []string{"orders"}}); err != nil {
		b.Fatal(err)
	}
	ls, err := s.Acquire(b.Context(), "c", []int{0}, "one", time.Hour, false)
	if err != nil {
		b.Fatal(err)
	}
	at := lane.Place{TopicLane: mainstay.TopicLane{Topic: "orders"}, Incarnation: 1}
	for b.Loop() {
		to := at
		to.Sequence++
		err := s.Unit(b.Context(), lane.Unit{Consumer: "c", Leases: ls}, func(ctx context.Context, tx lane.Tx) error {
			if _, err := tx.Barriers(ctx, []string{"s/step"}); err != nil {
				return err
			}
			tx.Move(at, to)
			tx.Send(message("replies", "k"))
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
		at = to
	}
}
