package main

import (
	"encoding/json"
	"fmt"
	"io"
	"runtime/debug"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/mainstay-io/mainstay/internal/bench"
)

// report is everything that was measured, and on what.
type report struct {
	Contests []outcome         `json:"contests"`
	Rounds   int               `json:"rounds"`
	Sync     string            `json:"nats_sync"`
	Payload  int               `json:"payload_bytes"`
	Postgres string            `json:"postgres"`
	Versions map[string]string `json:"versions"`
	Machine  bench.Machine     `json:"machine"`
}

// outcome is one contest.
type outcome struct {
	Name  string   `json:"name"`
	Unit  string   `json:"unit"`
	Sides []result `json:"sides"`
}

// result is one side, in operations per second.
type result struct {
	Name     string    `json:"name"`
	Settings string    `json:"settings"`
	Median   float64   `json:"median"`
	Least    float64   `json:"least"`
	Most     float64   `json:"most"`
	Rounds   []float64 `json:"rounds"`
	// OursToThis is the first side's median by this one's.
	OursToThis float64 `json:"ours_to_this"`
}

func newReport(o options, w *world) *report {
	sync := map[bool]string{true: "lazy", false: "always"}[o.lazy]
	return &report{Rounds: o.rounds, Sync: sync, Payload: payload, Postgres: w.postgresVersion(), Versions: versions(), Machine: bench.ThisMachine()}
}

// versions are those of the peers, as they were linked.
func versions() map[string]string {
	peers := []string{
		"github.com/riverqueue/river", "github.com/ThreeDotsLabs/watermill", "github.com/ThreeDotsLabs/watermill-sql/v3", "github.com/jackc/pgx/v5",
		"github.com/nats-io/nats.go", "github.com/nats-io/nats-server/v2", "github.com/synadia-io/orbit.go/jetstreamext",
	}
	found := map[string]string{}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, d := range info.Deps {
			if slices.Contains(peers, d.Path) {
				found[d.Path] = d.Version
			}
		}
	}
	return found
}

func (r *report) write(w io.Writer, asJSON bool) error {
	if asJSON {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(r)
	}
	var b strings.Builder
	for _, c := range r.Contests {
		t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
		fmt.Fprintf(t, "%s\t%s/s\tspread\tours/this\t\n", c.Name, c.Unit)
		for _, s := range c.Sides {
			fmt.Fprintf(t, "  %s\t%.0f\t%.0f-%.0f\t%.2f\t%s\n", s.Name, s.Median, s.Least, s.Most, s.OursToThis, s.Settings)
		}
		_ = t.Flush() // into memory
		b.WriteString("\n")
	}
	fmt.Fprintf(&b, "rounds    %d of each side, in turn; %d bytes; NATS syncs %s\n", r.Rounds, r.Payload, r.Sync)
	fmt.Fprintf(&b, "postgres  %s, fsync and synchronous_commit on\n", r.Postgres)
	for _, path := range sortedKeys(r.Versions) {
		fmt.Fprintf(&b, "peer      %s %s\n", path, r.Versions[path])
	}
	fmt.Fprintf(&b, "machine   %s\n", r.Machine)
	_, err := io.WriteString(w, b.String())
	return err
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
