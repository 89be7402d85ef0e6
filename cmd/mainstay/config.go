package main

import (
	"cmp"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/mainstay-io/mainstay/internal/app"
)

func newConfig(env app.Env) *cobra.Command {
	cmd := group("config", "See how it is configured", "See how it is configured.")
	cmd.AddCommand(newConfigPrint(env))
	return cmd
}

func newConfigPrint(env app.Env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "print",
		Short: "Show each setting, its value and where it comes from",
		Long: `Show each setting, its value and where it comes from: a flag, the environment, a file or the
default, the first of them that says anything. Passwords are not shown.`,
		Example: `  mainstay config print
  mainstay config print --config /etc/mainstay.yaml -o json`,
		Args:        exactly(),
		Annotations: documented(app.ExitOK, app.ExitUsage),
	}
	app.AddFlags(cmd.Flags())
	output := addOutput(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := app.LoadConfig(env, cmd.Flags())
		if err != nil {
			return err
		}
		for _, v := range app.UnknownVariables(env) {
			_, _ = fmt.Fprintf(env.Stderr, "warning: %s\n", v)
		}
		return printConfig(env, output, cfg)
	}
	return cmd
}

// settingView is a setting as JSON has it.
type settingView struct {
	Name   string `json:"name"`
	Value  string `json:"value"`
	Origin string `json:"origin"`
}

func printConfig(env app.Env, output *format, cfg app.Config) error {
	var value []settingView
	var rows [][]string
	for _, s := range app.Settings() {
		v := settingView{Name: s.Name, Value: s.Value(cfg), Origin: cfg.Origin(s.Name).String()}
		value, rows = append(value, v), append(rows, []string{v.Name, cmp.Or(v.Value, "(empty)"), v.Origin})
	}
	return output.print(env.Stdout, value, []string{"NAME", "VALUE", "ORIGIN"}, rows)
}
