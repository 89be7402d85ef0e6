package storetest

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/history"
	"github.com/mainstay-io/mainstay/internal/lane"
	"github.com/mainstay-io/mainstay/internal/relay"
)

func logIncarnations(t *testing.T, f *Fixture) {
	first := message("a", "k", "1")
	f.send(t, first, message("a", "k", "2"))
	noError(t, "registering", f.Register(t.Context(), lane.Registration{Consumer: "c", Topics: []string{"a", "b"}}))
	ls := f.acquire(t, "relay", "x", time.Minute, false, first.Lane)
	log := first.TopicLane()
	noError(t, "saving", f.SaveProgress(t.Context(), relay.Save{Leases: ls, Progress: []relay.Progress{{
		TopicLane: log, Incarnation: 1, Sequence: 2, MessageID: "0190f7c2-0000-7000-8000-000000000001", BrokerPosition: 9,
	}}}))
	f.send(t, message("a", "k", "3")) // after the moment that the database went back to
	before, err := f.Seam(t.Context())
	noError(t, "reading the history", err)
	reader := f.acquire(t, "c", "w", time.Minute, false, log.Lane)
	other := mainstay.TopicLane{Topic: "never-written", Lane: 0}
	o := relay.Opening{Seen: before.Current, Above: before.Current + 3, Logs: []mainstay.TopicLane{other}, Reason: "test"}
	for _, want := range []bool{true, false} {
		opened, err := f.OpenIncarnation(t.Context(), o)
		noError(t, "opening", err)
		equal(t, "opened", want, opened)
	}
	after, err := f.Seam(t.Context())
	noError(t, "reading the history", err)
	equal(t, "the incarnation", before.Current+4, after.Current)
	equal(t, "the log's history", history.Log{{ID: after.Current, First: 3}}, after.Logs[log])
	equal(t, "the history of a log that nobody wrote", history.Log{{ID: after.Current, First: 1}}, after.Logs[other])
	f.send(t, message("a", "k", "4"))
	for i, m := range f.read(t, log, 0, 10) {
		want, since := before.Current, int64(0)
		if i >= 2 {
			want, since = after.Current, 3
		}
		if m.Incarnation != want || m.Since != since {
			t.Errorf("message %d is of incarnation %d since %d, want %d since %d", m.Sequence, m.Incarnation, m.Since, want, since)
		}
	}
	err = f.Unit(t.Context(), lane.Unit{Consumer: "c", Leases: reader}, func(context.Context, lane.Tx) error { return nil })
	fenced(t, "who has read before", err)
	late := relay.Save{Leases: ls, Incarnation: before.Current, Progress: []relay.Progress{{TopicLane: log, Incarnation: before.Current, Sequence: 3}}}
	fenced(t, "a relay that does not know of it", f.SaveProgress(t.Context(), late))
	late.Incarnation = after.Current
	noError(t, "a relay that does", f.SaveProgress(t.Context(), late))
	noError(t, "comparing", f.Compared(t.Context(), "another era"))
	noError(t, "comparing", f.Compared(t.Context(), after.Era))
	after, err = f.Seam(t.Context())
	noError(t, "reading the history", err)
	equal(t, "compared", true, after.Compared)
}

// logIncarnationsAreKnown opens incarnations while a reader renews its lease: the history that it reads when it has lost
// that must be the one for which it lost it.
func logIncarnationsAreKnown(t *testing.T, f *Fixture) {
	first := message("a", "k", "1")
	f.send(t, first)
	noError(t, "registering", f.Register(t.Context(), lane.Registration{Consumer: "c", Topics: []string{"a"}}))
	for current := int64(1); current <= 50; current++ {
		held := f.acquire(t, "c", "w", time.Minute, true, first.Lane)
		var opening sync.WaitGroup
		opening.Go(func() {
			opened, err := f.OpenIncarnation(t.Context(), relay.Opening{Seen: current, Above: current, Reason: "test"})
			if err != nil || !opened {
				t.Errorf("opening: %v, %v", opened, err)
			}
		})
		for kept := held; len(kept) > 0 && !t.Failed(); {
			var err error
			kept, err = f.Renew(t.Context(), "w", held, time.Minute)
			noError(t, "renewing", err)
		}
		seam, err := f.Seam(t.Context())
		noError(t, "reading the history", err)
		opening.Wait()
		equal(t, "the incarnation", current+1, seam.Current)
		equal(t, "incarnations of the log", int(current), len(seam.Logs[first.TopicLane()]))
	}
}
