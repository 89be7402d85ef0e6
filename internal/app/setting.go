package app

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Setting is one line of the table of settings.
type Setting struct {
	// Name is the key in the file: lower case with underscores.
	Name string
	// Kind is "text", "bool", "number" or "duration".
	Kind string
	// Default is the value, as text, where nobody says otherwise.
	Default string
	// Doc is what it means, for people.
	Doc string
	// Secret says that the value may hold a password, and is never shown in full.
	Secret bool
	// Processes are those that take it.
	Processes []string

	set  func(c *Config, value string) error
	show func(c Config) string
}

// TakenBy says whether a process takes the setting.
func (s Setting) TakenBy(process string) bool { return slices.Contains(s.Processes, process) }

// Flag is the name on the command line, without the dashes.
func (s Setting) Flag() string { return strings.ReplaceAll(s.Name, "_", "-") }

// Variable is the name in the environment.
func (s Setting) Variable() string { return "MAINSTAY_" + strings.ToUpper(s.Name) }

// Value is the setting's value in c as text, without its secrets.
func (s Setting) Value(c Config) string {
	if s.Secret {
		return Redact(s.show(c))
	}
	return s.show(c)
}

// setting makes a line whose value is parsed by parse, checked by checks, and stored where field points to.
func setting[T any](kind, name, value, doc string, field func(*Config) *T, parse func(string) (T, error), format func(T) string, checks []func(T) error) Setting {
	return Setting{
		Name: name, Kind: kind, Default: value, Doc: doc, Processes: []string{Serve},
		set: func(c *Config, text string) error {
			v, err := parse(text)
			if err != nil {
				return err
			}
			for _, check := range checks {
				if err := check(v); err != nil {
					return err
				}
			}
			*field(c) = v
			return nil
		},
		show: func(c Config) string { return format(*field(&c)) },
	}
}

// also says which processes take the setting beside `serve`.
func (s Setting) also(processes ...string) Setting {
	s.Processes = append(slices.Clone(s.Processes), processes...)
	return s
}

// only says that one process takes the setting, and no other.
func (s Setting) only(process string) Setting {
	s.Processes = []string{process}
	return s
}

func text(name, value, doc string, field func(*Config) *string, checks ...func(string) error) Setting {
	same := func(s string) string { return s }
	return setting("text", name, value, doc, field, func(s string) (string, error) { return s, nil }, same, checks)
}

func secret(name, value, doc string, field func(*Config) *string, checks ...func(string) error) Setting {
	s := text(name, value, doc, field, checks...)
	s.Secret = true
	return s
}

func boolean(name string, value bool, doc string, field func(*Config) *bool) Setting {
	parse := func(s string) (bool, error) {
		v, err := strconv.ParseBool(s)
		if err != nil {
			return false, errors.New("must be true or false")
		}
		return v, nil
	}
	return setting("bool", name, strconv.FormatBool(value), doc, field, parse, strconv.FormatBool, nil)
}

func number(name string, value int, doc string, field func(*Config) *int, checks ...func(int) error) Setting {
	parse := func(s string) (int, error) {
		v, err := strconv.Atoi(s)
		if err != nil {
			return 0, errors.New("must be a whole number")
		}
		return v, nil
	}
	return setting("number", name, strconv.Itoa(value), doc, field, parse, strconv.Itoa, checks)
}

func duration(name string, value time.Duration, doc string, field func(*Config) *time.Duration, checks ...func(time.Duration) error) Setting {
	parse := func(s string) (time.Duration, error) {
		v, err := time.ParseDuration(s)
		if err != nil {
			return 0, errors.New("must be a duration such as 500ms, 20s or 24h")
		}
		return v, nil
	}
	return setting("duration", name, value.String(), doc, field, parse, time.Duration.String, checks)
}

// Checks of values. Their messages never repeat the value, which may be a secret.

func notEmpty(s string) error {
	if s == "" {
		return errors.New("must not be empty")
	}
	return nil
}

func hostPort(s string) error {
	_, port, err := net.SplitHostPort(s)
	if err != nil {
		return errors.New("must be HOST:PORT, as 127.0.0.1:8080")
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n > 65535 {
		return errors.New("must have a port from 0 to 65535")
	}
	return nil
}

func oneOf(words ...string) func(string) error {
	return func(s string) error {
		if slices.Contains(words, s) {
			return nil
		}
		return fmt.Errorf("must be one of %s%s", strings.Join(words, ", "), didYouMean(s, words))
	}
}

// listOf accepts a list, separated by commas, of the words.
func listOf(words ...string) func(string) error {
	return func(s string) error {
		for _, one := range SplitList(s) {
			if !slices.Contains(words, one) {
				return fmt.Errorf("must be a list of %s%s", strings.Join(words, ", "), didYouMean(one, words))
			}
		}
		return nil
	}
}

// SplitList splits a list at its commas; nil when it is empty.
func SplitList(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' })
}

// schemes accepts "", a bare word of the lists, or URLs, separated by commas, whose scheme is of them. What serve alone
// takes gets through to the rules that say why another process does not take it, but no other process offers it.
func (s Setting) schemes(all []string, alone ...string) Setting {
	set, known := s.set, slices.Concat(all, alone)
	s.set = func(c *Config, value string) error {
		if !hasScheme(value, known) {
			offered := all
			if c.process == "" || c.process == Serve {
				offered = known
			}
			return fmt.Errorf("must begin with one of %s", strings.Join(offered, ", "))
		}
		return set(c, value)
	}
	return s
}

func hasScheme(s string, words []string) bool {
	if s == "" || slices.Contains(words, s) {
		return true
	}
	return !slices.ContainsFunc(splitURLs(s), func(one string) bool {
		scheme, _, found := strings.Cut(one, ":")
		return !found || !slices.Contains(words, scheme)
	})
}

// encodedUser refuses URLs with one of these characters, as it is, in the user's name or password: a library would take
// a part of the password for something else, and name it in its errors.
func encodedUser(special string) func(string) error {
	return func(s string) error {
		for _, one := range splitURLs(s) {
			_, rest, _ := strings.Cut(one, "://")
			if end := strings.LastIndex(rest, "@"); end >= 0 && strings.ContainsAny(rest[:end], special) {
				return errors.New("has a special character in the user or password: write it percent-encoded ('@' is %40, '/' is %2F)")
			}
		}
		return nil
	}
}

func between[T cmp.Ordered](low, high T) func(T) error {
	return func(v T) error {
		if v < low || v > high {
			return fmt.Errorf("must be between %v and %v", low, high)
		}
		return nil
	}
}

// needs answers nil when ok, else an error about the named setting that says where its value comes from.
func (c Config) needs(ok bool, name, format string, args ...any) error {
	if ok {
		return nil
	}
	return fmt.Errorf("%s: %s", c.Origin(name).label(name), fmt.Sprintf(format, args...))
}

// reachable refuses an address that other machines can reach, and where strangers could do what, unless that was
// asked for.
func (c Config) reachable(name, addr, what string) error {
	return c.needs(c.AllowUnauthenticated || isLoopback(addr), name,
		"%s can be reached by other machines, and nobody who calls is asked who they are: "+
			"anyone could %s; give --allow-unauthenticated if the network keeps strangers out", addr, what)
}

func isLoopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || (ip != nil && ip.IsLoopback())
}

func portOf(addr string) string {
	_, port, _ := net.SplitHostPort(addr)
	return port
}
