package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// Result is what a run has measured, and on what.
type Result struct {
	// Work is what was measured: "order"; Unit the plural of an operation: "orders". LatencyOf says of what Latency
	// is.
	Work      string `json:"work"`
	Unit      string `json:"unit"`
	LatencyOf string `json:"latency_of"`
	// Load says how the operations were offered, in words; Config has every setting of the run and of the system.
	Load   string            `json:"load"`
	Config map[string]string `json:"config"`

	// Seconds is how long it was measured, Operations how many ended well meanwhile.
	Seconds    float64 `json:"seconds"`
	Operations int64   `json:"operations"`
	PerSecond  float64 `json:"per_second"`
	// TooShort says that PerSecond, and what an operation has used, tell nothing: it was over in no time.
	TooShort bool `json:"too_short,omitempty"`
	// Latency is of operations that began while it was measured; nil when there were none. Accepted is the first part
	// of it, up to the answer, of operations that go on after that.
	Latency  *Latency `json:"latency,omitempty"`
	Accepted *Latency `json:"accepted,omitempty"`

	// Begun, Good, Retries and Faults count all operations, those of the warm-up included.
	Begun   int64            `json:"begun"`
	Good    int64            `json:"good"`
	Retries int64            `json:"retries"`
	Faults  map[string]int64 `json:"faults"`
	// Interrupted says that a signal ended the run before its time.
	Interrupted bool `json:"interrupted"`

	Used    []Used  `json:"used"`
	Machine Machine `json:"machine"`
}

func (r *run) result(interrupted bool) Result {
	t := r.rec.tally()
	res := Result{
		Load: r.load.String(), Seconds: max(r.window, 0).Seconds(), Operations: t.inWindow, Begun: t.begun, Good: t.good, Retries: t.retries,
		Faults: t.faults, Interrupted: interrupted, Latency: latencyOf(r.rec.ended), Accepted: latencyOf(r.rec.accepted),
	}
	res.Finish(r.usage)
	return res
}

// tellingSeconds is how long must be measured for a rate to tell anything: a process's use of the CPU is counted in
// hundredths of a second, and what is done in one piece takes milliseconds.
const tellingSeconds = 0.1

// Finish computes what follows from Operations and Seconds, and what each operation has used; all of it is rounded to
// what can be known.
func (r *Result) Finish(u Usage) {
	r.Seconds, r.TooShort = decimals(r.Seconds, 6), r.Seconds < tellingSeconds
	if r.Seconds > 0 {
		r.PerSecond = decimals(float64(r.Operations)/r.Seconds, 2)
	}
	for i := range u {
		u[i].CPUSeconds = decimals(u[i].CPUSeconds, 6)
		if r.Operations > 0 {
			u[i].MicrosPerOperation = decimals(u[i].CPUSeconds*1e6/float64(r.Operations), 1)
		}
	}
	r.Used = u
}

// decimals rounds v to so many digits behind the point.
func decimals(v float64, digits int) float64 {
	unit := math.Pow10(digits)
	return math.Round(v*unit) / unit
}

// Sound says whether the run tells something: operations ended, and each of those that began ended well.
func (r *Result) Sound() bool { return r.Operations > 0 && r.Bad() == 0 }

// Bad counts the operations that failed or are unfinished; those that a signal cut short are neither.
func (r *Result) Bad() (n int64) {
	for kind, count := range r.Faults {
		if kind != kindInterrupted {
			n += count
		}
	}
	return n
}

// String says in words how operations are offered.
func (l Load) String() string {
	switch {
	case l.Rate > 0:
		return fmt.Sprintf("%g a second, at most %s unfinished", l.Rate, grouped(int64(l.Unfinished)))
	case l.Unfinished > 0:
		return fmt.Sprintf("%d clients that post on, at most %s unfinished", l.Clients, grouped(int64(l.Unfinished)))
	default:
		return fmt.Sprintf("%d clients that each wait", l.Clients)
	}
}

// WriteJSON writes the whole result.
func (r *Result) WriteJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}

// WriteTable writes the result for people.
func (r *Result) WriteTable(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\n", r.Work, r.Load)
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, name := range slices.Sorted(maps.Keys(r.Config)) {
		fmt.Fprintf(t, "  %s\t%s\n", name, r.Config[name])
	}
	_ = t.Flush() // into memory
	b.WriteString("\n")
	t = tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "throughput\t%s\n", r.throughput())
	fmt.Fprintf(t, "errors\t%s\n", r.faults())
	fmt.Fprintf(t, "retries\t%s\n", grouped(r.Retries))
	_ = t.Flush()
	r.writeLatency(&b)
	r.writeUsed(&b)
	fmt.Fprintf(&b, "\nmachine  %s\n", r.Machine)
	if r.Interrupted {
		b.WriteString("interrupted: what was measured up to then\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (r *Result) throughput() string {
	if r.TooShort {
		return fmt.Sprintf("too short to tell  (%s %s in %s ms)", grouped(r.Operations), r.Unit, strconv.FormatFloat(r.Seconds*1e3, 'f', 1, 64))
	}
	return fmt.Sprintf("%s %s/s  (%s in %.1f s)", rounded(r.PerSecond), r.Unit, grouped(r.Operations), r.Seconds)
}

func (r *Result) writeLatency(b *strings.Builder) {
	if r.Latency == nil && r.Accepted == nil {
		return
	}
	b.WriteString("\n")
	t := tabwriter.NewWriter(b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(t, "ms\tp50\tp90\tp95\tp99\tp99.9\tmax\t\n")
	for _, row := range []struct {
		name string
		of   *Latency
	}{{"accepted", r.Accepted}, {r.LatencyOf, r.Latency}} {
		if l := row.of; l != nil {
			fmt.Fprintf(t, "%s\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t\n", row.name, l.P50, l.P90, l.P95, l.P99, l.P999, l.Max)
		}
	}
	_ = t.Flush()
}

func (r *Result) writeUsed(b *strings.Builder) {
	if len(r.Used) == 0 {
		return
	}
	b.WriteString("\n")
	t := tabwriter.NewWriter(b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(t, "process\tCPU s\tCPU µs each\tRSS MB\t\n")
	for _, u := range r.Used {
		each := u.unless("%.0f", u.MicrosPerOperation)
		if r.TooShort {
			each = "-"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t\n", u.Name, u.unless("%.2f", u.CPUSeconds), each, memory(u.RSSBytes))
	}
	_ = t.Flush()
}

// faults lists what went wrong by kind, the most frequent first.
func (r *Result) faults() string {
	if len(r.Faults) == 0 {
		return "none"
	}
	kinds := slices.SortedFunc(maps.Keys(r.Faults), func(a, b string) int {
		if r.Faults[a] != r.Faults[b] {
			return int(r.Faults[b] - r.Faults[a])
		}
		return strings.Compare(a, b)
	})
	for i, kind := range kinds {
		kinds[i] = grouped(r.Faults[kind]) + " " + kind
	}
	return strings.Join(kinds, ", ")
}

// grouped writes a number with its thousands apart: 12,345.
func grouped(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// rounded writes a rate: whole where it is large.
func rounded(v float64) string {
	if v < 100 {
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return grouped(int64(v + 0.5))
}

func memory(bytes int64) string {
	if bytes == 0 {
		return "-"
	}
	return strconv.FormatFloat(float64(bytes)/1e6, 'f', 0, 64)
}

// Seconds writes a duration as the report does.
func Seconds(d time.Duration) string { return strconv.FormatFloat(d.Seconds(), 'f', -1, 64) + " s" }
