package bench

import (
	"maps"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// The range of histograms in microseconds, and their precision in decimal digits.
const (
	shortest = 1
	longest  = int64(10 * time.Minute / time.Microsecond)
	digits   = 3
)

// recorder counts operations. It is used by many goroutines.
type recorder struct {
	load Load

	mu       sync.Mutex
	ended    *hdrhistogram.Histogram // from begin to end
	accepted *hdrhistogram.Histogram // from begin to acceptance, of operations that have more to them
	begun    int64
	good     int64
	inWindow int64 // good ends while it was measured
	retries  int64
	faults   map[string]int64
}

func newRecorder(l Load) *recorder {
	return &recorder{
		load: l, ended: newHistogram(), accepted: newHistogram(), faults: map[string]int64{},
	}
}

func newHistogram() *hdrhistogram.Histogram { return hdrhistogram.New(shortest, longest, digits) }

// note records a duration; one that is out of range counts as the end of the range.
func note(h *hdrhistogram.Histogram, d time.Duration) {
	_ = h.RecordValue(min(max(d.Microseconds(), shortest), longest)) // it is in range
}

func (r *recorder) begins() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.begun++
}

// accepts notes that the operation that was to begin at the first time was accepted at the second.
func (r *recorder) accepts(at, now time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if at >= r.load.Warmup {
		note(r.accepted, now-at)
	}
}

// ends notes an end, a good one where kind is "".
func (r *recorder) ends(at, now time.Duration, retries int, kind string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.retries += int64(retries)
	if kind != "" {
		r.faults[kind]++
		return
	}
	r.good++
	if now >= r.load.Warmup && (r.load.Count > 0 || now < r.load.Warmup+r.load.Duration) {
		r.inWindow++
	}
	if at >= r.load.Warmup {
		note(r.ended, now-at)
	}
}

// tally is how far a run is.
type tally struct {
	begun, good, inWindow, retries int64
	faults                         map[string]int64
}

func (r *recorder) tally() tally {
	r.mu.Lock()
	defer r.mu.Unlock()
	return tally{r.begun, r.good, r.inWindow, r.retries, maps.Clone(r.faults)}
}

func (t tally) failed() (n int64) {
	for _, count := range t.faults {
		n += count
	}
	return n
}

// Latency is a distribution, in milliseconds.
type Latency struct {
	Count int64   `json:"count"`
	P50   float64 `json:"p50_ms"`
	P90   float64 `json:"p90_ms"`
	P95   float64 `json:"p95_ms"`
	P99   float64 `json:"p99_ms"`
	P999  float64 `json:"p999_ms"`
	Max   float64 `json:"max_ms"`
}

// latencyOf summarises a histogram; nil when it is empty.
func latencyOf(h *hdrhistogram.Histogram) *Latency {
	if h.TotalCount() == 0 {
		return nil
	}
	at := func(q float64) float64 { return float64(h.ValueAtQuantile(q)) / 1000 }
	return &Latency{h.TotalCount(), at(50), at(90), at(95), at(99), at(99.9), float64(h.Max()) / 1000}
}

// Durations is a distribution under way. It is used by many goroutines.
type Durations struct {
	mu sync.Mutex
	h  *hdrhistogram.Histogram
}

// NewDurations makes an empty one.
func NewDurations() *Durations { return &Durations{h: newHistogram()} }

// Note records a duration.
func (d *Durations) Note(took time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	note(d.h, took)
}

// Latency is the distribution so far; nil when there is none.
func (d *Durations) Latency() *Latency {
	d.mu.Lock()
	defer d.mu.Unlock()
	return latencyOf(d.h)
}
