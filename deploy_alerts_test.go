package mainstay_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// alertFile is a file of alerts as far as it is used; a key that is not here is refused.
type alertFile struct {
	Groups []struct {
		Name  string      `yaml:"name"`
		Rules []alertRule `yaml:"rules"`
	} `yaml:"groups"`
}

type alertRule struct {
	Alert       string            `yaml:"alert"`
	Expr        string            `yaml:"expr"`
	For         string            `yaml:"for"`
	Labels      map[string]string `yaml:"labels"`
	Annotations map[string]string `yaml:"annotations"`
}

var (
	metricLine  = regexp.MustCompile("(?m)^\\| `(mainstay_\\w+)` \\| \\w+ \\| ([^|]*) \\|")
	quotedText  = regexp.MustCompile(`"[^"]*"`)
	promWord    = regexp.MustCompile(`[a-z_]\w*`)
	labelInText = regexp.MustCompile(`\$labels\.(\w+)`)
)

// alerts wants each rule to be of metrics and labels that the code exports, and to be explained.
func (r *review) alerts(text string) {
	var all alertFile
	dec := yaml.NewDecoder(strings.NewReader(text))
	dec.KnownFields(true)
	if err := dec.Decode(&all); err != nil {
		r.want(false, "deploy/alerts.yml: %v", err)
		return
	}
	guide, err := os.ReadFile("docs/guides/alerts.md")
	r.want(err == nil, "alerts: %v", err)
	metrics := exported()
	r.want(len(metrics) > 30, "alerts: the reference has %d metrics", len(metrics))
	seen := map[string]bool{}
	for _, group := range all.Groups {
		for _, a := range group.Rules {
			r.want(!seen[a.Alert], "%s: stands twice", a.Alert)
			seen[a.Alert] = true
			r.want(strings.Contains(string(guide), "\n## "+a.Alert+"\n"), "docs/guides/alerts.md does not say what %s means", a.Alert)
			r.alert(a, metrics)
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^## (\w+)$`).FindAllStringSubmatch(string(guide), -1) {
		r.want(seen[m[1]], "docs/guides/alerts.md explains %s, which is no alert", m[1])
	}
}

// exported are the labels of every metric that the reference has, which is held to the code; and of up, which
// Prometheus makes.
func exported() map[string][]string {
	metrics := map[string][]string{"up": nil}
	text, _ := os.ReadFile("docs/reference/metrics.md") // whoever calls counts them
	for _, m := range metricLine.FindAllStringSubmatch(string(text), -1) {
		metrics[m[1]] = strings.FieldsFunc(m[2], func(r rune) bool { return strings.ContainsRune("`, ", r) })
	}
	return metrics
}

func (r *review) alert(a alertRule, metrics map[string][]string) {
	labels, words := []string{"job", "instance"}, promWord.FindAllString(quotedText.ReplaceAllString(a.Expr, ""), -1)
	for _, word := range words {
		labels = append(labels, metrics[word]...)
	}
	for _, word := range words {
		_, isMetric := metrics[word]
		known := isMetric || slices.Contains(labels, word) || slices.Contains([]string{"max", "min", "by", "or", "absent"}, word)
		r.want(known, "%s: no metric has a name or a label %s", a.Alert, word)
	}
	for _, m := range labelInText.FindAllStringSubmatch(a.Annotations["summary"], -1) {
		r.want(slices.Contains(labels, m[1]), "%s: has no label %s", a.Alert, m[1])
	}
	for _, pair := range []string{"()", "{}", "[]"} {
		r.want(strings.Count(a.Expr, pair[:1]) == strings.Count(a.Expr, pair[1:]), "%s: brackets that do not match: %s", a.Alert, a.Expr)
	}
	_, err := time.ParseDuration(a.For)
	r.want(a.For == "" || err == nil, "%s: for %s", a.Alert, a.For)
	r.want(a.Annotations["summary"] != "", "%s: has no summary", a.Alert)
	r.want(slices.Contains([]string{"warning", "critical"}, a.Labels["severity"]), "%s: severity %s", a.Alert, a.Labels["severity"])
}
