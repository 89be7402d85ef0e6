package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/spf13/pflag"
)

// readyWord is the argument that makes a process ask another one of its kind whether it is ready, and end.
const readyWord = "ready"

const (
	// askWithin bounds the question: longer than the checks take that it waits for.
	askWithin = checkTimeout + time.Second
	// answerLimit bounds what is read of the answer.
	answerLimit = 64 << 10
)

// askReady asks the process on the ops address of the settings whether it is ready, and prints the answer. An error
// of code ExitError says that it is not, one of ExitUnreachable that nobody answers. All are the process's own flags,
// for its help.
func (p Program) askReady(ctx context.Context, env Env, all *pflag.FlagSet) error {
	flags := pflag.NewFlagSet(p.Process+" "+readyWord, pflag.ContinueOnError)
	flags.Usage = func() {}
	AddFlags(flags, "ops")
	switch err := flags.Parse(env.Args[1:]); {
	case errors.Is(err, pflag.ErrHelp):
		_, err := fmt.Fprint(env.Stdout, p.help(all))
		return err
	case err != nil || flags.NArg() > 0:
		return p.usage("%s %s takes --ops and --config only", p.Process, readyWord)
	}
	cfg, err := loadOnly(env, flags, "ops")
	if err != nil {
		return err
	}
	url := urlOf(cfg.Ops)
	status, answer, err := get(ctx, url+"/readyz?verbose")
	if err != nil {
		return Errorf(ExitUnreachable, "The process must run, and --ops or MAINSTAY_OPS be the same as its own.", "asking %s: %w", url, cause(err))
	}
	if _, err := env.Stdout.Write(answer); err != nil {
		return err
	}
	if status != http.StatusOK {
		return Errorf(ExitError, "", "the process on %s is not ready", url)
	}
	return nil
}

func get(ctx context.Context, url string) (status int, body []byte, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, askWithin, fmt.Errorf("no answer within %v", askWithin))
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, nil, err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}} // no proxy stands before this machine
	res, err := client.Do(req)
	if err != nil {
		if late := context.Cause(ctx); errors.Is(err, context.DeadlineExceeded) && late != nil {
			err = late
		}
		return 0, nil, err
	}
	defer res.Body.Close()
	body, err = io.ReadAll(io.LimitReader(res.Body, answerLimit))
	return res.StatusCode, body, err
}
