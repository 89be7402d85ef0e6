package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/ingest"
)

// Ingest is the conformance suite of ingest.Store. The function makes an empty store.
func Ingest(t *testing.T, newStore func(t *testing.T) ingest.Store) {
	for name, test := range map[string]func(*testing.T, ingest.Store){
		"fresh, then found":              ingestFound,
		"principal, route and key count": ingestScope,
		"winners and others in a group":  ingestMixedGroup,
		"a failed write leaves nothing":  ingestAtomic,
		"an expired record is replaced":  ingestExpired,
		"one of many wins":               ingestRace,
		"an ended context":               ingestEndedContext,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, newStore(t))
		})
	}
}

func ingestRequest(key string, body byte, answer string) *ingest.Request {
	return &ingest.Request{
		Principal: "p", Route: "POST /things", Key: key, Fingerprint: [32]byte{body, 31: 1},
		Answer: ingest.Answer{
			Status: 202,
			Header: map[string]string{"Content-Type": "application/json", "Location": "/things/" + answer},
			Body:   []byte(answer + "\x00\xff"),
		},
		Retention: time.Hour,
		Item:      answer,
	}
}

// ingestAccept hands in a group and answers with the results and the keys that write was called with.
func ingestAccept(t *testing.T, s ingest.Store, group ...*ingest.Request) (results []ingest.Result, won []string) {
	t.Helper()
	results, err := s.Accept(t.Context(), group, func(_ context.Context, _ mainstay.Tx, winners []*ingest.Request) error {
		won = nil // it may be called again, when the transaction is repeated
		for _, r := range winners {
			won = append(won, r.Key)
		}
		return nil
	})
	if err != nil {
		t.Fatalf("accepting: %v", err)
	}
	if len(results) != len(group) {
		t.Fatalf("%d results for %d requests", len(results), len(group))
	}
	return results, won
}

func ingestIs(t *testing.T, got ingest.Result, want *ingest.Request) {
	t.Helper()
	if got.Fresh {
		t.Fatal("fresh, want the record of before")
	}
	if got.Existing.Fingerprint != want.Fingerprint || got.Existing.CreatedAt.IsZero() {
		t.Fatalf("found %+v", got.Existing)
	}
	if diff := cmp.Diff(want.Answer, got.Existing.Answer); diff != "" {
		t.Fatal(diff)
	}
}

func ingestFound(t *testing.T, s ingest.Store) {
	first := ingestRequest("k", 1, "one")
	results, won := ingestAccept(t, s, first)
	if !results[0].Fresh || !cmp.Equal(won, []string{"k"}) {
		t.Fatalf("first: %+v, won %q", results, won)
	}
	for _, body := range []byte{1, 2} {
		results, won = ingestAccept(t, s, ingestRequest("k", body, "two"))
		ingestIs(t, results[0], first)
		if len(won) != 0 {
			t.Fatalf("body %d was written", body)
		}
	}
}

func ingestScope(t *testing.T, s ingest.Store) {
	ingestAccept(t, s, ingestRequest("k", 1, "one"))
	for _, change := range []func(*ingest.Request){
		func(r *ingest.Request) { r.Principal = "q" },
		func(r *ingest.Request) { r.Route = "POST /others" },
		func(r *ingest.Request) { r.Key = "K" },
	} {
		r := ingestRequest("k", 1, "two")
		change(r)
		if results, _ := ingestAccept(t, s, r); !results[0].Fresh {
			t.Fatalf("%s %s %s is taken for another", r.Principal, r.Route, r.Key)
		}
	}
}

