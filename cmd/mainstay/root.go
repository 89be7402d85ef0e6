package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mainstay-io/mainstay/internal/app"
)

// exits is the annotation that holds the exit codes of a command, as lines for its help.
const exits = "exits"

// data is the annotation of commands whose result is data: they take -o.
const data = "data"

const about = `Mainstay takes orders over HTTP and carries each of them to one end: confirmed, or
cancelled with everything undone.`

// execute runs the command line in env.
func execute(ctx context.Context, env app.Env, p parts) error {
	root := newRoot(env, p)
	root.SetArgs(append([]string{}, env.Args...)) // nil would mean the process's own
	root.SetIn(env.Stdin)
	root.SetOut(env.Stdout)
	root.SetErr(env.Stderr)
	err := root.ExecuteContext(ctx)
	if wantsJSON(env.Args) {
		return app.InJSON(err)
	}
	return err
}

// wantsJSON looks for -o json where it stands: flags that are wrong are never parsed as far as that.
func wantsJSON(args []string) bool {
	for i, arg := range args {
		switch arg {
		case "--":
			return false
		case "-ojson", "-o=json", "--output=json":
			return true
		case "-o", "--output":
			if i+1 < len(args) && args[i+1] == "json" {
				return true
			}
		}
	}
	return false
}

// newRoot makes the tree of commands.
func newRoot(env app.Env, p parts) *cobra.Command {
	root := group("mainstay", "An event-driven backbone for orders", about)
	version := root.Flags().Bool("version", false, "print the version and end")
	root.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return unknown(cmd, args[0])
		}
		if *version {
			_, err := fmt.Fprint(cmd.OutOrStdout(), app.ThisBuild().Line("mainstay"))
			return err
		}
		return welcome(cmd)
	}
	root.SilenceErrors, root.SilenceUsage = true, true
	root.SuggestionsMinimumDistance = 2
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError(cmd, "%w%s", err, app.NearFlag(cmd.Flags(), err))
	})
	root.SetHelpTemplate(helpTemplate)
	root.SetUsageTemplate(strings.ReplaceAll(root.UsageTemplate(), ".FlagUsages", ".FlagUsagesWrapped 100"))
	if p.serve != nil {
		root.AddCommand(newServe(env, p))
	}
	if p.demo != nil {
		root.AddCommand(newDemo(env, p))
	}
	if p.verify != nil {
		root.AddCommand(newVerify(env, p))
	}
	if p.clean != nil {
		root.AddCommand(newClean(env, p))
	}
	if p.bench != nil {
		root.AddCommand(newBench(env, p))
	}
	if p.migrateUp != nil {
		root.AddCommand(newMigrate(env, p))
	}
	root.AddCommand(newOrder(env), newConfig(env), newVersion(env))
	return root
}

const helpTemplate = `{{with (or .Long .Short)}}{{. | trimTrailingWhitespaces}}

{{end}}{{if or .Runnable .HasSubCommands}}{{.UsageString}}{{end}}{{with index .Annotations "exits"}}
Exit codes:
{{.}}{{end}}`

// welcome is what the program says when it is asked nothing.
func welcome(cmd *cobra.Command) error {
	var b strings.Builder
	b.WriteString(about + "\n\n")
	for _, name := range []string{"serve", "demo"} {
		if c, _, err := cmd.Find([]string{name}); err == nil && c != cmd {
			fmt.Fprintf(&b, "  mainstay %-7s %s\n", name, c.Short)
		}
	}
	b.WriteString("\n`mainstay --help` lists all commands.\n")
	_, err := fmt.Fprint(cmd.OutOrStdout(), b.String())
	return err
}

// group makes a command that only has others below it.
func group(use, short, long string) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Long: long, Args: cobra.ArbitraryArgs,
		Annotations: documented(app.ExitOK, app.ExitUsage),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknown(cmd, args[0])
			}
			return cmd.Help()
		},
	}
}

// documented makes the annotation of a command that ends with these codes.
func documented(codes ...int) map[string]string {
	var b strings.Builder
	for _, m := range app.ExitCodes() {
		for _, code := range codes {
			if m.Code == code {
				fmt.Fprintf(&b, "  %-4d %s: %s\n", m.Code, m.Name, m.Meaning)
			}
		}
	}
	return map[string]string{exits: b.String()}
}

// exactly takes the arguments that are named, no more and no fewer.
func exactly(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return usageError(cmd, "%s is missing", names[len(args)])
		case len(args) > len(names):
			return usageError(cmd, "%q is one argument too many", args[len(names)])
		}
		return nil
	}
}

func unknown(cmd *cobra.Command, name string) error {
	near := ""
	if list := cmd.SuggestionsFor(name); len(list) > 0 {
		near = fmt.Sprintf("; did you mean %q?", list[0])
	}
	return usageError(cmd, "%s has no command %q%s", cmd.CommandPath(), name, near)
}

func usageError(cmd *cobra.Command, format string, args ...any) error {
	return app.Errorf(app.ExitUsage, "`"+cmd.CommandPath()+" --help` says how to use it.", format, args...)
}
