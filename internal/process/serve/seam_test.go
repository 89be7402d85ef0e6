package serve

import (
	"log/slog"
	"path/filepath"
	"testing"

	"github.com/google/uuid"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/clock"
	"github.com/mainstay-io/mainstay/internal/order"
	"github.com/mainstay-io/mainstay/internal/process"
)

var events = mainstay.TopicLane{Topic: order.TopicEvents, Lane: 1} //nolint:gochecknoglobals // a constant

// published is a message that no database knows.
func published() []*mainstay.Message {
	return []*mainstay.Message{{
		ID: uuid.NewString(), Topic: events.Topic, Lane: events.Lane, Sequence: 1, Incarnation: 1, Key: "k",
		Type: order.EventPlaced, Source: order.Source, CreatedAt: clock.System(), Payload: []byte("{}"),
	}}
}

func newSQLite(t *testing.T, dir string) *process.Database {
	t.Helper()
	db, err := openDatabase(t.Context(), app.Config{Data: dir}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := closeDatabase(db); err != nil {
			t.Error(err)
		}
	})
	return db
}

func TestOpenBroker_SetsAsideAStoreThatIsNotOfTheDatabase(t *testing.T) {
	t.Parallel()
	cfg, log := app.Config{Data: t.TempDir(), NATSSync: "lazy"}, slog.New(slog.DiscardHandler)
	db := newSQLite(t, cfg.Data)
	for _, wantAside := range []int{0, 1, 1} { // made; another's; its own
		c, err := openBroker(t.Context(), cfg, db, log)
		if err != nil {
			t.Fatal(err)
		}
		tail, err := c.Publisher.Tail(t.Context(), events)
		if err != nil || tail.Sequence != 0 {
			t.Errorf("the broker ends at %+v (%v)", tail, err)
		}
		aside, err := filepath.Glob(filepath.Join(cfg.Data, brokerDir+"-aside-*"))
		if err != nil || len(aside) != wantAside {
			t.Errorf("set aside: %v (%v), want %d", aside, err, wantAside)
		}
		if wantAside == 0 {
			if _, err := c.Publisher.Publish(t.Context(), published(), nil); err != nil {
				t.Error(err)
			}
		}
		if err := c.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}
