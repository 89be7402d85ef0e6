package bench

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"strings"

	"github.com/mainstay-io/mainstay/internal/app"
)

// Machine is what the figures depend on.
type Machine struct {
	CPU      string    `json:"cpu"`
	Cores    int       `json:"cores"`
	MemoryMB int64     `json:"memory_mb,omitempty"`
	Kernel   string    `json:"kernel,omitempty"`
	Build    app.Build `json:"build"`
}

// ThisMachine is the machine that measures; what the system does not tell is empty.
func ThisMachine() Machine {
	m := Machine{CPU: field("/proc/cpuinfo", "model name"), Cores: runtime.NumCPU(), Build: app.ThisBuild()}
	if kernel, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.Kernel = strings.TrimSpace(string(kernel))
	}
	var kilobytes int64
	if _, err := fmt.Sscan(field("/proc/meminfo", "MemTotal"), &kilobytes); err == nil {
		m.MemoryMB = kilobytes / 1000
	}
	if m.CPU == "" {
		m.CPU = runtime.GOARCH
	}
	return m
}

// String is the machine in a line.
func (m Machine) String() string {
	s := fmt.Sprintf("%s, %d cores", m.CPU, m.Cores)
	if m.MemoryMB > 0 {
		s += fmt.Sprintf(", %d MB", m.MemoryMB)
	}
	if m.Kernel != "" {
		s += ", kernel " + m.Kernel
	}
	return s + fmt.Sprintf(", %s %s, mainstay %s %s", m.Build.Go, m.Build.Platform, m.Build.Version, m.Build.Revision)
}

// field is the value of the first line of a file of the form "name : value".
func field(file, name string) string {
	f, err := os.Open(file)
	if err != nil {
		return ""
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if key, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
