// Command worker handles messages: the sagas of orders and their participants.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/process/worker"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // from now on a second signal kills the process
	os.Exit(app.Main(ctx, worker.Program().Run))
}
