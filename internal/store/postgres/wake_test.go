package postgres

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/mainstay-io/mainstay"
)

// other opens the database of a store as another process would.
func other(t *testing.T, s *Store, change func(*Config)) *Store {
	t.Helper()
	cfg := s.cfg
	if change != nil {
		change(&cfg)
	}
	o, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := o.Close(); err != nil {
			t.Error(err)
		}
	})
	return o
}

func hears(t *testing.T, what string, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(20 * time.Second):
		t.Fatalf("nothing was heard of: %s", what)
	}
}

func quiet(t *testing.T, what string, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
		t.Errorf("there was news of: %s", what)
	default:
	}
}

// TestNews_ReachesOtherProcesses: what one process does wakes those that wait for it in another, and nobody else. A
// listener begins with all that it may have missed.
func TestNews_ReachesOtherProcesses(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	elsewhere := other(t, s, nil)
	silent := other(t, s, func(c *Config) { c.PollOnly = true })
	deaf, stopDeaf := silent.Appended()
	defer stopDeaf()
	heard := map[string]<-chan struct{}{}
	for what, hear := range map[string]func() (<-chan struct{}, func()){
		"appended": elsewhere.Appended, "grown": elsewhere.Wake, "ended": elsewhere.Ended,
	} {
		c, stop := hear()
		defer stop()
		heard[what] = c
	}
	for what, c := range heard {
		hears(t, what+" before it listened", c)
	}
	send := func(s *Store) {
		t.Helper()
		err := s.Run(t.Context(), func(_ context.Context, tx mainstay.Tx) error {
			tx.Send(&mainstay.Message{Topic: "t", Key: "k", Type: "x", Source: "s", Payload: []byte("{}")})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		send(s)
		hears(t, "appended", heard["appended"])
	}
	quiet(t, "grown", heard["grown"])
	send(silent) // nobody hears of it
	if n := drain(t, s, lead(t, s)); n != 4 {
		t.Errorf("numbered %d", n)
	}
	hears(t, "grown", heard["grown"])
	s.SayEnded()
	hears(t, "ended", heard["ended"])
	<-deaf // its own, and no other's
	quiet(t, "appended, where only polling is wanted", deaf)
}

// TestNews_SurvivesItsSessions: sessions that were cut are opened again, and the listener looks for what it missed.
func TestNews_SurvivesItsSessions(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	elsewhere := other(t, s, nil)
	c, stop := elsewhere.Ended()
	defer stop()
	hears(t, "the beginning", c)
	s.SayEnded()
	hears(t, "ended", c)
	if _, err := s.DB().ExecContext(t.Context(), `select pg_terminate_backend(pid) from pg_stat_activity
		where application_name like '% wake-ups' and datname = current_database()`); err != nil {
		t.Fatal(err)
	}
	hears(t, "the beginning of a new session", c)
	for heard := false; !heard; {
		s.SayEnded() // its session may still be away: what is told meanwhile is lost, and found by polling
		select {
		case <-c:
			heard = true
		case <-time.After(100 * time.Millisecond):
		case <-t.Context().Done():
			t.Fatal("nothing is heard any more")
		}
	}
}

// TestNews_ListensToWhatIsWanted: a process is told only of what somebody in it waits for, also when that begins later.
func TestNews_ListensToWhatIsWanted(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	var channels []string
	listening := func() []string {
		t.Helper()
		channels = nil
		conn, err := pgx.ConnectConfig(t.Context(), s.news.cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(t.Context()) // nothing is to be said about it
		if err := s.news.listen(t.Context(), conn, map[string]int{}); err != nil {
			t.Fatal(err)
		}
		if err := conn.QueryRow(t.Context(), "select array(select pg_listening_channels() order by 1)").Scan(&channels); err != nil {
			t.Fatal(err)
		}
		return channels
	}
	ends, stop := s.Ended()
	defer stop()
	hears(t, "the beginning", ends)
	if diff := cmp.Diff([]string{s.news.channels[ended]}, listening()); diff != "" {
		t.Errorf("channels (-want +got):\n%s", diff)
	}
	grows, stop := s.Wake()
	defer stop()
	hears(t, "the beginning of another kind", grows)
	if diff := cmp.Diff([]string{s.news.channels[ended], s.news.channels[grown]}, listening()); diff != "" {
		t.Errorf("channels (-want +got):\n%s", diff)
	}
	elsewhere := other(t, s, nil)
	for len(ends) > 0 {
		<-ends
	}
	elsewhere.SayEnded()
	hears(t, "ended, after the listener was interrupted", ends)
}
