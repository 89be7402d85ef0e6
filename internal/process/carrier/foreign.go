package carrier

import (
	"context"
	"fmt"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/app"
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
			tail, err := c.Publisher.Tail(ctx, mainstay.TopicLane{Topic: topic, Lane: lane})
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
