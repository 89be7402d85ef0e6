package mainstay_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/broker/logbroker"
	"github.com/mainstay-io/mainstay/internal/migrate"
	"github.com/mainstay-io/mainstay/internal/orchestrator"
	"github.com/mainstay-io/mainstay/internal/store/sqlite"
	"github.com/mainstay-io/mainstay/outbox"
	"github.com/mainstay-io/mainstay/saga"
	"github.com/mainstay-io/mainstay/worker"
)

// Rename changes a customer's name and says so, in one transaction.
func Rename(ctx context.Context, db *sql.DB, ob *outbox.Outbox, customer, name string) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("renaming: %w", err)
	}
	defer tx.Rollback() // after the commit it does nothing

	// Lock what every writer of this key locks: the customer's row.
	if _, err := tx.ExecContext(ctx, `update customer set name = $1 where id = $2`, name, customer); err != nil {
		return fmt.Errorf("renaming: %w", err)
	}
	// Then append, as the last thing before the commit.
	payload, err := json.Marshal(map[string]string{"customer_id": customer, "name": name})
	if err != nil {
		return fmt.Errorf("renaming: %w", err)
	}
	err = ob.Append(ctx, tx, &mainstay.Message{
		Topic: "customers", Key: customer, Type: "customer.renamed", Source: "crm",
		AggregateType: "customer", AggregateID: customer, CorrelationID: customer, Payload: payload,
	})
	if err != nil {
		return fmt.Errorf("renaming: %w", err)
	}
	return tx.Commit()
}

// Seats is a participant that takes and gives back seats.
type Seats struct{}

// Commands are its handlers by the type of the command.
func (Seats) Commands() map[string]mainstay.BatchHandler {
	return map[string]mainstay.BatchHandler{
		"seats.take": worker.Each(mainstay.HandlerFunc(Seats{}.take)),
		"seats.free": worker.Each(mainstay.HandlerFunc(Seats{}.free)),
	}
}

type seatCommand struct {
	Guest string `json:"guest"`
	Seat  string `json:"seat"`
}

func (Seats) take(ctx context.Context, tx mainstay.Tx, m *mainstay.Message) error {
	var c seatCommand
	if err := json.Unmarshal(m.Payload, &c); err != nil {
		return mainstay.Terminal(err) // no repetition can help: a dead letter
	}
	res, err := tx.ExecContext(ctx, `/* seats.take */ update seat set guest = $1 where name = $2 and guest = ''`, c.Guest, c.Seat)
	if err != nil {
		return err // retryable, the default: parked, and tried again
	}
	n, err := res.RowsAffected()
	if err == nil && n == 0 {
		return mainstay.Reject("seat_taken", "somebody else sits there") // a business answer
	}
	return err
}

func (Seats) free(_ context.Context, tx mainstay.Tx, m *mainstay.Message) error {
	var c seatCommand
	if err := json.Unmarshal(m.Payload, &c); err != nil {
		return mainstay.Terminal(err)
	}
	tx.Queue(`/* seats.free */ update seat set guest = '' where name = $1 and guest = $2`, c.Seat, c.Guest)
	return nil
}

// visit is a saga: take a seat, then, as the point of no return, ring the bell.
func visit() saga.Definition {
	ask := saga.Retry{Timeout: 2 * time.Second, Max: time.Minute, Attempts: 20}
	return saga.Definition{
		Name: "visit", Version: 1, Topic: "visit-replies", Deadline: 5 * time.Minute,
		Groups: [][]saga.Step{
			{{
				Name: "seat", Topic: "seats", Command: "seats.take", Rejects: true, Ask: ask,
				Compensation: &saga.Compensation{Command: "seats.free", Ask: ask},
			}},
			{{Name: "ring", Topic: "bell", Command: "bell.ring", Rejects: true, Pivot: true, Ask: ask}},
		},
	}
}

// visits binds the saga to its business.
type visits struct{ ended chan<- string }

// Commands fills the payloads: here, what was kept as the instance's data.
func (visits) Commands(_ context.Context, _ mainstay.Tx, cmds []*saga.Command) error {
	for _, c := range cmds {
		c.Payload = c.Instance.Data
	}
	return nil
}

// Changed brings the business's own rows to where the saga is; here it only tells who waits.
func (v visits) Changed(_ context.Context, tx mainstay.Tx, changes []saga.Change) error {
	for _, c := range changes {
		if s := c.Instance.State; s.Status.Terminal() {
			text := string(s.Status)
			if s.Reason != nil {
				text += ", " + s.Reason.Code
			}
			tx.OnCommit(func() { v.ended <- text })
		}
	}
	return nil
}

