package carrier

import (
	"context"
	"fmt"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/broker"
	"github.com/mainstay-io/mainstay/internal/inventory"
	"github.com/mainstay-io/mainstay/internal/logistics"
	"github.com/mainstay-io/mainstay/internal/order"
	"github.com/mainstay-io/mainstay/internal/payment"
	"github.com/mainstay-io/mainstay/internal/process"
)

// topics are all that messages go to.
func topics() []string {
	all := []string{order.TopicReplies, order.TopicEvents}
	for _, participant := range []string{inventory.Topic, payment.Topic, logistics.Topic} {
		all = append(all, participant, order.RepliesOf(participant))
	}
	return all
}

// Stranger names a log whose end at the broker is not the database's, "" when there is none. Relays publish nothing
// but what is committed, so such a broker is older than the database's memory, which was restored to the past or made
// anew; or it is another database's. Workers that read it would act on orders which do not exist, and take the
// messages that exist for repetitions.
func Stranger(ctx context.Context, b broker.Publisher, db *process.Database) (string, error) {
	tails := map[mainstay.TopicLane]broker.Tail{}
	for _, topic := range topics() {
		for lane := range db.Lanes() {
			log := mainstay.TopicLane{Topic: topic, Lane: lane}
			tail, err := b.Tail(ctx, log)
			if err != nil {
				return "", fmt.Errorf("comparing broker and database: %w", err)
			}
			tails[log] = tail
		}
	}
	heads, err := db.Heads(ctx) // after the tails: the log may grow meanwhile
	if err != nil {
		return "", fmt.Errorf("comparing broker and database: %w", err)
	}
	for log, tail := range tails {
		if tail.Sequence > heads[log] {
			return fmt.Sprintf("%s/%d ends at %d, and at %d in the database", log.Topic, log.Lane, tail.Sequence, heads[log]), nil
		}
		if tail.Sequence < 1 {
			continue
		}
		ms, err := db.ReadLog(ctx, map[mainstay.TopicLane]int64{log: tail.Sequence - 1}, 1)
		if err != nil {
			return "", fmt.Errorf("comparing broker and database: %w", err)
		}
		if len(ms) > 0 && ms[0].Sequence == tail.Sequence && ms[0].ID != tail.MessageID {
			return fmt.Sprintf("%s/%d has message %s as %d, and %s in the database", log.Topic, log.Lane, tail.MessageID, tail.Sequence, ms[0].ID), nil
		}
	}
	return "", nil
}
