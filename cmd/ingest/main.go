// Command ingest takes orders over HTTP into the database.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/process/ingest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // from now on a second signal kills the process
	os.Exit(app.Main(ctx, ingest.Program().Run))
}
