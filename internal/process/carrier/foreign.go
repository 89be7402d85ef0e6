package carrier

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/broker"
	"github.com/mainstay-io/mainstay/internal/broker/natsbroker"
	"github.com/mainstay-io/mainstay/internal/process"
)

// Foreign refuses a process that is going to write to a topic of which a log ends, at the broker, with another
// database's message: its --database or --broker is not the one that was meant, or it hosts what is hosted elsewhere.
// It would act on commands that are not for it before its relay could notice. It takes a question for each log.
func (c *Carrier) Foreign(ctx context.Context, cfg app.Config, db *process.Database, topics []string) error {
	if c.Owners == nil {
		return nil // nobody else can reach it
	}
	for _, topic := range topics {
		for lane := range db.Lanes() {
			tail, err := c.tail(ctx, mainstay.TopicLane{Topic: topic, Lane: lane})
			if err != nil {
				return Explain(fmt.Errorf("looking at who writes %s: %w", topic, err), cfg.Broker)
			}
			if tail.Origin != "" && tail.Origin != db.Origin() {
				return app.Errorf(app.ExitConflict,
					"A topic is written by one database. Check --database and --broker; where participants have databases of their own, --consume names those of this one.",
					"the topic %s at the broker %s is written by another database (%s, and this is %s)", topic, app.Redact(cfg.Broker), tail.Origin, db.Origin())
			}
		}
	}
	return nil
}

// A cluster that elects answers nobody: each question waits for tailPatience at most, and is asked again for startPatience.
const (
	tailPatience  = 3 * time.Second
	startPatience = 20 * time.Second
	tailTick      = 200 * time.Millisecond
)

// tail is the end of a log at the broker.
func (c *Carrier) tail(ctx context.Context, log mainstay.TopicLane) (broker.Tail, error) {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	tick := time.NewTicker(tailTick)
	defer tick.Stop()
	for {
		tail, err := c.tailWithin(ctx, log)
		if err == nil || errors.Is(err, natsbroker.ErrForbidden) {
			return tail, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return tail, err
		}
	}
}

func (c *Carrier) tailWithin(ctx context.Context, log mainstay.TopicLane) (broker.Tail, error) {
	ctx, cancel := context.WithTimeout(ctx, tailPatience)
	defer cancel()
	return c.Publisher.Tail(ctx, log)
}
