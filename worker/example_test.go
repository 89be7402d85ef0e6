package worker_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/worker"
)

// seats takes a seat for each command, in the transaction that also moves the worker's place and sends the reply.
type seats struct{}

func (seats) Handle(ctx context.Context, tx mainstay.Tx, m *mainstay.Message) error {
	result, err := tx.ExecContext(ctx, "/* seats.take */ update show set free = free - 1 where id = $1 and free > 0", m.Key)
	if err != nil {
		return err // tried again
	}
	n, err := result.RowsAffected()
	switch {
	case err != nil:
		return err
	case n == 0:
		return mainstay.Reject("sold_out", "no seat is left") // a reply: the saga compensates
	}
	return nil
}

// A handler of single messages becomes one of batches with Each.
func ExampleEach() {
	h := worker.Each(seats{})
	_, err := h.HandleBatch(context.Background(), soldOut{}, []*mainstay.Message{{Key: "tonight"}})
	fmt.Println(err)
	// Output: sold_out: no seat is left
}

// Registrations read like what they are; Run then works until its context ends.
func ExampleWorker() {
	w := worker.New(worker.Config{Lanes: 16, Holder: "host-1"})
	w.Participate("seats", "seats", map[string]mainstay.BatchHandler{"seats.take": worker.Each(seats{})})
	w.Handle("audit", []string{"order-events", "seat-events"}, worker.Each(mainstay.HandlerFunc(
		func(ctx context.Context, tx mainstay.Tx, m *mainstay.Message) error {
			tx.Queue("/* audit.add */ insert into audit (id, type) values ($1, $2)", m.ID, m.Type)
			return nil
		})))
	if err := w.Open(); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(w.Ready(context.Background()) != nil) // not before it runs
	// Output: true
}

// soldOut is a transaction in which nothing is left.
type soldOut struct{ mainstay.Tx }

func (soldOut) ExecContext(context.Context, string, ...any) (sql.Result, error) { return none{}, nil }

type none struct{}

func (none) LastInsertId() (int64, error) { return 0, errors.New("there is none") }
func (none) RowsAffected() (int64, error) { return 0, nil }
