package client

import (
	"context"
	"math/rand/v2"
	"net/http"
	"time"
)

// insist sends r until the server has answered for good, the attempts are spent, or ctx ends. It may only be used for
// what may be repeated. It answers with how often r was sent.
func (c *Client) insist(ctx context.Context, r request) (answer, int, error) {
	for attempt := 1; ; attempt++ {
		a, err := c.send(ctx, r)
		if err == nil || attempt == c.cfg.Attempts || !mayHelp(a) || ctx.Err() != nil {
			return a, attempt, err
		}
		if !pause(ctx, max(c.backoff(attempt), retryAfter(a.header))) {
			return a, attempt, err
		}
	}
}

// mayHelp says whether the same request can have another answer: there was none, or the server had trouble, or asks
// to come back.
func mayHelp(a answer) bool {
	switch a.status {
	case 0, http.StatusTooManyRequests:
		return true
	case http.StatusConflict:
		return a.header.Get("Retry-After") != ""
	default:
		return a.status >= http.StatusInternalServerError
	}
}

// backoff is the pause after an attempt: random, so that clients that failed together do not return together.
func (c *Client) backoff(attempt int) time.Duration {
	longest := c.cfg.MaxBackoff
	if shift := attempt - 1; shift < 16 {
		longest = min(longest, c.cfg.Backoff<<shift)
	}
	return rand.N(longest) + 1
}

// pause waits for d; false when ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
