// Package worker runs handlers: plain ones on messages, participants on the commands of sagas, and sagas themselves.
// It puts the engine under internal/lane and the orchestrator together behind registrations that read like what they
// are:
//
//	w := worker.New(cfg)
//	w.Handle("mailer", []string{"order-events"}, mailer)
//	w.Participate("inventory", "inventory", commands)
//	w.ParticipateRemotely("payment", "payment", types, gateway)
//	w.Orchestrate("orders", orchestrator)
//	err := w.Run(ctx)
//
// A consumer's name is its identity in the database: its places, leases, parked messages and barrier are kept under
// it.
package worker

import (
	"context"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/lane"
	"github.com/mainstay-io/mainstay/internal/orchestrator"
)

// Config is the engine's.
type Config = lane.Config

// Worker collects registrations, then runs them.
type Worker struct {
	cfg       Config
	consumers []lane.Consumer
	engine    *lane.Engine
}

// New makes a worker without consumers.
func New(cfg Config) *Worker { return &Worker{cfg: cfg} }

// Handle runs h on the messages of topics, a new consumer's from the first that there is; a single-message handler goes
// through Each. Elsewhere are those of the topics that another database may write; so it is with all registrations.
func (w *Worker) Handle(consumer string, topics []string, h mainstay.BatchHandler, elsewhere ...string) {
	w.consumers = append(w.consumers, lane.Consumer{Name: consumer, Topics: topics, Elsewhere: elsewhere, Handler: h})
}

// HandleLatest is Handle for a consumer that begins, when it is new, with what is sent from then on; in a log of another
// database with what is sent after that has answered for the first time, and until then the worker is not ready.
func (w *Worker) HandleLatest(consumer string, topics []string, h mainstay.BatchHandler, elsewhere ...string) {
	w.consumers = append(w.consumers, lane.Consumer{Name: consumer, Topics: topics, Elsewhere: elsewhere, Latest: true, Handler: h})
}

// Participate runs handlers on the commands of a topic, by type, behind the participant's barrier.
func (w *Worker) Participate(consumer, topic string, commands map[string]mainstay.BatchHandler, elsewhere ...string) {
	w.consumers = append(w.consumers, lane.Consumer{
		Name: consumer, Topics: []string{topic}, Elsewhere: elsewhere, Participant: &lane.Participant{Commands: commands},
	})
}

// ParticipateRemotely makes a call for each command of the given types.
func (w *Worker) ParticipateRemotely(consumer, topic string, types []string, h mainstay.Remote, elsewhere ...string) {
	w.consumers = append(w.consumers, lane.Consumer{
		Name: consumer, Topics: []string{topic}, Elsewhere: elsewhere, Participant: &lane.Participant{Remote: h, Types: types},
	})
}

// Orchestrate runs sagas on the replies of their participants.
func (w *Worker) Orchestrate(consumer string, o *orchestrator.Orchestrator, elsewhere ...string) {
	w.consumers = append(w.consumers, lane.Consumer{
		Name: consumer, Topics: o.Topics(), Elsewhere: elsewhere, Handler: o, Timers: o, Awaits: o.CommandTopics(),
	})
}

// Open checks the registrations; Run does it where nobody has.
func (w *Worker) Open() error {
	engine, err := lane.New(w.cfg, w.consumers...)
	w.engine = engine
	return err
}

// Run works until ctx ends.
func (w *Worker) Run(ctx context.Context) error {
	if w.engine == nil {
		if err := w.Open(); err != nil {
			return err
		}
	}
	return w.engine.Run(ctx)
}

// Ready says which consumers do not work, and why. Open must have been called.
func (w *Worker) Ready(ctx context.Context) error { return w.engine.Ready(ctx) }

// Each makes a batch handler of one that handles a message at a time.
func Each(h mainstay.Handler) mainstay.BatchHandler { return each{h} }

type each struct{ h mainstay.Handler }

// HandleBatch handles one message after the other. The first failure fails the batch, as what it has written cannot
// be told from its neighbours'; the engine then tries smaller ones.
func (e each) HandleBatch(ctx context.Context, tx mainstay.Tx, ms []*mainstay.Message) ([]error, error) {
	for _, m := range ms {
		if err := e.h.Handle(ctx, tx, m); err != nil {
			return nil, err
		}
	}
	return nil, nil
}
