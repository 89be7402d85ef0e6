package app

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/env/v2"
	"github.com/knadh/koanf/providers/file"
	"github.com/knadh/koanf/providers/posflag"
	"github.com/knadh/koanf/v2"
	"github.com/spf13/pflag"
)

// configVariable names the file when no flag does.
const configVariable = "MAINSTAY_CONFIG"

// Origin says where a value comes from.
type Origin struct {
	// Kind is "flag", "environment", "file" or "default".
	Kind string
	// Name is the flag, the variable or the path; empty for a default.
	Name string
}

// String names the origin for people: "environment MAINSTAY_HTTP".
func (o Origin) String() string { return strings.TrimSpace(o.Kind + " " + o.Name) }

// label names a setting as the one who gave it would find it again.
func (o Origin) label(name string) string {
	switch o.Kind {
	case "flag", "environment":
		return o.Name
	case "file":
		return o.Name + ": " + name
	default:
		return name
	}
}

// Origin says where the named setting's value comes from.
func (c Config) Origin(name string) Origin {
	if o, ok := c.origins[name]; ok {
		return o
	}
	return Origin{Kind: "default"}
}

// AddFlags adds the flags of the named settings, or of all when none are named, and --config.
func AddFlags(flags *pflag.FlagSet, names ...string) {
	addFlags(flags, func(s Setting) bool { return len(names) == 0 || slices.Contains(names, s.Name) }, fromVariable)
}

// AddFlagsOf adds the flags of the settings that a process takes, and --config.
func AddFlagsOf(process string, flags *pflag.FlagSet) {
	addFlags(flags, func(s Setting) bool { return s.TakenBy(process) }, fromVariable)
}

// AddFlagsOnly is AddFlags for a command that leaves the environment alone: the help of its flags names no variable.
func AddFlagsOnly(flags *pflag.FlagSet, names ...string) {
	addFlags(flags, func(s Setting) bool { return slices.Contains(names, s.Name) }, func(string) string { return "" })
}

// fromVariable ends the help of a flag that has a variable, too.
func fromVariable(name string) string { return " (env " + name + ")" }

func addFlags(flags *pflag.FlagSet, wanted func(Setting) bool, variable func(name string) string) {
	flags.String("config", "", "YAML `FILE` of settings"+variable(configVariable)+"; none is read unless named")
	for _, s := range Settings() {
		if !wanted(s) {
			continue
		}
		v := &flagText{kind: s.Kind, text: s.Default}
		f := flags.VarPF(v, s.Flag(), "", strings.ReplaceAll(s.Doc, "`", "")+variable(s.Variable()))
		if s.Kind == "bool" {
			f.NoOptDefVal = "true"
		}
	}
}

// flagText keeps a flag as it was written: whether it is right is said later, together with all other mistakes.
type flagText struct {
	kind, text string
	// more takes what is given after the first time; nil where the last one counts.
	more  *[]string
	given bool
}

func (v *flagText) String() string { return v.text }
func (v *flagText) Type() string   { return v.kind }

func (v *flagText) Set(s string) error {
	if v.more != nil && v.given {
		*v.more = append(*v.more, s)
		return nil
	}
	v.text, v.given = s, true
	return nil
}

// Repeat lets a setting's flag be given several times: the first is the setting, more takes the others.
func Repeat(flags *pflag.FlagSet, name string, more *[]string) {
	if v, ours := flags.Lookup(name).Value.(*flagText); ours {
		v.more = more
	}
}

// LoadConfig reads the settings: flags before environment before file before default. Flags must be parsed, and may
// be nil. The error, of code ExitUsage, lists every mistake, and shows no secret.
//
// A variable or a key of the file that is empty counts as not given.
func LoadConfig(env Env, flags *pflag.FlagSet) (Config, error) {
	return loadConfig(env, flags, "", "`mainstay config print --help` lists every setting.")
}

// LoadConfigOf is LoadConfig for one process: settings that it does not take keep their defaults, whatever a file or
// an environment that is shared with other processes says of them.
func LoadConfigOf(process string, env Env, flags *pflag.FlagSet) (Config, error) {
	hint := "`" + process + " --help` lists its settings."
	if process == Serve {
		hint = "`mainstay serve --help` lists its settings."
	}
	return loadConfig(env, flags, process, hint)
}

func loadConfig(env Env, flags *pflag.FlagSet, process, hint string) (Config, error) {
	if flags == nil {
		flags = pflag.NewFlagSet("", pflag.ContinueOnError)
	}
	layers, errs := readLayers(env, flags)
	c := Config{process: process, origins: map[string]Origin{}}
	for _, s := range Settings() {
		from := layers
		if !c.Takes(s.Name) {
			from = nil
		}
		errs = append(errs, c.read(s, from))
	}
	if errors.Join(errs...) == nil { // else the rules would speak of values that nobody gave
		for _, check := range crossChecks() {
			errs = append(errs, check(c))
		}
		errs = append(errs, c.natsAccess()...)
	}
	return c, configError(errs, hint)
}

