package logbroker

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/mainstay-io/mainstay"
)

const (
	// readTimeout bounds one read of the log.
	readTimeout = 10 * time.Second
	// shared is how many subscriptions' batches one read may bring at most.
	shared = 8
)

// reads brings the subscriptions' reads together: they are all woken at once when the log grows, and what is asked
// while a read is under way goes into the next one, in one query.
type reads struct {
	log Log

	mu      sync.Mutex
	waiting []*read
	running bool
}

// read is what one subscription asks for; ms and err are its answer once done is closed.
type read struct {
	after map[mainstay.TopicLane]int64
	done  chan struct{}
	ms    []*mainstay.Message
	err   error
}

// read blocks until the log has answered, or ctx ends.
func (rs *reads) read(ctx context.Context, after map[mainstay.TopicLane]int64) ([]*mainstay.Message, error) {
	r := &read{after: maps.Clone(after), done: make(chan struct{})}
	rs.mu.Lock()
	rs.waiting = append(rs.waiting, r)
	if !rs.running {
		rs.running = true
		go rs.run()
	}
	rs.mu.Unlock()
	select {
	case <-r.done:
		return r.ms, r.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// run answers until nobody asks.
func (rs *reads) run() {
	for {
		rs.mu.Lock()
		asked := rs.take()
		rs.running = len(asked) > 0
		rs.mu.Unlock()
		if len(asked) == 0 {
			return
		}
		rs.answer(asked)
	}
}

// take takes those who ask, but no log twice.
func (rs *reads) take() []*read {
	var taken, rest []*read
	logs := map[mainstay.TopicLane]bool{}
	for _, r := range rs.waiting {
		if len(taken) == shared || overlaps(logs, r.after) {
			rest = append(rest, r)
			continue
		}
		for log := range r.after {
			logs[log] = true
		}
		taken = append(taken, r)
	}
	rs.waiting = rest
	return taken
}

func overlaps(logs map[mainstay.TopicLane]bool, after map[mainstay.TopicLane]int64) bool {
	for log := range after {
		if logs[log] {
			return true
		}
	}
	return false
}

// readGrown reads those of the logs that end behind what is asked for. All readers are woken when any log grows, and to
// learn the ends of all is one small read, where looking for the next message takes one for each log.
func (rs *reads) readGrown(ctx context.Context, after map[mainstay.TopicLane]int64, limit int) ([]*mainstay.Message, error) {
	heads, err := rs.log.Heads(ctx)
	if err != nil {
		return nil, err
	}
	maps.DeleteFunc(after, func(log mainstay.TopicLane, sequence int64) bool { return heads[log] <= sequence })
	if len(after) == 0 {
		return nil, nil
	}
	return rs.log.ReadLog(ctx, after, limit)
}

func (rs *reads) answer(asked []*read) {
	after := map[mainstay.TopicLane]int64{}
	of := map[mainstay.TopicLane]*read{}
	for _, r := range asked {
		maps.Copy(after, r.after)
		for log := range r.after {
			of[log] = r
		}
	}
	ctx, cancel := context.WithTimeoutCause(context.Background(), readTimeout, fmt.Errorf("reading the log takes longer than %v", readTimeout))
	defer cancel()
	ms, err := rs.readGrown(ctx, after, Batch*len(asked))
	for m := range slices.Values(ms) {
		if r := of[m.TopicLane()]; r != nil {
			r.ms = append(r.ms, m)
		}
	}
	for _, r := range asked {
		r.err = err
		close(r.done)
	}
}
