package obs

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/mainstay-io/mainstay/saga"
)

// Register adds what every process tells of itself to the registry: its build, the Go runtime, the operating system's
// view. It panics when something is registered twice.
func Register(reg prometheus.Registerer, version, revision, goVersion string) {
	f := promauto.With(reg)
	f.NewGaugeVec(prometheus.GaugeOpts{Name: "mainstay_build_info", Help: "The build; always 1."},
		[]string{"version", "revision", "go"}).WithLabelValues(version, revision, goVersion).Set(1)
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
}

// RegisterReady registers the metric of readiness, which ready tells without asking anybody.
func RegisterReady(reg prometheus.Registerer, ready func() bool) {
	promauto.With(reg).NewGaugeFunc(gauge("mainstay_ready", "1 while the process is ready, as /readyz says; it looks every second, and logs what is missing."), func() float64 {
		if ready() {
			return 1
		}
		return 0
	})
}

// Handler serves what the registry gathers, on /metrics by convention.
func Handler(reg *prometheus.Registry) http.Handler {
	return promhttp.HandlerFor(reg, promhttp.HandlerOpts{
		Registry: reg, MaxRequestsInFlight: 4, Timeout: 10 * time.Second, EnableOpenMetrics: true,
	})
}

// seconds are the buckets of durations of database and broker work: 0.5 ms to 16 s.
func seconds() []float64 { return prometheus.ExponentialBuckets(0.0005, 2, 16) }

// sizes are the buckets of groups and batches: 1 to 4096.
func sizes() []float64 { return prometheus.ExponentialBuckets(1, 2, 13) }

func counter(name, help string) prometheus.CounterOpts {
	return prometheus.CounterOpts{Name: name, Help: help}
}

func gauge(name, help string) prometheus.GaugeOpts {
	return prometheus.GaugeOpts{Name: name, Help: help}
}

func histogram(name, help string, buckets []float64) prometheus.HistogramOpts {
	return prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}
}

// Ingest observes acceptance.
type Ingest struct {
	accepted, replayed prometheus.Counter
	refused            *prometheus.CounterVec
	inFlight           prometheus.Gauge
	groups             prometheus.Histogram
	commits            *prometheus.HistogramVec
}

// NewIngest registers the metrics of acceptance.
func NewIngest(reg prometheus.Registerer) *Ingest {
	f := promauto.With(reg)
	return &Ingest{
		accepted: f.NewCounter(counter("mainstay_ingest_accepted_total", "Requests that were accepted for the first time.")),
		replayed: f.NewCounter(counter("mainstay_ingest_replayed_total", "Requests that got the stored answer of an earlier one.")),
		refused:  f.NewCounterVec(counter("mainstay_ingest_refused_total", "Requests that were refused."), []string{"reason"}),
		inFlight: f.NewGauge(gauge("mainstay_ingest_in_flight", "Requests that wait for their commit.")),
		groups:   f.NewHistogram(histogram("mainstay_ingest_group_requests", "Requests that shared a transaction.", sizes())),
		commits:  f.NewHistogramVec(histogram("mainstay_ingest_commit_seconds", "Duration of a group's transaction.", seconds()), []string{"outcome"}),
	}
}

// Answered counts an answer.
func (i *Ingest) Answered(replayed bool) {
	if replayed {
		i.replayed.Inc()
		return
	}
	i.accepted.Inc()
}

// Refused counts a request that was not accepted.
func (i *Ingest) Refused(reason string) { i.refused.WithLabelValues(reason).Inc() }

// Committed observes a group's transaction.
func (i *Ingest) Committed(size int, took time.Duration, err error) {
	outcome := "committed"
	if err != nil {
		outcome = "failed"
	}
	i.groups.Observe(float64(size))
	i.commits.WithLabelValues(outcome).Observe(took.Seconds())
}

// InFlight sets how many requests wait.
func (i *Ingest) InFlight(n int) { i.inFlight.Set(float64(n)) }

// Sequencer observes the numbering of the outbox.
type Sequencer struct {
	numbered prometheus.Counter
	rounds   prometheus.Histogram
	leading  prometheus.Gauge
}

// NewSequencer registers the metrics of the sequencer.
func NewSequencer(reg prometheus.Registerer) *Sequencer {
	f := promauto.With(reg)
	return &Sequencer{
		numbered: f.NewCounter(counter("mainstay_sequencer_numbered_total", "Messages that got their sequence.")),
		rounds:   f.NewHistogram(histogram("mainstay_sequencer_round_seconds", "Duration of a round that numbered something.", seconds())),
		leading:  f.NewGauge(gauge("mainstay_sequencer_leading", "1 while this process holds the sequencer's lease.")),
	}
}

// Numbered observes a round.
func (s *Sequencer) Numbered(messages int, took time.Duration) {
	s.numbered.Add(float64(messages))
	s.rounds.Observe(took.Seconds())
}

// Leading says whether the lease is held.
func (s *Sequencer) Leading(leading bool) {
	s.leading.Set(0)
	if leading {
		s.leading.Set(1)
	}
}

// Relay observes publishing.
type Relay struct {
	oldest              prometheus.Gauge
	published, refilled prometheus.Counter
	rounds              prometheus.Histogram
	lanes               prometheus.Gauge
}

