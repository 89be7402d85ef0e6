package main

import (
	"github.com/spf13/cobra"

	"github.com/mainstay-io/mainstay/internal/app"
)

func newVersion(env app.Env) *cobra.Command {
	cmd := &cobra.Command{
		Use:         "version",
		Short:       "Say which build this is",
		Long:        "Say which build this is: its version, the revision of its source, and what it was built with.",
		Example:     "  mainstay version\n  mainstay version -o json",
		Args:        exactly(),
		Annotations: documented(app.ExitOK, app.ExitUsage),
	}
	output := addOutput(cmd)
	cmd.RunE = func(*cobra.Command, []string) error {
		b := app.ThisBuild()
		return output.print(env.Stdout, b, []string{"VERSION", "REVISION", "GO", "PLATFORM"},
			[][]string{{b.Version, b.Revision, b.Go, b.Platform}})
	}
	return cmd
}
