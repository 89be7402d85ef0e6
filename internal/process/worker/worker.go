// Package worker is the process that handles messages: the sagas of orders, and the three participants.
package worker

import (
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/broker"
	"github.com/mainstay-io/mainstay/internal/clock"
	"github.com/mainstay-io/mainstay/internal/inventory"
	"github.com/mainstay-io/mainstay/internal/lane"
	"github.com/mainstay-io/mainstay/internal/logistics"
	"github.com/mainstay-io/mainstay/internal/obs"
	"github.com/mainstay-io/mainstay/internal/orchestrator"
	"github.com/mainstay-io/mainstay/internal/order"
	"github.com/mainstay-io/mainstay/internal/payment"
	"github.com/mainstay-io/mainstay/internal/process"
	"github.com/mainstay-io/mainstay/worker"
)

// Names of the consumers.
const (
	Orders    = "orders"
	Inventory = "inventory"
	Payment   = "payment"
	Logistics = "logistics"
)

// Config is what a Part needs.
type Config struct {
	Config app.Config
	DB     *process.Database
	Reader broker.Reader
	// Owners is how the databases of other participants are asked; it may be nil.
	Owners broker.Owners
	// Compared says that a relay publishes to what Reader reads.
	Compared bool
	// Follow is the database's, or nil: then all messages are read from Reader.
	Follow func(deliver func([]*mainstay.Message)) (stop func())
	// Gateway is where payments are made.
	Gateway payment.Gateway
	// Holder names the process in leases.
	Holder string
	Log    *slog.Logger
	Lanes  lane.Hooks
	Sagas  orchestrator.Hooks
	// Ended is told of the orders that have ended in this process; it may be nil.
	Ended func(ids []string)
	// Register adds further consumers; it may be nil.
	Register func(*worker.Worker)
}

// warnEvery is how often a consumer's warning is logged of which there are many, as while the database is away.
const warnEvery = 5 * time.Second

// ended tells of orders that have ended, here and in the processes in which somebody waits for them.
func (c *Config) ended(ids []string) {
	if c.Ended != nil {
		c.Ended(ids)
	}
	if c.DB.News != nil {
		c.DB.News.SayEnded()
	}
}

// Part handles messages.
type Part struct{ Worker *worker.Worker }

// New puts the part together; its Services are to be run.
func New(cfg Config) (*Part, error) {
	sagas, err := process.Orders(cfg.Config, cfg.DB, cfg.Log, cfg.Sagas, cfg.ended)
	if err != nil {
		return nil, err
	}
	w := worker.New(worker.Config{
		Store: cfg.DB, Reader: cfg.Reader, Follow: cfg.Follow, Known: cfg.DB.Known, Owners: cfg.Owners, Compared: cfg.Compared, Lanes: cfg.DB.Lanes(), Holder: cfg.Holder, ForceLeases: cfg.DB.Alone,
		Calls: 8 * cfg.Config.WorkerConcurrency, CallTimeout: cfg.Config.CallTimeout,
		Retry: lane.Retry{Budget: cfg.Config.RetryBudget}, Clock: clock.System, Hooks: cfg.Lanes,
		Logger: obs.Sparing(cfg.Log, warnEvery),
	})
	cfg.register(w, sagas)
	if cfg.Register != nil {
		cfg.Register(w)
	}
	return &Part{w}, w.Open()
}

// Hosts says whether the process hosts a consumer.
func Hosts(cfg app.Config, consumer string) bool {
	list := app.SplitList(cfg.Consume)
	return len(list) == 0 || slices.Contains(list, consumer)
}

// Writes are the topics to which the hosted consumers send.
func Writes(cfg app.Config) []string {
	var topics []string
	for _, participant := range []string{Inventory, Payment, Logistics} {
		if Hosts(cfg, participant) {
			topics = append(topics, order.RepliesOf(participant))
		}
	}
	if Hosts(cfg, Orders) {
		topics = append(topics, order.TopicEvents, inventory.Topic, payment.Topic, logistics.Topic)
	}
	return topics
}

func (c *Config) register(w *worker.Worker, sagas *orchestrator.Orchestrator) {
	dialect := c.DB.Dialect()
	if Hosts(c.Config, Inventory) {
		w.Participate(Inventory, inventory.Topic, inventory.New(dialect).Handlers(), c.away(Orders, inventory.Topic)...)
	}
	if Hosts(c.Config, Payment) {
		pay := payment.New(dialect, c.Gateway)
		types := slices.Collect(maps.Keys(pay.Remotes()))
		w.ParticipateRemotely(Payment, payment.Topic, types, pay, c.away(Orders, payment.Topic)...)
	}
	if Hosts(c.Config, Logistics) {
		w.Participate(Logistics, logistics.Topic, logistics.New(dialect).Handlers(), c.away(Orders, logistics.Topic)...)
	}
	if Hosts(c.Config, Orders) {
		var away []string
		for _, participant := range []string{Inventory, Payment, Logistics} {
			away = append(away, c.away(participant, order.RepliesOf(participant))...)
		}
		w.Orchestrate(Orders, sagas, away...)
	}
}

// away is the topic, if the consumer that causes what is on it is not hosted here: then it may have another database.
func (c *Config) away(consumer, topic string) []string {
	if c.Owners == nil || Hosts(c.Config, consumer) {
		return nil
	}
	return []string{topic}
}

// Services are what runs, with the stage in which each is stopped.
func (p *Part) Services() []app.Service {
	return []app.Service{{Name: "worker", Stage: app.Work, Run: p.Worker.Run}}
}

// Checks are what readiness depends on, by name.
func (p *Part) Checks(h *app.Health) { h.Check("worker", p.Worker.Ready) }
