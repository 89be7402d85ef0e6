package logbroker_test

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/mainstay-io/mainstay"
)

var errLog = errors.New("the log cannot be read")

// fakeLog is a log in memory. The zero value is empty.
type fakeLog struct {
	mu    sync.Mutex
	logs  map[mainstay.TopicLane][]*mainstay.Message
	err   error
	deaf  bool // nobody is woken
	reads int
	asked map[mainstay.TopicLane]int // how often each log was read
	wakes map[chan struct{}]bool
}

// ReadLog gives what is behind the places, a share for every log.
func (l *fakeLog) ReadLog(_ context.Context, after map[mainstay.TopicLane]int64, limit int) ([]*mainstay.Message, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reads++
	var ms []*mainstay.Message
	for log, sequence := range after {
		if l.asked == nil {
			l.asked = map[mainstay.TopicLane]int{}
		}
		l.asked[log]++
		rest := l.logs[log][min(sequence, int64(len(l.logs[log]))):]
		ms = append(ms, rest[:min(limit/len(after), len(rest))]...)
	}
	return ms, l.err
}

// fail makes every read fail from now on.
func (l *fakeLog) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = err
}

// Heads gives the ends of the logs that have messages.
func (l *fakeLog) Heads(context.Context) (map[mainstay.TopicLane]int64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	heads := map[mainstay.TopicLane]int64{}
	for log, ms := range l.logs {
		heads[log] = int64(len(ms))
	}
	return heads, l.err
}

// Wake gives a channel that has a value after the log grew.
func (l *fakeLog) Wake() (<-chan struct{}, func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := make(chan struct{}, 1)
	if l.wakes == nil {
		l.wakes = map[chan struct{}]bool{}
	}
	l.wakes[c] = true
	return c, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.wakes, c)
	}
}

// append numbers msgs as a store does, and keeps them.
func (l *fakeLog) append(_ context.Context, msgs []*mainstay.Message) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.logs == nil {
		l.logs = map[mainstay.TopicLane][]*mainstay.Message{}
	}
	for _, m := range msgs {
		log := m.TopicLane()
		m.Incarnation, m.Sequence, m.CreatedAt = 1, int64(len(l.logs[log])+1), time.Unix(1, 0)
		l.logs[log] = append(l.logs[log], m)
	}
	for c := range l.wakes {
		if !l.deaf {
			select {
			case c <- struct{}{}:
			default:
			}
		}
	}
	return nil
}

// readers is how many would be woken.
func (l *fakeLog) readers() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.wakes)
}
