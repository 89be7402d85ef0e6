package postgres

import (
	"context"
	"strconv"
	"testing"
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/history"
	"github.com/mainstay-io/mainstay/internal/lane"
	"github.com/mainstay-io/mainstay/internal/relay"
)

// TestOpenIncarnation_WaitsForUnitsUnderWay: what such a unit handles was handled in the incarnation of before.
func TestOpenIncarnation_WaitsForUnitsUnderWay(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	u, from := register(t, s)
	for i := range 64 { // some of them in the lane
		send(t, s, message(from.Topic, strconv.Itoa(i)))
	}
	drain(t, s, lead(t, s))
	to := next(from)
	opened := make(chan error, 1)
	err := s.Unit(t.Context(), u, func(ctx context.Context, tx lane.Tx) error {
		if _, err := tx.Barriers(ctx, []string{"any"}); err != nil { // begins the transaction
			return err
		}
		go func() {
			_, err := s.OpenIncarnation(t.Context(), relay.Opening{Seen: 1, Above: 1, Reason: "test"})
			opened <- err
		}()
		for !waits(t, s) {
			select {
			case err := <-opened:
				opened <- err
				tx.Move(from, to)
				return nil
			default:
			}
		}
		tx.Move(from, to)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := <-opened; err != nil {
		t.Fatal(err)
	}
	seam, err := s.Seam(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	log := seam.Logs[mainstay.TopicLane{Topic: to.Topic, Lane: to.Lane}]
	if len(log) != 1 || log.Next(to.Incarnation, to.Sequence) <= to.Sequence {
		t.Errorf("a consumer at %d handles %d next, in %v", to.Sequence, log.Next(to.Incarnation, to.Sequence), log)
	}
}

// waits says whether somebody waits for an advisory lock of this database.
func waits(t *testing.T, s *Store) bool {
	t.Helper()
	var n int
	err := s.reads.GetContext(t.Context(), &n, `select count(*) from pg_locks where locktype = 'advisory' and not granted
and database = (select oid from pg_database where datname = current_database())`)
	if err != nil {
		t.Fatal(err)
	}
	return n > 0
}

// TestReadLog_KnowsAnIncarnationThatAnotherProcessHasOpened, though nobody has read the history since.
func TestReadLog_KnowsAnIncarnationThatAnotherProcessHasOpened(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	other := openStore(t, s.cfg.URL)
	l := lead(t, s)
	m := message("orders", "k")
	send(t, s, m)
	drain(t, s, l)
	if _, err := other.Seam(t.Context()); err != nil {
		t.Fatal(err)
	}
	ls, err := s.Acquire(t.Context(), "relay", []int{m.Lane}, "test", time.Minute, true)
	if err != nil {
		t.Fatal(err)
	}
	save := relay.Save{Leases: ls, Progress: []relay.Progress{{TopicLane: m.TopicLane(), Incarnation: 1, Sequence: 1}}}
	if err := s.SaveProgress(t.Context(), save); err != nil {
		t.Fatal(err)
	}
	if _, err := s.OpenIncarnation(t.Context(), relay.Opening{Seen: 1, Above: 1, Reason: "test"}); err != nil {
		t.Fatal(err)
	}
	send(t, s, message("orders", "k"))
	drain(t, s, l)
	for _, reader := range []*Store{other, s} {
		ms, err := reader.ReadLog(t.Context(), map[mainstay.TopicLane]int64{m.TopicLane(): 1}, 1)
		if err != nil || len(ms) != 1 || ms[0].Incarnation != 2 || ms[0].Since != 2 {
			t.Fatalf("read %+v, %v", ms, err)
		}
	}
}

// TestTail_TakesNothingReadBeforeAnIncarnationWasOpened: such messages have other names by now.
func TestTail_TakesNothingReadBeforeAnIncarnationWasOpened(t *testing.T) {
	t.Parallel()
	log := mainstay.TopicLane{Topic: "orders"}
	tl := newTail()
	tl.turn(history.Seam{Era: "1", Current: 1})
	began := tl.moment()
	tl.turn(history.Seam{Era: "1", Current: 2, Logs: map[mainstay.TopicLane]history.Log{log: {{ID: 2, First: 1}}}})
	tl.add([]*mainstay.Message{{Topic: "orders", Sequence: 1, Incarnation: 1}}, began)
	if ms, _, _ := tl.next(map[mainstay.TopicLane]int64{log: 0}, 1); len(ms) > 0 {
		t.Errorf("memory has %+v", ms[0])
	}
}

// TestTail_KnowsNoLessThanBefore: of two that read the history at a time, the first may come last. Where an incarnation
// begins is told to readers in other databases, who keep it.
func TestTail_KnowsNoLessThanBefore(t *testing.T) {
	t.Parallel()
	log := mainstay.TopicLane{Topic: "orders"}
	late := history.Seam{Era: "1", Current: 1}
	tl := newTail()
	tl.turn(history.Seam{Era: "1", Current: 2, Logs: map[mainstay.TopicLane]history.Log{log: {{ID: 2, First: 7}}}})
	tl.turn(late)
	if since := tl.since(log, 2); since != 7 {
		t.Errorf("the incarnation begins at %d, want 7", since)
	}
	late.Era = "2"
	if tl.turn(late); tl.moment() != (moment{"2", 1}) {
		t.Errorf("in another era it is %+v", tl.moment())
	}
}
