package ingest_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/mainstay-io/mainstay/internal/ingest"
	"github.com/mainstay-io/mainstay/internal/ingest/ingesttest"
)

// fault is what goes wrong with one commit.
type fault int

const (
	faultNone          fault = iota
	faultUnavailable         // nothing was written
	faultBusy                // another process has the key
	faultLostBefore          // the connection was lost, the commit did not happen
	faultLostAfter           // the connection was lost, the commit did happen
	faultTakenByOthers       // another process commits the first key, then the connection is lost
	faults                   // how many there are
)

// faulty is a store whose commits fail as a list says; when the list is used up, they succeed.
type faulty struct {
	*ingesttest.Memory
	mu     sync.Mutex
	faults []fault
	others int
}

func (f *faulty) Accept(ctx context.Context, group []*ingest.Request, write ingest.WriteFunc) ([]ingest.Result, error) {
	switch f.next() {
	case faultUnavailable:
		return nil, ingest.ErrUnavailable
	case faultBusy:
		return nil, ingest.ErrKeyBusy
	case faultLostBefore:
		return nil, ingest.ErrAmbiguous
	case faultLostAfter:
		if _, err := f.Memory.Accept(ctx, group, write); err != nil {
			return nil, err
		}
		return nil, ingest.ErrAmbiguous
	case faultTakenByOthers:
		theirs := ingesttest.Request(group[0].Key, group[0].Fingerprint[0], f.name())
		theirs.Retention = 1
		if _, err := f.Memory.Accept(ctx, []*ingest.Request{theirs}, write); err != nil {
			return nil, err
		}
		return nil, ingest.ErrAmbiguous
	default:
		return f.Memory.Accept(ctx, group, write)
	}
}

func (f *faulty) next() fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.faults) == 0 {
		return faultNone
	}
	next := f.faults[0]
	f.faults = f.faults[1:]
	return next
}

func (f *faulty) name() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.others++
	return fmt.Sprintf("other %d", f.others)
}

// call is one request of a client, and what became of it.
type call struct {
	*ingest.Request
	outcome
}

// TestIngest_AgainstAMap sends the same keys with the same and other bodies, at once and one after the other, through
// several lives of the process, over a store that fails in every way. The model is a map from key to the one item
// that may be there.
func TestIngest_AgainstAMap(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		store := &faulty{Memory: ingesttest.NewMemory()}
		for _, f := range rapid.SliceOfN(rapid.IntRange(0, int(faults)-1), 0, 6).Draw(rt, "faults") {
			store.faults = append(store.faults, fault(f))
		}
		cfg := ingest.Config{
			MaxGroup:   rapid.IntRange(1, 4).Draw(rt, "group"),
			Committers: rapid.IntRange(1, 3).Draw(rt, "committers"),
		}
		var calls []*call
		for life := range rapid.IntRange(1, 3).Draw(rt, "lives") {
			wave := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) *call {
				return &call{Request: ingesttest.Request(
					rapid.SampledFrom([]string{"a", "b", "c"}).Draw(rt, "key"), rapid.ByteRange(1, 2).Draw(rt, "body"), "",
				)}
			}), 1, 8).Draw(rt, "wave")
			for i, c := range wave {
				item := fmt.Sprintf("%d.%d", life, i)
				c.Request = ingesttest.Request(c.Key, c.Fingerprint[0], item)
			}
			liveOnce(rt, store, cfg, wave)
			calls = append(calls, wave...)
		}
		store.faults = nil
		final := []*call{}
		for _, c := range calls { // every client asks again until it knows
			again := ingesttest.Request(c.Key, c.Fingerprint[0], "again "+c.Item.(string))
			final = append(final, &call{Request: again})
		}
		liveOnce(rt, store, cfg, final)
		checkModel(rt, store, append(calls, final...), final)
	})
}

// liveOnce runs a process that gets all calls at once.
func liveOnce(rt *rapid.T, store ingest.Store, cfg ingest.Config, calls []*call) {
	in := ingest.New(store, writeNothing, cfg, nil)
	ctx, stop := context.WithCancel(context.Background())
	var process, clients sync.WaitGroup
	process.Go(func() {
		if err := in.Run(ctx); err != nil {
			rt.Errorf("Run ended with %v", err)
		}
	})
	for _, c := range calls {
		clients.Go(func() { c.answer, c.replayed, c.err = in.Accept(context.Background(), c.Request) })
	}
	clients.Wait()
	stop()
	process.Wait()
}

func checkModel(rt *rapid.T, store *faulty, calls, final []*call) {
	committed := map[any]int{}
	for _, item := range store.Items() {
		committed[item]++
	}
	byKey := map[string]*call{}
	for _, c := range calls {
		switch {
		case c.err == nil && !c.replayed && committed[c.Item] != 1:
			rt.Fatalf("%v was answered as new and is committed %d times", c.Item, committed[c.Item])
		case c.replayed && string(c.answer.Body) == c.Item:
			rt.Fatalf("%v is its caller's own and was answered as a replay", c.Item)
		case c.err == nil && byKey[c.Key] == nil:
			byKey[c.Key] = c
		case c.err == nil && string(byKey[c.Key].answer.Body) != string(c.answer.Body):
			rt.Fatalf("key %s has answers %s and %s", c.Key, byKey[c.Key].answer.Body, c.answer.Body)
		case c.err == nil && byKey[c.Key].Fingerprint != c.Fingerprint:
			rt.Fatalf("key %s was accepted with two bodies", c.Key)
		}
	}
	for _, c := range final {
		if c.err != nil && !errors.Is(c.err, ingest.ErrKeyReused) {
			rt.Fatalf("a healthy store answers %v", c.err)
		}
	}
	for key, c := range byKey {
		if committed[string(c.answer.Body)] != 1 {
			rt.Fatalf("key %s: its item is committed %d times", key, committed[string(c.answer.Body)])
		}
	}
	if len(committed) != len(byKey) {
		rt.Fatalf("%d items for %d keys", len(committed), len(byKey))
	}
}
