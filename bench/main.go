// Command bench does the same work with this module and with its peers, side by side in one run, and prints the
// ratios. It starts a PostgreSQL server and a NATS server of its own and removes them at the end.
//
//	go run . [-only hop,relay,ingest,publish] [-quick] [-rounds 3] [-sync lazy|always] [-o table|json]
//
// The sides of a contest take turns, A B C A B C, so that a slow minute of the machine hits all of them; the median of
// the rounds counts. All databases run with fsync and synchronous_commit on, all messages are 300 bytes, and every
// peer has the settings that its own documents name for speed: see the notes of the sides.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

// payload is the size of each message, job and order row, in bytes; clients is how many there are of them where
// there are clients.
const (
	payload = 300
	clients = 64
)

// options are the command line.
type options struct {
	only   map[string]bool
	rounds int
	lazy   bool
	json   bool
	size   sizes
}

// sizes are the amounts of one round.
type sizes struct{ hop, relay, ingest, publish int }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) (err error) {
	o, err := parse(args)
	if err != nil {
		return err
	}
	w, err := newWorld(o)
	if errors.Is(err, errSkipped) {
		fmt.Fprintln(os.Stderr, err)
		return nil
	}
	if err != nil {
		return err
	}
	defer w.close()
	rep := newReport(o, w)
	for _, c := range contests(w, o.size) {
		if len(o.only) > 0 && !o.only[c.name] {
			continue
		}
		res, err := c.run(ctx, o.rounds)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		rep.Contests = append(rep.Contests, res)
	}
	return rep.write(os.Stdout, o.json)
}

func parse(args []string) (o options, err error) {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	only := flags.String("only", "", "contests to run, separated by commas: "+strings.Join(contestNames(), ", "))
	quick := flags.Bool("quick", false, "one round of small amounts, to see that it works")
	rounds := flags.Int("rounds", 3, "rounds of each contest")
	sync := flags.String("sync", "lazy", "when the NATS server syncs its files: lazy or always")
	form := flags.String("o", "table", "form of the result: table or json")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	o = options{only: map[string]bool{}, rounds: *rounds, lazy: *sync == "lazy", json: *form == "json", size: sizes{20_000, 20_000, 20_000, 50_000}}
	if *quick {
		o.rounds, o.size = 1, sizes{1000, 1000, 1000, 2000}
	}
	if !o.lazy { // a sync for each message takes its time
		o.size.relay, o.size.publish = o.size.relay/2, o.size.publish/10
	}
	for _, name := range strings.FieldsFunc(*only, func(r rune) bool { return r == ',' }) {
		o.only[name] = true
		if !strings.Contains(","+strings.Join(contestNames(), ",")+",", ","+name+",") {
			return o, fmt.Errorf("-only: there is no contest %q, only %s", name, strings.Join(contestNames(), ", "))
		}
	}
	switch {
	case flags.NArg() > 0:
		return o, fmt.Errorf("%q is one argument too many", flags.Arg(0))
	case o.rounds < 1 || *sync != "lazy" && *sync != "always" || *form != "table" && *form != "json":
		return o, fmt.Errorf("-rounds must be above 0, -sync lazy or always, -o table or json")
	}
	return o, nil
}
