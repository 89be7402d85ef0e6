package benchmark

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/mainstay-io/mainstay/internal/bench"
	"github.com/mainstay-io/mainstay/internal/clock"
)

// stallPatience is how long nothing may be done before a drain is given up.
const stallPatience = 30 * time.Second

// service is something that runs until its context ends.
type service func(ctx context.Context) error

// drain counts how messages that wait are worked off: the first warmup are not measured, total is all.
type drain struct {
	warmup, total int64
	took          *bench.Durations // of rounds or batches, that were measured

	n    atomic.Int64
	warm chan struct{} // closed when the warm-up is done
	done chan struct{} // closed when all are
	once [2]sync.Once
}

func newDrain(warmup, messages int) *drain {
	return &drain{
		warmup: int64(warmup), total: int64(warmup + messages), took: bench.NewDurations(),
		warm: make(chan struct{}), done: make(chan struct{}),
	}
}

// add counts messages that were done. It does not block.
func (d *drain) add(n int) {
	now := d.n.Add(int64(n))
	if now >= d.warmup {
		d.once[0].Do(func() { close(d.warm) })
	}
	if now >= d.total {
		d.once[1].Do(func() { close(d.done) })
	}
}

// note records how long a round or a batch took.
func (d *drain) note(took time.Duration) {
	if d.n.Load() >= d.warmup {
		d.took.Note(took)
	}
}

// measure runs the services until all is done, nothing moves any more, or ctx ends.
func (d *drain) measure(ctx context.Context, m *bench.Meter, show *bench.Progress, services ...service) (bench.Result, error) {
	own, stop := context.WithCancel(ctx)
	defer stop()
	var res bench.Result
	running, own := errgroup.WithContext(own)
	since := clock.Start()
	hide := show.Follow(func() string {
		n := d.n.Load()
		return fmt.Sprintf("%.1f s  %d of %d done  %.0f/s", since.Elapsed().Seconds(), n, d.total, float64(n)/since.Elapsed().Seconds())
	})
	for _, s := range services {
		running.Go(func() error { return s(own) })
	}
	if d.warmup == 0 || d.wait(own, d.warm) {
		before, first, window := m.Read(own), d.n.Load(), clock.Start()
		d.wait(own, d.done)
		res.Operations, res.Seconds = d.n.Load()-first, window.Elapsed().Seconds()
		res.Finish(m.Read(context.WithoutCancel(ctx)).Since(before))
	}
	hide()
	stop()
	err := running.Wait()
	res.Begun, res.Good, res.Latency, res.Interrupted = d.total, min(d.n.Load(), d.total), d.took.Latency(), ctx.Err() != nil
	res.Faults = map[string]int64{}
	if left := d.total - res.Good; left > 0 && !res.Interrupted {
		res.Faults["unfinished"] = left
	}
	return res, err
}

// wait waits for the channel; false when nothing moved for too long, or ctx ended.
func (d *drain) wait(ctx context.Context, reached <-chan struct{}) bool {
	tick := time.NewTicker(stallPatience)
	defer tick.Stop()
	for last := int64(-1); ; {
		select {
		case <-reached:
			return true
		case <-ctx.Done():
			return false
		case <-tick.C:
			now := d.n.Load()
			if now == last {
				return false
			}
			last = now
		}
	}
}

// drainConfig is what was drained, as settings.
func drainConfig(o Options) map[string]string {
	c := systemConfig(o.Config)
	c["messages"], c["warmup"] = strconv.Itoa(o.Messages), strconv.Itoa(o.Warmup)
	c["payload"], c["keys"] = strconv.Itoa(o.Payload)+" bytes", strconv.Itoa(o.Keys)
	delete(c, "worker_concurrency")
	return c
}
