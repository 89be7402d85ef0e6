package obs

import (
	"math"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/mainstay-io/mainstay/internal/retention"
)

// Retention observes cleaning.
type Retention struct {
	removed, outcomes *prometheus.CounterVec
	rounds            prometheus.Histogram
	held, oldest      *prometheus.GaugeVec
	room              prometheus.Gauge
}

// NewRetention registers the metrics of cleaning.
func NewRetention(reg prometheus.Registerer) *Retention {
	f := promauto.With(reg)
	return &Retention{
		removed:  f.NewCounterVec(counter("mainstay_retention_removed_total", "Rows that were removed, as nobody needs them any more."), []string{"table"}),
		rounds:   f.NewHistogram(histogram("mainstay_retention_round_seconds", "Duration of a round of cleaning, rests included.", prometheus.ExponentialBuckets(0.01, 4, 9))),
		outcomes: f.NewCounterVec(counter("mainstay_retention_rounds_total", "Rounds of cleaning by how they ended."), []string{"outcome"}),
		held:     f.NewGaugeVec(gauge("mainstay_retention_held_seconds", "For how long messages that are old enough have stayed, as somebody still needs them: the consumer, the relay's or a refill's topic, or an open transaction. Missing while nothing is held."), []string{"by", "name"}),
		oldest:   f.NewGaugeVec(gauge("mainstay_retention_oldest_seconds", "Age of the oldest row that is kept."), []string{"table"}),
		room:     f.NewGauge(gauge("mainstay_outbox_room_seconds", "For how long messages can be written until another partition of the outbox is needed; +Inf where none is.")),
	}
}

// Removed counts rows.
func (r *Retention) Removed(table string, rows int64) {
	r.removed.WithLabelValues(table).Add(float64(rows))
}

// Round observes a round.
func (r *Retention) Round(took time.Duration, err error) {
	outcome := "done"
	if err != nil {
		outcome = "failed"
	}
	r.rounds.Observe(took.Seconds())
	r.outcomes.WithLabelValues(outcome).Inc()
}

// Held replaces what was held before.
func (r *Retention) Held(holds []retention.Hold) {
	r.held.Reset()
	for _, h := range holds {
		r.held.WithLabelValues(h.Reason, h.Name).Set(h.For.Seconds())
	}
}

// Oldest sets the age of the oldest row that is kept.
func (r *Retention) Oldest(table string, age time.Duration) {
	r.oldest.WithLabelValues(table).Set(age.Seconds())
}

// Room sets for how long the outbox has room; negative is for ever.
func (r *Retention) Room(left time.Duration) {
	if left < 0 {
		r.room.Set(math.Inf(1))
		return
	}
	r.room.Set(left.Seconds())
}