// loadOnly reads one setting as LoadConfig does, and makes nothing of the others.
func loadOnly(env Env, flags *pflag.FlagSet, name string) (Config, error) {
	layers, errs := readLayers(env, flags)
	c := Config{origins: map[string]Origin{}}
	for _, s := range Settings() {
		if s.Name == name {
			errs = append(errs, c.read(s, layers))
		}
	}
	return c, configError(errs, "`mainstay config print --help` lists every setting.")
}

// read takes a setting from the first of the layers that has it, or its default.
func (c *Config) read(s Setting, layers []layer) error {
	value, origin := s.Default, Origin{Kind: "default"}
	for _, l := range layers {
		if v, ok := l.value(s.Name); ok {
			value, origin = v, l.origin(s)
			break
		}
	}
	c.origins[s.Name] = origin
	if err := s.set(c, value); err != nil {
		return fmt.Errorf("%s: %w", origin.label(s.Name), err)
	}
	return nil
}

// Takes says whether the process that c is for takes the named setting; all are taken where it is for none.
func (c Config) Takes(name string) bool {
	return c.process == "" || slices.ContainsFunc(Settings(), func(s Setting) bool { return s.Name == name && s.TakenBy(c.process) })
}

// configError joins mistakes into one error of code ExitUsage; nil when there are none.
func configError(errs []error, hint string) error {
	errs = slices.DeleteFunc(errs, func(err error) bool { return err == nil })
	if len(errs) == 0 {
		return nil
	}
	err := errors.Join(errs...)
	if len(errs) > 1 {
		err = fmt.Errorf("%d mistakes in the configuration:\n%w", len(errs), err)
	}
	return &Error{Code: ExitUsage, Err: err, Hint: hint}
}

// layer is one source of settings.
type layer struct {
	kind string
	path string
	k    *koanf.Koanf
}

func (l layer) value(name string) (string, bool) {
	switch v := l.k.Get(name).(type) {
	case nil, []any, map[string]any: // readFile has refused the latter two
		return "", false
	case string:
		return v, v != "" || l.kind == "flag"
	default:
		return fmt.Sprint(v), true
	}
}

func (l layer) origin(s Setting) Origin {
	switch l.kind {
	case "flag":
		return Origin{Kind: l.kind, Name: "--" + s.Flag()}
	case "environment":
		return Origin{Kind: l.kind, Name: s.Variable()}
	default:
		return Origin{Kind: l.kind, Name: l.path}
	}
}

// readLayers reads the sources, the strongest first, with the mistakes that they have as a whole.
func readLayers(env Env, flags *pflag.FlagSet) ([]layer, []error) {
	fromFlags, fromEnv := koanf.New("."), koanf.New(".")
	errs := []error{
		fromFlags.Load(posflag.ProviderWithFlag(flags, ".", nil, changedFlag), nil),
		fromEnv.Load(envProvider(env), nil),
	}
	layers := []layer{{kind: "flag", k: fromFlags}, {kind: "environment", k: fromEnv}}
	path := env.Getenv(configVariable)
	if f := flags.Lookup("config"); f != nil && f.Changed {
		path = f.Value.String()
	}
	if path == "" {
		return layers, errs
	}
	fromFile, fileErrs := readFile(path)
	return append(layers, layer{kind: "file", path: path, k: fromFile}), append(errs, fileErrs...)
}

func changedFlag(f *pflag.Flag) (string, any) {
	if _, ours := f.Value.(*flagText); !ours || !f.Changed {
		return "", nil
	}
	return strings.ReplaceAll(f.Name, "-", "_"), f.Value.String()
}

// envProvider asks for the variables of the table only: others with the same prefix may belong to anybody.
func envProvider(e Env) koanf.Provider {
	return env.Provider(".", env.Opt{
		EnvironFunc: func() []string {
			var vars []string
			for _, s := range Settings() {
				vars = append(vars, s.Name+"="+e.Getenv(s.Variable()))
			}
			return vars
		},
	})
}

// readFile reads a YAML file and refuses keys that are no settings.
func readFile(path string) (*koanf.Koanf, []error) {
	k := koanf.New(".")
	if err := k.Load(file.Provider(path), yaml.Parser()); err != nil {
		return k, []error{fileError(path, err)}
	}
	var names []string
	for _, s := range Settings() {
		names = append(names, s.Name)
	}
	var errs []error
	for _, key := range k.Keys() {
		if !slices.Contains(names, key) {
			errs = append(errs, fmt.Errorf("%s: %s: there is no such setting%s", path, key, didYouMean(key, names)))
		} else if _, list := k.Get(key).([]any); list {
			errs = append(errs, fmt.Errorf("%s: %s: must be one value, not a list", path, key))
		}
	}
	return k, errs
}

func fileError(path string, err error) error {
	var onDisk *fs.PathError
	if errors.As(err, &onDisk) {
		if errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("%s: there is no such file", path)
		}
		return fmt.Errorf("%s: %w", path, onDisk.Err)
	}
	return fmt.Errorf("%s: not a YAML file of settings: %w", path, err)
}