func ingestMixedGroup(t *testing.T, s ingest.Store) {
	b, d := ingestRequest("b", 1, "b"), ingestRequest("d", 1, "d")
	ingestAccept(t, s, b, d)
	results, won := ingestAccept(t, s, ingestRequest("a", 1, "a"), ingestRequest("b", 1, "other"),
		ingestRequest("c", 1, "c"), ingestRequest("d", 2, "other"), ingestRequest("e", 1, "e"))
	if !results[0].Fresh || !results[2].Fresh || !results[4].Fresh || !cmp.Equal(won, []string{"a", "c", "e"}) {
		t.Fatalf("%+v, won %q", results, won)
	}
	ingestIs(t, results[1], b)
	ingestIs(t, results[3], d)
}

func ingestAtomic(t *testing.T, s ingest.Store) {
	bad := errors.New("bad item")
	group := []*ingest.Request{ingestRequest("a", 1, "a"), ingestRequest("b", 1, "b")}
	_, err := s.Accept(t.Context(), group, func(context.Context, mainstay.Tx, []*ingest.Request) error { return bad })
	if !errors.Is(err, bad) {
		t.Fatalf("got %v", err)
	}
	if errors.Is(err, ingest.ErrUnavailable) || errors.Is(err, ingest.ErrAmbiguous) || errors.Is(err, ingest.ErrKeyBusy) {
		t.Fatalf("an item's error is taken for the database's: %v", err)
	}
	if results, _ := ingestAccept(t, s, group...); !results[0].Fresh || !results[1].Fresh {
		t.Fatalf("something was left: %+v", results)
	}
}

func ingestExpired(t *testing.T, s ingest.Store) {
	old, fresh := ingestRequest("k", 1, "old"), ingestRequest("k", 2, "new")
	old.Retention = -time.Second
	ingestAccept(t, s, old)
	if results, won := ingestAccept(t, s, fresh); !results[0].Fresh || len(won) != 1 {
		t.Fatalf("%+v, won %q", results, won)
	}
	results, _ := ingestAccept(t, s, ingestRequest("k", 1, "later"))
	ingestIs(t, results[0], fresh)
}

// ingestRace has several callers insert overlapping groups at once: each key is won once, and whoever lost sees the
// winner's record.
func ingestRace(t *testing.T, s ingest.Store) {
	const callers, keys = 4, 6
	var wg sync.WaitGroup
	results := make([][]ingest.Result, callers)
	errs := make([]error, callers)
	for c := range callers {
		wg.Go(func() {
			var group []*ingest.Request
			for k := range keys {
				group = append(group, ingestRequest(fmt.Sprint(k), byte(c), fmt.Sprintf("%d by %d", k, c)))
			}
			results[c], errs[c] = acceptPatiently(t.Context(), s, group)
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	for k := range keys {
		winner := -1
		for c := range callers {
			if results[c][k].Fresh && winner >= 0 {
				t.Fatalf("key %d was won by %d and %d", k, winner, c)
			} else if results[c][k].Fresh {
				winner = c
			}
		}
		for c := range callers {
			if c != winner {
				ingestIs(t, results[c][k], ingestRequest(fmt.Sprint(k), byte(winner), fmt.Sprintf("%d by %d", k, winner)))
			}
		}
	}
}

// acceptPatiently hands in again what was refused because of a busy key, as a client does.
func acceptPatiently(ctx context.Context, s ingest.Store, group []*ingest.Request) ([]ingest.Result, error) {
	for {
		results, err := s.Accept(ctx, group, func(context.Context, mainstay.Tx, []*ingest.Request) error { return nil })
		if !errors.Is(err, ingest.ErrKeyBusy) {
			return results, err
		}
	}
}

func ingestEndedContext(t *testing.T, s ingest.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	group := []*ingest.Request{ingestRequest("k", 1, "one")}
	_, err := s.Accept(ctx, group, func(ctx context.Context, _ mainstay.Tx, _ []*ingest.Request) error {
		cancel()
		return ctx.Err()
	})
	if err == nil {
		t.Fatal("accepted in an ended context")
	}
	if results, _ := ingestAccept(t, s, group...); !results[0].Fresh {
		t.Fatal("something was left")
	}
}
