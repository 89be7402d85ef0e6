package lane_test

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/mainstay-io/mainstay/internal/broker"
	"github.com/mainstay-io/mainstay/internal/lane"
	"github.com/mainstay-io/mainstay/internal/relay"
	"github.com/mainstay-io/mainstay/internal/testkit/pgtest"
)

// TestApart_AsksForWhatTheBrokerLacks: a consumer in another database is away while the broker loses what it has not
// read. New messages come all the time, so the relay sees nothing wrong with the ends of its logs: the consumer has to
// ask for the rest.
func TestApart_AsksForWhatTheBrokerLacks(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(p *pair){
		"from the middle":          func(p *pair) { p.loseNext() },
		"all but the last records": func(p *pair) { p.keepLast(1) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPair(t, 0)
			c := p.b.read("c")
			stop := p.a.load()
			p.until("some are handled", func() (bool, string) { return p.b.number("select count(*) from effect") > 5*pairKeys, "" })
			c.stop()
			p.a.send(20)
			p.behind(c, name)
			before := p.a.again.Load()
			lose(p)
			c = p.b.read("c")
			p.a.send(5)
			stop()
			p.wantAll(c)
			if p.a.again.Load() == before {
				t.Error("inconclusive: nothing was asked for")
			}
			p.until("no refill is left", func() (bool, string) {
				left := p.a.lines("select topic || '/' || lane || ' ' || sequence || ' ' || reason from refill")
				return len(left) == 0, fmt.Sprint(left)
			})
		})
	}
}

// TestApart_WaitsForARelayThatAnswers: nobody answers while the topic's relay is stopped. A message that is sent when
// it is back is not needed for the rest to come.
func TestApart_WaitsForARelayThatAnswers(t *testing.T) {
	t.Parallel()
	p := newPair(t, 0)
	p.a.send(10)
	p.published()
	p.keepLast(1)
	p.a.stop()
	c := p.b.read("c")
	p.until("it is ready all the same", func() (bool, string) { err := c.ready(); return err == nil, fmt.Sprint(err) })
	p.a.run()
	p.wantAll(c)
}

// TestApart_FindsTheEnd: everything that the consumer lacks was lost, and no message comes any more. It finds out, as
// it asks where the logs end.
func TestApart_FindsTheEnd(t *testing.T) {
	t.Parallel()
	p := newPair(t, 0)
	c := p.b.read("c")
	p.a.send(5)
	p.wantAll(c)
	c.stop()
	p.a.send(5)
	p.published()
	p.keepLast(1)
	c = p.b.read("c")
	p.wantAll(c)
}

// TestApart_New: a new consumer begins with the first message that the topic's database keeps, or behind the last one
// that it has; which is where it goes on when it comes back before any message has come.
func TestApart_New(t *testing.T) {
	t.Parallel()
	t.Run("earliest", func(t *testing.T) {
		t.Parallel()
		p := newPair(t, 0)
		p.a.send(10)
		p.published()
		p.keepLast(2)
		stop := p.a.load()
		c := p.b.read("c")
		p.a.send(5)
		stop()
		p.wantAll(c)
	})
	t.Run("latest", func(t *testing.T) {
		t.Parallel()
		p := newPair(t, 0)
		p.a.send(10)
		p.published()
		latest := func(c *lane.Consumer) { c.Latest = true }
		c := p.b.read("c", latest)
		p.until("it is ready", func() (bool, string) { err := c.ready(); return err == nil, fmt.Sprint(err) })
		c.stop()
		old := p.a.lines(written)
		p.a.send(3)
		p.published()
		c = p.b.read("c", latest)
		p.a.send(2)
		p.numbered()
		p.wantAll(c, slices.DeleteFunc(p.a.lines(written), func(m string) bool { return slices.Contains(old, m) })...)
	})
}

// TestApart_FollowsADatabaseThatWentBack: the topic's database is restored to an older dump while its reader is ahead.
// It writes less than was lost, and the broker loses even that, but for the last records. The reader gets all of the new history: it asks from
// where that begins, not from where it is.
func TestApart_FollowsADatabaseThatWentBack(t *testing.T) {
	t.Parallel()
	server := pgtest.NewServer(t)
	url := server.NewDatabase()
	p := newPairOn(t, url, pgtest.New(t), 0)
	c := p.b.read("c")
	p.a.send(5)
	p.wantAll(c)
	p.published() // what is published and not recorded comes again, in the new incarnation
	restore := server.Dump(url)
	p.a.send(10)
	p.wantAll(c)
	kept := p.b.lines(handled, "c")
	c.stop()
	p.a.stop()
	restore()
	p.a.dial()
	p.a.run()
	p.a.send(4)
	p.published()
	p.keepLast(1)
	c = p.b.read("c")
	p.numbered()
	fresh := p.a.lines(written + " ")
	fresh = slices.DeleteFunc(fresh, func(m string) bool { return slices.Contains(kept, m) })
	if len(fresh) != 4*pairKeys {
		t.Fatalf("%d messages are new", len(fresh))
	}
	p.until("what was written since the restore is handled", func() (bool, string) {
		got := p.b.lines(handled, "c")
		missing := slices.DeleteFunc(slices.Clone(fresh), func(m string) bool { return slices.Contains(got, m) })
		return len(missing) == 0, fmt.Sprintf("%d are missing; ready: %v; places %v, heads %v", len(missing), c.ready(), p.b.lines("select lane || ': ' || incarnation || '/' || sequence from place order by lane"),
			p.a.lines("select lane || ': ' || last_sequence from log_head where topic = 'things' order by lane"))
	})
	got := slices.DeleteFunc(p.b.lines(handled, "c"), func(m string) bool { return slices.Contains(kept, m) })
	if !slices.Equal(fresh, got) {
		t.Fatalf("handled besides what was before: %v", firstDifference(fresh, got))
	}
}

