package main

import (
	"cmp"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/client"
)

func newOrder(env app.Env) *cobra.Command {
	cmd := group("order", "See what became of an order", "See what became of an order.")
	cmd.AddCommand(newOrderGet(env))
	return cmd
}

func newOrderGet(env app.Env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "get ID",
		Short: "Show an order, or wait for its end",
		Long: `Show an order. With --wait it answers as soon as the order has ended (confirmed, cancelled
or in need of an operator), also across a restart of the server; an order that is still
pending when the time is over is shown as it is, and the exit code says so.`,
		Example: `  mainstay order get 0198c5a0-7d61-7cc2-8f0e-2a3b4c5d6e7f
  mainstay order get 0198c5a0-7d61-7cc2-8f0e-2a3b4c5d6e7f --wait 30s -o json`,
		Args: exactly("the ID of an order"),
		Annotations: documented(app.ExitOK, app.ExitError, app.ExitUsage, app.ExitNotFound, app.ExitUnreachable,
			app.ExitPending, app.ExitInterrupted),
	}
	url := cmd.Flags().String("url", cmp.Or(env.Getenv("MAINSTAY_URL"), "http://127.0.0.1:8080"), "ingest API of the server, a `URL` (env MAINSTAY_URL)")
	wait := cmd.Flags().Duration("wait", 0, "how long to wait for the end of the order")
	output := addOutput(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := client.New(client.Config{URL: *url})
		if err != nil {
			return err
		}
		defer c.Close()
		read := c.Order
		if *wait > 0 {
			read = c.Await
		}
		o, err := read(cmd.Context(), args[0], *wait)
		if err != nil {
			return err
		}
		if *wait > 0 && !o.Ended() {
			err = app.Errorf(app.ExitPending, "Give it a longer --wait.", "order %s is still pending after %v", o.ID, *wait)
		}
		return joinOutput(err, printOrder(env, output, o))
	}
	return cmd
}

// joinOutput prefers what went wrong with the order over what went wrong with printing it.
func joinOutput(err, printing error) error { return cmp.Or(err, printing) }

func printOrder(env app.Env, output *format, o client.Order) error {
	reason := "-"
	if o.Reason != nil {
		reason = fmt.Sprintf("%s: %s", o.Reason.Code, o.Reason.Detail)
	}
	err := output.print(env.Stdout, o.Raw, []string{"ID", "STATUS", "TOTAL", "CREATED", "REASON"}, [][]string{{
		o.ID, o.Status, client.Money(o.Total, o.Currency), o.CreatedAt.UTC().Format(time.RFC3339), reason,
	}})
	if err == nil && *output == "table" && o.Status == client.StatusNeedsOperator {
		_, err = fmt.Fprintln(env.Stderr, "hint: See `mainstay verify` for what is owed, and the log line of its dead letter for why.")
	}
	return err
}
