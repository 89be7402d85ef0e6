package app

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/pflag"
)

// Program is the command line of a process that does one thing: the flags of its settings, --help and --version.
type Program struct {
	// Process names the binary, and its settings in the table.
	Process string
	// About says what it does, Examples how it is called, as text for --help.
	About, Examples string
	// Serve runs the process until ctx ends.
	Serve func(ctx context.Context, env Env, cfg Config) error
}

// Run reads the command line and does what it says. Errors are as those of LoadConfig and Serve; a mistake in the
// command line is of code ExitUsage.
func (p Program) Run(ctx context.Context, env Env) error {
	flags := pflag.NewFlagSet(p.Process, pflag.ContinueOnError)
	flags.SortFlags = false
	flags.Usage = func() {}
	AddFlagsOf(p.Process, flags)
	version := flags.Bool("version", false, "print the version and end")
	help := flags.BoolP("help", "h", false, "print this and end")
	switch err := flags.Parse(env.Args); {
	case err != nil && !errors.Is(err, pflag.ErrHelp):
		return p.usage("%w", err)
	case *help || err != nil:
		_, err := fmt.Fprint(env.Stdout, p.help(flags))
		return err
	case *version:
		b := ThisBuild()
		_, err := fmt.Fprintf(env.Stdout, "%s %s (%s, %s, %s)\n", p.Process, b.Version, b.Revision, b.Go, b.Platform)
		return err
	case flags.NArg() > 0:
		return p.usage("%q is one argument too many: %s takes flags only", flags.Arg(0), p.Process)
	}
	cfg, err := LoadConfigOf(p.Process, env, flags)
	if err != nil {
		return err
	}
	return p.Serve(ctx, env, cfg)
}

func (p Program) usage(format string, args ...any) error {
	return Errorf(ExitUsage, "`"+p.Process+" --help` says how to use it.", format, args...)
}

// helpWidth is where lines of flags are wrapped.
const helpWidth = 100

func (p Program) help(flags *pflag.FlagSet) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\nUsage:\n  %s [flags]\n\nExamples:\n%s\n\nFlags:\n%s\nExit codes:\n",
		strings.TrimSpace(p.About), p.Process, strings.TrimRight(p.Examples, "\n"), flags.FlagUsagesWrapped(helpWidth))
	for _, m := range ExitCodes() {
		switch m.Code {
		case ExitOK, ExitError, ExitUsage, ExitConflict, ExitUnreachable:
			fmt.Fprintf(&b, "  %-4d %s: %s\n", m.Code, m.Name, m.Meaning)
		}
	}
	return b.String()
}
