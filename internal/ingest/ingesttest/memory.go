// Package ingesttest has a Store in memory for tests of package ingest and of what is built on it.
package ingesttest

import (
	"context"
	"sync"

	"github.com/mainstay-io/mainstay/internal/clock"
	"github.com/mainstay-io/mainstay/internal/ingest"
)

// Memory is an ingest.Store without a database: transactions are one after the other, and the write function gets
// no transaction (nil). It is safe for concurrent use.
type Memory struct {
	mu      sync.Mutex
	records map[id]stored
	items   []any
}

type id struct{ principal, route, key string }

type stored struct {
	ingest.Record
	expired bool
}

// NewMemory makes an empty store.
func NewMemory() *Memory { return &Memory{records: map[id]stored{}} }

// Accept implements ingest.Store. A record with a retention not above zero is expired from the start; others stay.
func (m *Memory) Accept(ctx context.Context, group []*ingest.Request, write ingest.WriteFunc) ([]ingest.Result, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	results := make([]ingest.Result, len(group))
	var winners []*ingest.Request
	for i, r := range group {
		if have, ok := m.records[idOf(r)]; ok && !have.expired {
			results[i] = ingest.Result{Existing: have.Record}
			continue
		}
		results[i].Fresh = true
		winners = append(winners, r)
	}
	if len(winners) > 0 {
		if err := write(ctx, nil, winners); err != nil {
			return nil, err
		}
	}
	for _, r := range winners {
		record := ingest.Record{Fingerprint: r.Fingerprint, Answer: r.Answer, CreatedAt: clock.System()}
		m.records[idOf(r)] = stored{record, r.Retention <= 0}
		m.items = append(m.items, r.Item)
	}
	return results, nil
}

// Items are those of all requests that won, in the order of their commits.
func (m *Memory) Items() []any {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]any(nil), m.items...)
}

func idOf(r *ingest.Request) id { return id{r.Principal, r.Route, r.Key} }

// Request makes a request whose fingerprint stands for a body, with an answer that is its own.
func Request(key string, body byte, answer string) *ingest.Request {
	return &ingest.Request{
		Principal: "p", Route: "POST /things", Key: key, Fingerprint: [32]byte{body},
		Answer: ingest.Answer{
			Status: 202,
			Header: map[string]string{"Content-Type": "application/json", "Location": "/things/" + answer},
			Body:   []byte(answer),
		},
		Item: answer,
	}
}