// TestApart_TwoDatabasesWriteOneTopic: the second one's relay refuses the logs by name and changes nothing at the broker,
// its consumer of the topic stands still rather than mix the two, and everybody else goes on.
func TestApart_TwoDatabasesWriteOneTopic(t *testing.T) {
	t.Parallel()
	p := newPair(t, 0)
	stop := p.a.load()
	c, d := p.b.read("c"), p.a.read("d")
	p.until("some are handled", func() (bool, string) { return p.b.number("select count(*) from effect") > 5*pairKeys, "" })
	p.behind(d, "the other database writes")
	p.b.send(2)
	p.until("the second relay refuses", func() (bool, string) {
		err := p.b.relay.Ready()
		var stranger *relay.StrangerError
		return errors.As(err, &stranger) && stranger.Topic == "things" && strings.Contains(err.Error(), p.a.store.Origin()) &&
			strings.Contains(err.Error(), p.b.store.Origin()), fmt.Sprint(err)
	})
	answers := func(s *site) bool {
		_, mine := s.relay.Answer(t.Context(), broker.Question{Topic: "things", Logs: []broker.Wanted{{Lane: 0}}})
		return mine
	}
	if !answers(p.a) || answers(p.b) {
		t.Error("of two databases that have written to the topic not the one answers whose messages are at the broker")
	}
	p.until("the consumer says what is wrong", func() (bool, string) {
		err := c.ready()
		return err != nil && strings.Contains(err.Error(), "two databases write the topic"), fmt.Sprint(err)
	})
	stood := p.b.lines(handled, "c")
	p.a.send(5)
	stop()
	p.wantAll(d)
	if err := p.a.relay.Ready(); err != nil {
		t.Errorf("the first relay: %v", err)
	}
	if now := p.b.lines(handled, "c"); !slices.Equal(stood, now) {
		t.Errorf("the consumer has handled %d messages since it stands still", len(now)-len(stood))
	}
	if written := p.a.lines(written); !slices.Equal(stood, slices.DeleteFunc(written, func(m string) bool { return !slices.Contains(stood, m) })) {
		t.Error("before that it had handled what the first database did not write")
	}
	c.stop()
	p.b.stop()
	p.b.follow(t, 0)
	p.b.run()
	p.a.send(1)
	p.wantAll(p.b.read("c"))
}

// TestApart_ARefusedMessage: the broker takes a message never. Readers in its own database handle it all the same, from
// the log; one in another database steps over the marker in its place, and its lane goes on.
func TestApart_ARefusedMessage(t *testing.T) {
	t.Parallel()
	p := newPair(t, 8<<10)
	stop := p.a.load()
	c, d := p.b.read("c"), p.a.read("d")
	p.until("some are handled", func() (bool, string) { return p.b.number("select count(*) from effect") > 5*pairKeys, "" })
	large := event("things", "k3", strings.Repeat("x", 9<<10))
	p.a.write(large)
	p.a.send(3)
	p.until("the relay has a dead letter", func() (bool, string) {
		return p.a.number("select count(*) from dead_letter where consumer = 'relay'") == 1, fmt.Sprint(p.a.relay.Ready())
	})
	p.a.send(3)
	stop()
	p.wantAll(d)
	refused := p.a.lines("select message_id from dead_letter where consumer = 'relay'")[0]
	p.wantAll(c, slices.DeleteFunc(p.a.lines(written), func(m string) bool { return strings.Contains(m, refused) })...)

	p.limit(0)
	d.stop() // it would handle the copy, too
	p.a.follow(t, 1)
	p.numbered()
	p.wantAll(c, slices.DeleteFunc(p.a.lines(written), func(m string) bool { return strings.Contains(m, refused) })...)
	if open := p.a.number("select count(*) from dead_letter where state = 'open'"); open > 0 {
		t.Errorf("%d cases are open", open)
	}
	if again := p.a.number("select count(*) from outbox o join outbox r on r.payload = o.payload and r.id <> o.id where r.id = $1", refused); again != 1 {
		t.Errorf("it was sent anew %d times", again)
	}
}

// follow does in the database what the guide says, by the number of its piece of SQL.
func (s *site) follow(t *testing.T, n int) {
	t.Helper()
	guide, err := os.ReadFile("../../docs/guides/participant-with-own-database.md")
	noErr(t, err)
	pieces := regexp.MustCompile("(?s)```sql\n(.*?)```").FindAllStringSubmatch(string(guide), -1)
	conn, err := s.db.Conn(t.Context())
	noErr(t, err)
	defer conn.Close() // it is given back
	_, err = conn.ExecContext(t.Context(), strings.ReplaceAll(pieces[n][1], "TOPIC", "things"))
	noErr(t, err)
}