// NewRelay registers the metrics of the relay.
func NewRelay(reg prometheus.Registerer) *Relay {
	f := promauto.With(reg)
	return &Relay{
		oldest:    f.NewGauge(gauge("mainstay_outbox_oldest_unpublished_seconds", "Age of the oldest message that the broker does not have; 0 when it has all.")),
		published: f.NewCounter(counter("mainstay_relay_published_total", "Messages that the broker has acknowledged.")),
		refilled:  f.NewCounter(counter("mainstay_relay_refilled_total", "Messages that were published again, as the broker had lost them.")),
		rounds:    f.NewHistogram(histogram("mainstay_relay_round_seconds", "Duration of reading, publishing and recording.", seconds())),
		lanes:     f.NewGauge(gauge("mainstay_relay_lanes", "Lanes that this process holds.")),
	}
}

// Published counts acknowledged messages.
func (r *Relay) Published(n int) { r.published.Add(float64(n)) }

// Refilled counts messages that the broker had lost.
func (r *Relay) Refilled(n int) { r.refilled.Add(float64(n)) }

// Round observes a round.
func (r *Relay) Round(took time.Duration) { r.rounds.Observe(took.Seconds()) }

// OldestUnpublished sets the age of the oldest message that the broker does not have.
func (r *Relay) OldestUnpublished(age time.Duration) { r.oldest.Set(age.Seconds()) }

// Lanes sets how many lanes are held.
func (r *Relay) Lanes(n int) { r.lanes.Set(float64(n)) }

// Lanes observes the engine under consumers.
type Lanes struct {
	handled, calls, gaps  *prometheus.CounterVec
	inFlight              *prometheus.GaugeVec
	sizes, batches, waits *prometheus.HistogramVec
}

// NewLanes registers the metrics of consumers.
func NewLanes(reg prometheus.Registerer) *Lanes {
	f, consumer, outcome := promauto.With(reg), []string{Consumer}, []string{Consumer, "outcome"}
	return &Lanes{
		handled:  f.NewCounterVec(counter("mainstay_handled_total", "Messages by what became of them."), outcome),
		sizes:    f.NewHistogramVec(histogram("mainstay_batch_messages", "Messages that shared a transaction.", sizes()), consumer),
		batches:  f.NewHistogramVec(histogram("mainstay_batch_seconds", "Duration of a batch's transaction.", seconds()), consumer),
		calls:    f.NewCounterVec(counter("mainstay_calls_total", "Calls to remote participants by outcome."), outcome),
		inFlight: f.NewGaugeVec(gauge("mainstay_calls_in_flight", "Calls to remote participants that are under way."), consumer),
		waits:    f.NewHistogramVec(histogram("mainstay_call_seconds", "Duration of a call to a remote participant.", seconds()), consumer),
		gaps:     f.NewCounterVec(counter("mainstay_gap_messages_total", "Messages that were read from the database, as the broker did not deliver them."), consumer),
	}
}

// Handled counts messages by outcome.
func (l *Lanes) Handled(consumer, outcome string, n int) {
	l.handled.WithLabelValues(consumer, outcome).Add(float64(n))
}

// Batch observes a committed transaction.
func (l *Lanes) Batch(consumer string, n int, took time.Duration) {
	l.sizes.WithLabelValues(consumer).Observe(float64(n))
	l.batches.WithLabelValues(consumer).Observe(took.Seconds())
}

// Called observes a call.
func (l *Lanes) Called(consumer, outcome string, took time.Duration) {
	l.calls.WithLabelValues(consumer, outcome).Inc()
	l.waits.WithLabelValues(consumer).Observe(took.Seconds())
}

// Calling sets how many calls are under way.
func (l *Lanes) Calling(consumer string, n int) {
	l.inFlight.WithLabelValues(consumer).Set(float64(n))
}

// Gap counts messages that did not come through the broker.
func (l *Lanes) Gap(consumer string, n int) { l.gaps.WithLabelValues(consumer).Add(float64(n)) }

// Sagas observes the orchestrator.
type Sagas struct{ started, changed, overdue *prometheus.CounterVec }

// NewSagas registers the metrics of sagas.
func NewSagas(reg prometheus.Registerer) *Sagas {
	f := promauto.With(reg)
	return &Sagas{
		started: f.NewCounterVec(counter("mainstay_saga_started_total", "Sagas that began."), []string{"saga"}),
		changed: f.NewCounterVec(counter("mainstay_saga_reached_total", "Sagas by the status that they reached."), []string{"saga", "status"}),
		overdue: f.NewCounterVec(counter("mainstay_saga_overdue_total", "Sagas that passed their deadline beyond the point of no return."), []string{"saga"}),
	}
}

// Started counts sagas that began.
func (s *Sagas) Started(definition string, n int) {
	s.started.WithLabelValues(definition).Add(float64(n))
}

// Changed counts a saga that reached a status.
func (s *Sagas) Changed(definition string, status saga.Status) {
	s.changed.WithLabelValues(definition, string(status)).Inc()
}

// Overdue counts a saga past its deadline.
func (s *Sagas) Overdue(definition string) { s.overdue.WithLabelValues(definition).Inc() }
