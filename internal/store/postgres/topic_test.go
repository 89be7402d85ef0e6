package postgres

import (
	"strings"
	"testing"
)

// TestOutbox_RefusesTopicsThatAreNoNames holds the table itself to the shape of topics: whoever inserts with SQL of their
// own, today and in tomorrow's partition, cannot append what no broker takes.
func TestOutbox_RefusesTopicsThatAreNoNames(t *testing.T) {
	t.Parallel()
	s := openStore(t, newDatabase(t))
	const insert = `insert into outbox (id, topic, lane, key, type, payload, created_at)
values (gen_random_uuid(), $1, 0, 'k', 't', '', clock_timestamp() + $2 * interval '1 day')`
	good := []string{"a", "orders", "order-events", "9", "-", strings.Repeat("a", 64)}
	bad := []string{"", strings.Repeat("a", 65), "Orders", "order.events", "orders ", "orders\n", "\norders", "órders", "*", ">"}
	for _, day := range []int{0, 1} {
		for _, topic := range good {
			if _, err := s.db.ExecContext(t.Context(), insert, topic, day); err != nil {
				t.Errorf("topic %q, day %d: %v", topic, day, err)
			}
		}
		for _, topic := range bad {
			_, err := s.db.ExecContext(t.Context(), insert, topic, day)
			if err == nil || !strings.Contains(err.Error(), "outbox_topic_shape") {
				t.Errorf("topic %q, day %d: got %v, want a violation of outbox_topic_shape", topic, day, err)
			}
		}
	}
}
