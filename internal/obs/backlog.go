package obs

import (
	"context"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mainstay-io/mainstay/internal/clock"
)

const (
	// backlogEvery is how long one reading of the backlog is good for, however often somebody scrapes.
	backlogEvery = 5 * time.Second
	// backlogTimeout bounds the reading.
	backlogTimeout = 2 * time.Second
)

// Depth is how much waits, and for how long the oldest of it has.
type Depth struct {
	Count  int64
	Oldest time.Duration
}

// ConsumerTopic names what a consumer reads.
type ConsumerTopic struct{ Consumer, Topic string }

// SagaStatus names sagas of one definition in one status.
type SagaStatus struct{ Saga, Status string }

// Backlog is what waits in the database. Registered consumers are always in it, those with nothing waiting with a zero
// depth; sagas are as long as there are any.
type Backlog struct {
	// Unnumbered is the age of the oldest committed message without a sequence; 0 when there is none, as always
	// where a message gets its sequence as it is written.
	Unnumbered time.Duration
	// Unhandled are the messages beyond a consumer's place.
	Unhandled map[ConsumerTopic]Depth
	// Parked and Dead are by consumer: a message is in one of the two. Dead letters are those that are open; the
	// relay's are a consumer's as well.
	Parked, Dead map[string]Depth
	// Sagas are those that have not come to their end.
	Sagas map[SagaStatus]Depth
	// Unheld is how many lanes of a consumer nobody holds; the relay's, if there ever was one, are a consumer's as well.
	Unheld map[string]int
}

// BacklogReader reads the backlog, in one snapshot and without locks that others wait for.
type BacklogReader interface {
	Backlog(ctx context.Context) (Backlog, error)
}

// RegisterBacklog registers the metrics of what waits in the database. They are read when somebody scrapes, at most
// every five seconds; while they cannot be read, mainstay_backlog_readable is 0 and the others are missing.
func RegisterBacklog(reg prometheus.Registerer, reader BacklogReader, log *slog.Logger) {
	reg.MustRegister(&backlog{
		reader: reader, log: log,
		readable:   desc("mainstay_backlog_readable", "1 when the backlog could be read from the database."),
		unnumbered: desc("mainstay_outbox_oldest_unnumbered_seconds", "Age of the oldest committed message that has no sequence yet; 0 when there is none."),
		unhandled:  depthOf("mainstay_consumer_oldest_unhandled_seconds", "Age of the oldest message that a consumer has not handled; 0 when there is none.", "mainstay_consumer_lag_messages", "Messages beyond a consumer's place.", Consumer, Topic),
		parked:     depthOf("mainstay_parked_oldest_seconds", "Age of the oldest parked message; 0 when there is none.", "mainstay_parked_messages", "Messages that wait in their key's own queue.", Consumer),
		dead:       depthOf("mainstay_dead_letters_oldest_seconds", "Age of the oldest open dead letter; 0 when there is none.", "mainstay_dead_letters_open", "Dead letters that only a person moves.", Consumer),
		sagas:      depthOf("mainstay_saga_oldest_seconds", "Age of the oldest saga in a status that is not its end; 0 when there is none.", "mainstay_saga_open", "Sagas in a status that is not their end.", "saga", "status"),
		unheld:     desc("mainstay_lanes_unheld", "Lanes that no process holds, so that nobody works on them; more than 0 for as long as a take-over lasts.", Consumer),
	})
}

// backlog collects a Backlog.
type backlog struct {
	reader   BacklogReader
	log      *slog.Logger
	readable *prometheus.Desc

	unnumbered *prometheus.Desc

	unhandled, parked, dead, sagas depthDescs

	unheld *prometheus.Desc

	mu   sync.Mutex // held while the database is read, so that scrapes share one reading
	read bool
	at   clock.Mono
	last Backlog
	err  error
}

type depthDescs struct{ oldest, count *prometheus.Desc }

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

func depthOf(oldest, oldestHelp, count, countHelp string, labels ...string) depthDescs {
	return depthDescs{oldest: desc(oldest, oldestHelp, labels...), count: desc(count, countHelp, labels...)}
}

// Describe names the metrics.
func (b *backlog) Describe(out chan<- *prometheus.Desc) {
	out <- b.readable
	out <- b.unnumbered
	out <- b.unheld
	for _, d := range []depthDescs{b.unhandled, b.parked, b.dead, b.sagas} {
		out <- d.oldest
		out <- d.count
	}
}

// Collect reads the backlog and tells it.
func (b *backlog) Collect(out chan<- prometheus.Metric) {
	now, err := b.current()
	if err != nil {
		out <- prometheus.MustNewConstMetric(b.readable, prometheus.GaugeValue, 0)
		return
	}
	out <- prometheus.MustNewConstMetric(b.readable, prometheus.GaugeValue, 1)
	out <- prometheus.MustNewConstMetric(b.unnumbered, prometheus.GaugeValue, now.Unnumbered.Seconds())
	for k, d := range now.Unhandled {
		b.unhandled.tell(out, d, k.Consumer, k.Topic)
	}
	for k, d := range now.Parked {
		b.parked.tell(out, d, k)
	}
	for k, d := range now.Dead {
		b.dead.tell(out, d, k)
	}
	for k, d := range now.Sagas {
		b.sagas.tell(out, d, k.Saga, k.Status)
	}
	for k, n := range now.Unheld {
		out <- prometheus.MustNewConstMetric(b.unheld, prometheus.GaugeValue, float64(n), k)
	}
}

func (d depthDescs) tell(out chan<- prometheus.Metric, depth Depth, labels ...string) {
	out <- prometheus.MustNewConstMetric(d.oldest, prometheus.GaugeValue, depth.Oldest.Seconds(), labels...)
	out <- prometheus.MustNewConstMetric(d.count, prometheus.GaugeValue, float64(depth.Count), labels...)
}

func (b *backlog) current() (Backlog, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.read && b.at.Elapsed() < backlogEvery {
		return b.last, b.err
	}
	ctx, cancel := context.WithTimeout(context.Background(), backlogTimeout)
	defer cancel()
	now, err := b.reader.Backlog(ctx)
	b.read, b.at = true, clock.Start()
	if err != nil {
		if b.err == nil {
			b.log.WarnContext(ctx, "backlog cannot be read, its metrics are missing", Err(err))
		}
		b.err = err
		return b.last, err
	}
	sagas := make(map[SagaStatus]Depth, len(b.last.Sagas))
	for k := range b.last.Sagas {
		sagas[k] = Depth{} // a metric falls to 0 rather than away
	}
	maps.Copy(sagas, now.Sagas)
	now.Sagas = sagas
	b.last, b.err = now, nil
	return now, nil
}
