// Command mainstay is the whole backbone in one program, and the operator's tool for it.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/process/serve"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // from now on a second signal kills the process
	os.Exit(app.Main(ctx, run))
}

func run(ctx context.Context, env app.Env) error {
	return execute(ctx, env, parts{
		serve: serve.Main, demo: runDemo, verify: runVerify, bench: runBench, clean: serve.Clean,
		migrateUp: serve.MigrateUp, migrateContract: serve.MigrateContract, migrateStatus: serve.MigrateStatus,
	})
}