// bell rings for everybody but Bob.
func bell(_ context.Context, _ mainstay.Tx, m *mainstay.Message) error {
	var c seatCommand
	if err := json.Unmarshal(m.Payload, &c); err != nil {
		return mainstay.Terminal(err)
	}
	if c.Guest == "bob" {
		return mainstay.Reject("too_late", "the house is asleep")
	}
	return nil
}

// TestGuides_Outbox runs the code of the guide about writing to the outbox.
func TestGuides_Outbox(t *testing.T) {
	t.Parallel()
	db, _ := guideDatabase(t, `create table customer (id text primary key, name text); insert into customer values ('c-7', 'Ada')`)
	ob, err := outbox.Open(t.Context(), db, mainstay.SQLite)
	if err != nil {
		t.Fatal(err)
	}
	if err := Rename(t.Context(), db, ob, "c-7", "Ada L."); err != nil {
		t.Fatal(err)
	}
	var got string
	err = db.QueryRowContext(t.Context(), `select topic || '/' || lane || ' #' || sequence || ' ' || type || ' ' || cast(payload as text) from outbox`).Scan(&got)
	if want := `customers/1 #1 customer.renamed {"customer_id":"c-7","name":"Ada L."}`; err != nil || got != want {
		t.Errorf("the outbox has %s, error %v; want %s", got, err, want)
	}
}

// TestGuides_Lanes are the values that the guide gives to those who compute lanes in another language.
func TestGuides_Lanes(t *testing.T) {
	t.Parallel()
	for key, want := range map[string]int{"c-7": 1, "order-1": 6, "01a1fdaf-7179-7e2b-ba49-b73b0db265af": 1} {
		if got := outbox.Lane(key, 16); got != want {
			t.Errorf("lane of %s among 16: %d, want %d", key, got, want)
		}
	}
}

// TestGuides_Saga runs the code of the guide about participants and sagas.
func TestGuides_Saga(t *testing.T) {
	t.Parallel()
	_, path := guideDatabase(t, `create table seat (name text primary key, guest text not null); insert into seat values ('A1', ''), ('A2', '')`)
	db, err := sqlite.Open(t.Context(), sqlite.Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	ended := make(chan string, 1)
	visitor, err := orchestrator.New(orchestrator.Config{
		Store: db, Versions: []saga.Definition{visit()}, Binding: visits{ended}, Lanes: db.Lanes(), Source: "reception",
	})
	if err != nil {
		t.Fatal(err)
	}

	w := worker.New(worker.Config{Store: db, Reader: logbroker.New(db, 0), Lanes: db.Lanes(), Holder: "reception", ForceLeases: true})
	w.Participate("seats", "seats", Seats{}.Commands())
	w.Participate("bell", "bell", map[string]mainstay.BatchHandler{"bell.ring": worker.Each(mainstay.HandlerFunc(bell))})
	w.Orchestrate("visits", visitor)

	ctx, stop := context.WithCancel(t.Context())
	stopped := make(chan error, 1)
	go func() { stopped <- w.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
	for _, c := range []struct{ data, want string }{
		{`{"guest":"ada","seat":"A1"}`, "completed"},
		{`{"guest":"eve","seat":"A1"}`, "compensated, seat_taken"},
		{`{"guest":"bob","seat":"A2"}`, "compensated, too_late"},
	} {
		id := uuid.Must(uuid.NewV7()).String()
		err := db.Run(t.Context(), func(ctx context.Context, tx mainstay.Tx) error {
			return visitor.Start(ctx, tx, []orchestrator.Begin{{ID: id, CorrelationID: id, Key: id, Data: []byte(c.data)}})
		})
		if err != nil {
			t.Fatal(err)
		}
		select {
		case got := <-ended:
			if got != c.want {
				t.Errorf("%s: %s, want %s", c.data, got, c.want)
			}
		case <-time.After(90 * time.Second):
			t.Fatalf("%s has not ended", c.data)
		}
	}
	var guests string
	err = db.Reader().QueryRowContext(t.Context(), `select group_concat(name || '=' || guest, ' ') from seat`).Scan(&guests)
	if want := "A1=ada A2="; err != nil || guests != want {
		t.Errorf("seats %q, error %v; want %q", guests, err, want)
	}
}

// guideDatabase is a SQLite database with the schema and the tables that setup makes.
func guideDatabase(t *testing.T, setup string) (*sql.DB, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "guide.db")
	db, err := sql.Open("sqlite", sqlite.DSN(path, "FULL", false))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	if _, err := migrate.Up(t.Context(), db, mainstay.SQLite, 4); err != nil {
		t.Fatal(err)
	}
	if _, err := db.ExecContext(t.Context(), setup); err != nil {
		t.Fatal(err)
	}
	return db, path
}
