package main

import (
	"context"
	"fmt"
	"os"
	"slices"
)

// side is one way of doing the work of a contest.
type side struct {
	name string
	// note says with which settings.
	note string
	// round does the work once and answers with operations per second.
	round func(ctx context.Context) (float64, error)
}

// contest is the same work on several sides; the first is this module's, and the others are compared with it.
type contest struct {
	name, unit string
	sides      []side
}

func contestNames() []string { return []string{"hop", "relay", "ingest", "publish"} }

func contests(w *world, n sizes) []contest {
	return []contest{
		{"hop", "messages", []side{
			w.hopSide("a handler of one message, which writes a row, over JetStream", "", true, n.hop),
			w.hopSide("the same over the database's log", "database", true, n.hop),
			w.hopSide("a handler of batches, one statement each, over JetStream", "", false, 3*n.hop),
			w.riverTxSide(n.hop), w.riverNoopSide(n.hop),
		}},
		{"relay", "messages", []side{w.relaySide(n.relay), w.forwarderSide("JetStream", n.relay), w.forwarderSide("memory", n.relay)}},
		{"ingest", "orders", []side{w.ingestSide(n.ingest), w.insertSide(1, n.ingest), w.insertSide(50, n.ingest)}},
		{"publish", "messages", []side{
			w.publishSide(n.publish), w.plainSide("one by one", publishEach, n.publish/20),
			w.plainSide("asynchronous, window of 4,000", publishAsync, n.publish), w.plainSide("atomic batches of 1,000", publishBatches, n.publish),
		}},
	}
}

// run lets the sides take turns.
func (c contest) run(ctx context.Context, rounds int) (outcome, error) {
	rates := make([][]float64, len(c.sides))
	for round := range rounds {
		for i, s := range c.sides {
			fmt.Fprintf(os.Stderr, "%s, round %d of %d: %s\n", c.name, round+1, rounds, s.name)
			rate, err := s.round(ctx)
			if err != nil {
				return outcome{}, fmt.Errorf("%s: %w", s.name, err)
			}
			rates[i] = append(rates[i], rate)
		}
	}
	out := outcome{Name: c.name, Unit: c.unit}
	for i, s := range c.sides {
		out.Sides = append(out.Sides, standing(s, rates[i]))
	}
	for i := range out.Sides {
		out.Sides[i].OursToThis = out.Sides[0].Median / out.Sides[i].Median
	}
	return out, nil
}

// standing sums up the rounds of a side.
func standing(s side, rates []float64) result {
	sorted := slices.Sorted(slices.Values(rates))
	median := sorted[len(sorted)/2]
	if len(sorted)%2 == 0 {
		median = (median + sorted[len(sorted)/2-1]) / 2
	}
	return result{Name: s.name, Settings: s.note, Median: median, Least: sorted[0], Most: sorted[len(sorted)-1], Rounds: rates}
}
