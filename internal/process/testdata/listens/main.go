// Command listens is a worker process with one more consumer of the orders' events, wherever those are written: `listens NAME earliest|latest ...`
// writes each that it handles to the table heard.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/order"
	processworker "github.com/mainstay-io/mainstay/internal/process/worker"
	"github.com/mainstay-io/mainstay/worker"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	name, start := os.Args[1], os.Args[2]
	program := processworker.Program()
	program.Serve = processworker.Seams{Register: func(w *worker.Worker) {
		handle := w.Handle
		if start == "latest" {
			handle = w.HandleLatest
		}
		handle(name, []string{order.TopicEvents}, worker.Each(listener(name)), order.TopicEvents)
	}}.Main
	os.Args = append(os.Args[:1], os.Args[3:]...)
	os.Exit(app.Main(ctx, program.Run))
}

// listener is the consumer's name. What it hears twice fails the process's transaction.
type listener string

func (l listener) Handle(ctx context.Context, tx mainstay.Tx, m *mainstay.Message) error {
	_, err := tx.ExecContext(ctx, `insert into heard (consumer, lane, sequence) values ($1, $2, $3)`, string(l), m.Lane, m.Sequence)
	return err
}
