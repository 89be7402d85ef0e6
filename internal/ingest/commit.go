package ingest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/clock"
)

const (
	// ambiguousTries bounds how often a group is handed in again after its commit had no known outcome.
	ambiguousTries = 5
	// ambiguousPause is the pause before the first repetition; it doubles.
	ambiguousPause = 20 * time.Millisecond
)

func compareKeys(a, b *Request) int {
	return cmp.Or(
		strings.Compare(a.Principal, b.Principal),
		strings.Compare(a.Route, b.Route),
		strings.Compare(a.Key, b.Key),
	)
}

// commit settles every entry of group, which is in key order. A group that fails for the sake of some item is split,
// until the culprit stands alone.
func (in *Ingest) commit(ctx context.Context, group []*entry) {
	results, err := in.submit(ctx, group)
	switch {
	case err == nil:
		for i, e := range group {
			e.resolve(results[i])
			in.settle(e)
		}
	case ctx.Err() != nil:
		in.fail(group, ErrClosed)
	case isInfrastructure(err):
		in.fail(group, fmt.Errorf("%w: %w", ErrUnavailable, err))
	case len(group) > 1:
		half := len(group) / 2
		in.commit(ctx, group[:half])
		in.commit(ctx, group[half:])
	case errors.Is(err, ErrKeyBusy):
		in.fail(group, ErrInFlight)
	default:
		in.fail(group, err)
	}
}

func isInfrastructure(err error) bool {
	return errors.Is(err, ErrUnavailable) || errors.Is(err, ErrAmbiguous) || errors.Is(err, context.DeadlineExceeded)
}

// submit hands group to the store. After a commit without a known outcome it hands in the same again: the insert
// waits for the truth, and the records tell whether they are our own. A read alone would prove nothing, the commit
// may still be under way.
func (in *Ingest) submit(ctx context.Context, group []*entry) (results []Result, err error) {
	requests := make([]*Request, len(group))
	for i, e := range group {
		requests[i] = e.request
	}
	pause, unsure := ambiguousPause, false
	for range ambiguousTries {
		if results, err = in.once(ctx, requests); errors.Is(err, ErrAmbiguous) {
			unsure = true
			for _, e := range group {
				e.unsure = true
			}
		}
		stillUnknown := unsure && (isInfrastructure(err) || errors.Is(err, ErrKeyBusy))
		if !stillUnknown || !sleep(ctx, pause) {
			return results, err
		}
		pause *= 2
	}
	return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// once is one transaction. A panic of the write function is an error, so that it cannot take the process, and all
// the other requests, with it.
func (in *Ingest) once(ctx context.Context, requests []*Request) (results []Result, err error) {
	ctx, cancel := context.WithTimeout(ctx, in.cfg.CommitWithin)
	defer cancel()
	start := clock.Start()
	defer func() {
		if v := recover(); v != nil {
			err = &mainstay.PanicError{Value: v, Stack: debug.Stack()}
		}
		in.hooks.Committed(len(requests), start.Elapsed(), err)
	}()
	results, err = in.store.Accept(ctx, requests, in.write)
	if err == nil && len(results) != len(requests) {
		return nil, fmt.Errorf("the store gave %d results for %d requests", len(results), len(requests))
	}
	return results, err
}

// sleep waits for d and says whether ctx lasted as long.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// resolve decides what the callers of e get. A record that equals the request's own was written by an earlier try
// of the same group, so it is not a replay.
func (e *entry) resolve(r Result) {
	own := r.Fresh || e.unsure &&
		r.Existing.Fingerprint == e.request.Fingerprint && bytes.Equal(r.Existing.Answer.Body, e.request.Answer.Body)
	switch {
	case own:
		e.answer = e.request.Answer
	case r.Existing.Fingerprint != e.request.Fingerprint:
		e.err = ErrKeyReused
	default:
		e.answer, e.replayed = r.Existing.Answer, true
	}
}
