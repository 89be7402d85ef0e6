package app

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// Build says which build a program is.
type Build struct {
	// Version is the module's version; "(devel)" of a checkout.
	Version string `json:"version"`
	// Revision is the commit, with "+dirty" when the checkout had changes; "unknown" when it was not recorded.
	Revision string `json:"revision"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

// Line is the build of the named program in one line, as --version prints it.
func (b Build) Line(program string) string {
	return fmt.Sprintf("%s %s (%s, %s, %s)\n", program, b.Version, b.Revision, b.Go, b.Platform)
}

// ThisBuild is the running program's build, as the linker recorded it.
func ThisBuild() Build {
	b := Build{Version: "(devel)", Revision: "unknown", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	if info.Main.Version != "" {
		b.Version = info.Main.Version
	}
	settings := map[string]string{}
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}
	if revision := settings["vcs.revision"]; revision != "" {
		b.Revision = revision
		if settings["vcs.modified"] == "true" {
			b.Revision += "+dirty"
		}
	}
	return b
}
