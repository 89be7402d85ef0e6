package postgres

import "sync"

// wakes signals those who wait for something in this process; signals are coalesced.
type wakes struct {
	mu   sync.Mutex
	subs map[chan struct{}]struct{}
}

func (w *wakes) wake() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.subs {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

func (w *wakes) subscribe() (<-chan struct{}, func()) {
	c := make(chan struct{}, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.subs == nil {
		w.subs = map[chan struct{}]struct{}{}
	}
	w.subs[c] = struct{}{}
	return c, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.subs, c)
	}
}

// Wake gives a channel that has a value after this process's sequencer has made the log grow.
func (s *Store) Wake() (<-chan struct{}, func()) { return s.grown.subscribe() }

// Appended gives a channel that has a value after this process has appended to the outbox.
func (s *Store) Appended() (<-chan struct{}, func()) { return s.appended.subscribe() }
