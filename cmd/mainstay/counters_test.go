package main

import (
	"bufio"
	"context"
	"net/http"
	"strconv"
	"strings"
)

// counters reads the counters of /metrics that begin with prefix, by their whole name with labels.
func counters(ctx context.Context, opsURL, prefix string) map[string]float64 {
	out := map[string]float64{}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, opsURL+"/metrics", nil)
	if err != nil {
		return out
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return out
	}
	defer resp.Body.Close() // it is only read
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		name, value, ok := strings.Cut(lines.Text(), "} ")
		if v, err := strconv.ParseFloat(value, 64); ok && err == nil && strings.HasPrefix(name, prefix) {
			out[name+"}"] = v
		}
	}
	return out
}
