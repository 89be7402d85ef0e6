package logbroker

import "runtime"

// WaitAsked blocks until all but the read that is under way are waiting.
func WaitAsked(b *Broker, n int) {
	for {
		b.reads.mu.Lock()
		waiting := len(b.reads.waiting)
		b.reads.mu.Unlock()
		if waiting >= n-shared {
			return
		}
		runtime.Gosched()
	}
}
