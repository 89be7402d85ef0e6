package mainstay_test

import (
	"os"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/mainstay-io/mainstay/internal/app"
)

// stage is a part of a Dockerfile: its name, what it is built from, and its other instructions, one to a line.
type stage struct {
	name, from string
	lines      []string
}

// words are the arguments of all instructions of a kind.
func (s stage) words(kind string) []string {
	var out []string
	for _, line := range s.lines {
		if rest, ok := strings.CutPrefix(line, kind+" "); ok {
			out = append(out, strings.Fields(rest)...)
		}
	}
	return out
}

func parseDockerfile(text string) []stage {
	var stages []stage
	text = regexp.MustCompile(`(?m)^#.*\n`).ReplaceAllString(text, "")
	text = regexp.MustCompile(`\s*\\\n\s*`).ReplaceAllString(text, " ")
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		switch {
		case len(words) == 0:
		case words[0] == "FROM":
			words = slices.DeleteFunc(words, func(w string) bool { return strings.HasPrefix(w, "--") })
			if len(words) == 4 && words[2] == "AS" {
				stages = append(stages, stage{name: words[3], from: words[1]})
			}
		case len(stages) > 0:
			last := &stages[len(stages)-1]
			last.lines = append(last.lines, strings.Join(words, " "))
		}
	}
	return stages
}

// targets wants each image to be a static binary of this repository on nothing, for a user without a name.
func (r *review) targets() {
	for _, name := range []string{app.Ingest, app.Outbox, app.Worker, "mainstay"} {
		at := slices.IndexFunc(r.stages, func(s stage) bool { return s.name == name })
		if at < 0 {
			r.want(false, "the Dockerfile has no target %s", name)
			continue
		}
		s := r.stages[at]
		below := slices.IndexFunc(r.stages, func(b stage) bool { return b.name == s.from })
		if below < 0 || r.stages[below].from != "scratch" {
			r.want(false, "%s: is not built on scratch", name)
			continue
		}
		_, err := os.Stat(path.Join("cmd", name, "main.go"))
		r.want(err == nil, "%s: there is no cmd/%s", name, name)
		r.want(slices.Contains(s.lines, "COPY --from=build /out/"+name+" /") && slices.Contains(s.lines, `ENTRYPOINT ["/`+name+`"]`), "%s: does not start its binary", name)
		all := strings.Join(slices.Concat(r.stages[below].lines, s.lines), "\n")
		r.want(regexp.MustCompile(`(?m)^USER [1-9]\d*:[1-9]\d*$`).MatchString(all), "%s: does not run as a numbered user", name)
		r.want(strings.Contains(all, "/etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/"), "%s: has no certificates", name)
		r.want(!regexp.MustCompile(`(?m)^(RUN|CMD|ENTRYPOINT [^\[]|SHELL)`).MatchString(all), "%s: needs a shell", name)
		for _, env := range s.words("ENV") {
			variable, _, _ := strings.Cut(env, "=")
			r.want(slices.ContainsFunc(app.Settings(), func(s app.Setting) bool { return s.Variable() == variable }), "%s: there is no variable %s", name, variable)
		}
	}
	r.building()
}

// building wants the binaries to be made as scripts/image-size measures them, by the version of Go that go.mod has.
func (r *review) building() {
	gomod, err := os.ReadFile("go.mod")
	v := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindSubmatch(gomod)
	if err != nil || v == nil || len(r.stages) == 0 {
		r.want(false, "go.mod or the Dockerfile cannot be read")
		return
	}
	r.want(r.stages[0].from == "golang:"+string(v[1]), "the Dockerfile builds with %s, go.mod has %s", r.stages[0].from, v[1])
	measured, err := os.ReadFile("scripts/image-size")
	r.want(err == nil && strings.Contains(string(measured), "\nflags=(-trimpath -ldflags=-s)\n"), "scripts/image-size measures other binaries")
	all := strings.Join(r.stages[0].lines, "\n")
	for _, part := range []string{"CGO_ENABLED=0", "go build -trimpath -ldflags=-s -o /out/", "./cmd/ingest ./cmd/outbox ./cmd/worker ./cmd/mainstay"} {
		r.want(strings.Contains(all, part), "the Dockerfile does not build with %s", part)
	}
}
