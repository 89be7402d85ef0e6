package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// Sample is what a process has used so far.
type Sample struct {
	CPUSeconds float64
	// RSSBytes is its resident memory now, 0 where that says nothing.
	RSSBytes int64
}

// Source is a process, or several that belong together, whose use can be read.
type Source struct {
	Name string
	Read func(ctx context.Context) (Sample, error)
}

// Meter reads what processes use.
type Meter struct{ Sources []Source }

// Used is what one source has used while it was measured.
type Used struct {
	Name string `json:"name"`
	// Known is false where it could not be read.
	Known              bool    `json:"known"`
	CPUSeconds         float64 `json:"cpu_seconds"`
	MicrosPerOperation float64 `json:"cpu_micros_per_operation"`
	RSSBytes           int64   `json:"rss_bytes,omitempty"`
}

// unless formats v, or "-" when nothing is known.
func (u Used) unless(format string, v float64) string {
	if !u.Known {
		return "-"
	}
	return fmt.Sprintf(format, v)
}

// Usage is what every source has used.
type Usage []Used

// readPatience bounds the reading of one source.
const readPatience = 2 * time.Second

// Read reads all sources; one that cannot be read is not known.
func (m *Meter) Read(ctx context.Context) Usage { return m.read(ctx) }

func (m *Meter) read(ctx context.Context) Usage {
	if m == nil {
		return nil
	}
	u := make(Usage, len(m.Sources))
	for i, s := range m.Sources {
		ctx, cancel := context.WithTimeout(ctx, readPatience)
		sample, err := s.Read(ctx)
		cancel()
		u[i] = Used{Name: s.Name, Known: err == nil, CPUSeconds: sample.CPUSeconds, RSSBytes: sample.RSSBytes}
	}
	return u
}

// Since is what was used after an earlier reading of the same meter.
func (u Usage) Since(before Usage) Usage { return u.since(before) }

func (u Usage) since(before Usage) Usage {
	if len(u) != len(before) {
		return u
	}
	for i := range u {
		u[i].Known = u[i].Known && before[i].Known
		u[i].CPUSeconds -= before[i].CPUSeconds
	}
	return u
}

// ThisProcess is the process that measures.
func ThisProcess(name string) Source {
	return Source{name, func(context.Context) (Sample, error) { return ReadProcess(os.Getpid(), false) }}
}

// Metrics is a process that serves its metrics at the base URL of an operator's address.
func Metrics(name, ops string) Source {
	return Source{name, func(ctx context.Context) (Sample, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(ops, "/")+"/metrics", nil)
		if err != nil {
			return Sample{}, err
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return Sample{}, err
		}
		defer res.Body.Close()
		return parseMetrics(io.LimitReader(res.Body, 8<<20))
	}}
}

// parseMetrics finds what every process tells of itself in Prometheus' text format.
func parseMetrics(r io.Reader) (s Sample, err error) {
	found := false
	for lines := bufio.NewScanner(r); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), " ")
		v, bad := strconv.ParseFloat(value, 64)
		switch {
		case bad != nil:
		case name == "process_cpu_seconds_total":
			s.CPUSeconds, found = v, true
		case name == "process_resident_memory_bytes":
			s.RSSBytes = int64(v)
		}
	}
	if !found {
		err = errors.New("the metrics do not say what CPU the process has used")
	}
	return s, err
}

// ticksPerSecond is the unit of CPU times in /proc on every Linux that Go runs on.
const ticksPerSecond = 100

// ReadProcess reads what a process of this machine has used, with the children that it has waited for where asked.
// It works on Linux only.
func ReadProcess(pid int, children bool) (Sample, error) {
	stat, err := readStat(pid)
	if err != nil {
		return Sample{}, err
	}
	s := Sample{CPUSeconds: stat.number(13) + stat.number(14), RSSBytes: int64(stat.number(23)) * int64(os.Getpagesize())}
	if children {
		s.CPUSeconds += stat.number(15) + stat.number(16)
	}
	s.CPUSeconds /= ticksPerSecond
	return s, nil
}

// processStat is the line of /proc/PID/stat, with the name, which may hold anything, apart.
type processStat struct {
	name   string
	fields []string // from the state on
}

func readStat(pid int) (processStat, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return processStat{}, err
	}
	return parseStat(string(text))
}

func parseStat(line string) (processStat, error) {
	from, to := strings.IndexByte(line, '('), strings.LastIndexByte(line, ')')
	if from < 0 || to < from {
		return processStat{}, errors.New("reading the state of a process: it has no name")
	}
	return processStat{line[from+1 : to], strings.Fields(line[to+1:])}, nil
}

// number gives a field by its place in proc(5), counted from 0; the fields here begin at 2.
func (s processStat) number(place int) float64 {
	if place-2 >= len(s.fields) {
		return 0
	}
	v, err := strconv.ParseFloat(s.fields[place-2], 64)
	if err != nil {
		return 0
	}
	return v
}

// Family is a process of this machine that is found by one of its children: a database server by one of its backends.
// The name is what both are called. It works on Linux only; anywhere else, and for a process of another machine that
// has the same number, nothing is known.
func Family(title, name string, child int) Source {
	return Source{title, func(context.Context) (Sample, error) {
		stat, err := readStat(child)
		if err != nil {
			return Sample{}, err
		}
		parent := int(stat.number(3))
		if head, err := readStat(parent); err != nil || head.name != name || stat.name != name {
			return Sample{}, fmt.Errorf("process %d is no %s of this machine", child, name)
		}
		return sumFamily(parent)
	}}
}

// sumFamily adds up a process, what it has waited for, and its living children. Resident memory is left out: it is
// shared by all of them.
func sumFamily(parent int) (Sample, error) {
	sum, err := ReadProcess(parent, true)
	if err != nil {
		return Sample{}, err
	}
	sum.RSSBytes = 0
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return Sample{}, err
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := readStat(pid)
		if err != nil || int(stat.number(3)) != parent {
			continue // it has gone, or is another's
		}
		if s, err := ReadProcess(pid, false); err == nil {
			sum.CPUSeconds += s.CPUSeconds
		}
	}
	return sum, nil
}
