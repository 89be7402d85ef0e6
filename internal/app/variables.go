package app

import (
	"cmp"
	"regexp"
	"slices"
	"strings"
)

// variablePrefix begins the name of every variable of ours.
const variablePrefix = "MAINSTAY_"

// urlVariable is the server's address for `mainstay order`, which is no setting.
const urlVariable = "MAINSTAY_URL"

// ofKubernetes are variables that Kubernetes adds for a service that is called mainstay.
var ofKubernetes = regexp.MustCompile(`_(SERVICE_HOST|SERVICE_PORT|PORT)(_|$)`)

// UnknownVariable is a variable that looks like a setting and is none, so that it changes nothing.
type UnknownVariable struct {
	Name string
	// Nearest is the variable that was probably meant, or "".
	Nearest string
}

// String says it to people, in one line.
func (v UnknownVariable) String() string {
	s := v.Name + " is not a variable of Mainstay and changes nothing"
	if v.Nearest != "" {
		s += "; did you mean " + v.Nearest + "?"
	}
	return s
}

// UnknownVariables finds what was probably misspelled in the environment, by name. It is worth a warning and no more:
// anybody may use the prefix.
func UnknownVariables(env Env) []UnknownVariable {
	if env.Environ == nil {
		return nil
	}
	known := []string{configVariable, urlVariable}
	for _, s := range Settings() {
		known = append(known, s.Variable())
	}
	var unknown []UnknownVariable
	for _, pair := range env.Environ() {
		name, _, _ := strings.Cut(pair, "=")
		if strings.HasPrefix(name, variablePrefix) && !slices.Contains(known, name) && !ofKubernetes.MatchString(name) {
			unknown = append(unknown, UnknownVariable{Name: name, Nearest: nearestVariable(name, known)})
		}
	}
	slices.SortFunc(unknown, func(a, b UnknownVariable) int { return cmp.Compare(a.Name, b.Name) })
	return unknown
}

// nearestVariable compares names without the prefix, which all of them share.
func nearestVariable(name string, known []string) string {
	var words []string
	for _, k := range known {
		words = append(words, strings.TrimPrefix(k, variablePrefix))
	}
	if n := nearest(strings.TrimPrefix(name, variablePrefix), words); n != "" {
		return variablePrefix + n
	}
	return ""
}
