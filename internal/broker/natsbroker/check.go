package natsbroker

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	// leastKeep is the shortest max_age that is taken: below it a message is gone before a reader that was started
	// anew has come to it, and the relay's look at the tails finds them empty.
	leastKeep = time.Minute
	// goodKeep is the shortest max_age that is not warned about.
	goodKeep = time.Hour
)

// check judges the settings of a stream: wrong, a *SettingsError, names those that could not keep the promise; weak
// names those with which it is kept, but slower or with less to fall back on.
func (b *Broker) check(cfg jetstream.StreamConfig) (weak []string, wrong error) {
	refused := &SettingsError{Stream: b.cfg.Stream, Lanes: !b.sameLanes(cfg)}
	for _, r := range slices.Concat(b.rules(cfg), b.limits(cfg)) {
		switch {
		case r.ok:
		case r.weak:
			weak = append(weak, r.says)
		default:
			refused.Settings = append(refused.Settings, r.says)
		}
	}
	if len(refused.Settings) > 0 {
		wrong = refused
	}
	return weak, wrong
}

// rule is one thing that is asked of a stream, and what to say when it does not hold.
type rule struct {
	ok, weak bool
	says     string
}

// rules are about what the stream is.
func (b *Broker) rules(cfg jetstream.StreamConfig) []rule {
	return []rule{
		{ok: cfg.Retention == jetstream.LimitsPolicy, says: "retention must be limits, so that every consumer can read everything"},
		{ok: cfg.Storage == jetstream.FileStorage, says: "storage must be file: a restart must not empty it"},
		{ok: cfg.AllowAtomicPublish, says: "allow_atomic must be set: rounds are published as batches"},
		{ok: slices.Equal(cfg.Subjects, []string{b.subjects()}), says: "subjects must be " + b.subjects() + " and no other: what others write would share its limits"},
		{ok: cfg.Mirror == nil, says: "mirror must not be set: nothing could be published"},
		{ok: len(cfg.Sources) == 0, says: "sources must not be set: only relays write here"},
		{ok: cfg.SubjectTransform == nil, says: "subject_transform must not be set: it moves messages to other logs"},
		{ok: !cfg.NoAck, says: "no_ack must not be set: nobody would know what was stored"},
		{ok: !cfg.Sealed, says: "sealed must not be set: nothing can be published; delete the stream, it is filled again from the outbox"},
		{ok: b.sameLanes(cfg), says: fmt.Sprintf("its databases have %s lanes, and this one has %d: "+
			"those that share a broker have the same number, which is fixed when they are made (`mainstay migrate up --lanes`)", b.lanesOf(cfg), b.cfg.Lanes)},
		{ok: !cfg.AllowMsgCounter, says: "allow_msg_counter must not be set: it takes nothing but counts"},
		{ok: cfg.Replicas == 1 || !cfg.AllowDirect, weak: true, says: "allow_direct lets a replica that lags answer: what was published may look lost, and is published again"},
		{ok: cfg.Replicas >= b.cfg.Replicas, weak: true, says: fmt.Sprintf("replicas is %d, and nats_replicas asks for %d: `nats stream edit` changes it", cfg.Replicas, b.cfg.Replicas)},
		{ok: cfg.Replicas > 1 || b.nc.ConnectedClusterName() == "", weak: true, says: "replicas is 1 on a cluster: while its server is away nothing is published, and workers read the database"},
	}
}

// sameLanes says whether this database has as many lanes as those that the stream was made for.
func (b *Broker) sameLanes(cfg jetstream.StreamConfig) bool {
	return b.cfg.Lanes == 0 || b.lanesOf(cfg) == strconv.Itoa(b.cfg.Lanes)
}

// limits are about how much it holds.
func (b *Broker) limits(cfg jetstream.StreamConfig) []rule {
	kept, known := cfg.MaxAge, b.cfg.Outbox > 0
	return []rule{
		{ok: cfg.Discard == jetstream.DiscardNew, says: "discard must be new: old messages may not make room for new ones"},
		{ok: cfg.MaxMsgsPerSubject <= 0, says: "max_msgs_per_subject must not be set: it bounds each log by itself"},
		{ok: kept == 0 || kept >= leastKeep, says: fmt.Sprintf("max_age of %v is far too short: %v at least", kept, leastKeep)},
		{ok: kept == 0 || kept >= goodKeep, weak: true, says: fmt.Sprintf("max_age of %v is short: a consumer with a database of its own that is away for longer must ask for a refill", kept)},
		{ok: !known || kept > 0 && kept < b.cfg.Outbox, says: fmt.Sprintf("max_age must be shorter than outbox_retention (%v), so that the outbox has what the stream has; it is %s", b.cfg.Outbox, ageText(kept))},
		{ok: cfg.ConsumerLimits.InactiveThreshold == 0 || cfg.ConsumerLimits.InactiveThreshold >= consumerTimeout, says: fmt.Sprintf("consumer_limits.inactive_threshold must be %v at least: readers are refused", consumerTimeout)},
		{ok: cfg.MaxConsumers <= 0, weak: true, says: fmt.Sprintf("max_consumers of %d refuses readers beyond it, which then read the database", cfg.MaxConsumers)},
		{ok: cfg.MaxMsgSize <= 0 || cfg.MaxMsgSize >= leastMessage, weak: true, says: fmt.Sprintf("max_msg_size of %d is below %d, the largest message of an outbox: larger ones become dead letters", cfg.MaxMsgSize, leastMessage)},
	}
}

// leastMessage is the size that every message of an outbox is below, with its headers.
const leastMessage = 512<<10 + maxHeader

func ageText(age time.Duration) string {
	if age == 0 {
		return "without a limit"
	}
	return age.String()
}
