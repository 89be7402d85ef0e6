package app

import (
	"context"
	"io"
	"os"

	"github.com/mattn/go-isatty"
)

// Env is all that a command sees of the world around it, so that tests run commands without a process.
type Env struct {
	// Args are the arguments after the program's name.
	Args []string
	// Getenv reads an environment variable; "" when it is not set.
	Getenv func(string) string
	// Environ lists the environment as NAME=value; nil when nobody asks for names.
	Environ func() []string
	Stdin   io.Reader
	Stdout  io.Writer
	Stderr  io.Writer
	// IsTerminal says whether w is a terminal.
	IsTerminal func(w io.Writer) bool
}

// OS is the environment of the running process.
func OS() Env {
	return Env{
		Args: os.Args[1:], Getenv: os.Getenv, Environ: os.Environ,
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		IsTerminal: isTerminal,
	}
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && isatty.IsTerminal(f.Fd())
}

// Main runs a command in the process's own environment and answers with its exit code. The caller has bound ctx to
// the signals:
//
//	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
//	context.AfterFunc(ctx, stop) // from now on a second signal kills the process
//	os.Exit(app.Main(ctx, run))
func Main(ctx context.Context, run func(context.Context, Env) error) int {
	return MainIn(ctx, OS(), run)
}

// MainIn is Main in a given environment: it runs the command, prints its error with the hint to env.Stderr, and
// answers with the exit code. A command that answers nil has done what it was asked, also when a signal ended it.
func MainIn(ctx context.Context, env Env, run func(context.Context, Env) error) int {
	err := run(ctx, env)
	code := ExitCode(ctx, err)
	if err != nil {
		printError(env.Stderr, err, code)
	}
	return code
}
