package app

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/pflag"
)

// Program is the command line of a process that does one thing: the flags of its settings, --help and --version; and
// `ready`, by which a container without any other program asks for its own health.
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
	if len(env.Args) > 0 && env.Args[0] == readyWord {
		return p.askReady(ctx, env, flags)
	}
	switch err := flags.Parse(env.Args); {
	case err != nil && !errors.Is(err, pflag.ErrHelp):
		return p.usage("%w%s", err, NearFlag(flags, err))
	case *help || err != nil:
		_, err := fmt.Fprint(env.Stdout, p.help(flags))
		return err
	case *version:
		_, err := fmt.Fprint(env.Stdout, ThisBuild().Line(p.Process))
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

// NearFlag is `; did you mean "--x"?` with the flag that is nearest to the unknown one of which err is, or "".
func NearFlag(flags *pflag.FlagSet, err error) string {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) || unknown.GetSpecifiedShortnames() != "" {
		return ""
	}
	var names []string
	flags.VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	if n := nearest(unknown.GetSpecifiedName(), names); n != "" {
		return fmt.Sprintf("; did you mean %q?", "--"+n)
	}
	return ""
}

func (p Program) usage(format string, args ...any) error {
	return Errorf(ExitUsage, "`"+p.Process+" --help` says how to use it.", format, args...)
}

// helpWidth is where lines of flags are wrapped.
const helpWidth = 100

func (p Program) help(flags *pflag.FlagSet) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\nUsage:\n  %[2]s [flags]\n  %[2]s ready [--ops ADDRESS]   (ask the one that runs there whether it is ready; exit code 0 if so)\n"+
		"\nExamples:\n%s\n\nFlags:\n%s\nExit codes:\n",
		strings.TrimSpace(p.About), p.Process, strings.TrimRight(p.Examples, "\n"), flags.FlagUsagesWrapped(helpWidth))
	for _, m := range ExitCodes() {
		switch m.Code {
		case ExitOK, ExitError, ExitUsage, ExitNotFound, ExitConflict, ExitUnreachable, ExitInterrupted:
			fmt.Fprintf(&b, "  %-4d %s: %s\n", m.Code, m.Name, m.Meaning)
		}
	}
	return b.String()
}
