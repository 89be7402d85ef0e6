package lane

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/broker"
	"github.com/mainstay-io/mainstay/internal/clock"
	"github.com/mainstay-io/mainstay/internal/history"
)

const (
	// askEvery is how often the database of a log is asked where it ends. askAgain is after how long it is asked the
	// second time to publish again what is missing, twice that the third time, and so on up to askMost: each question
	// begins what is under way anew. askTimeout bounds a question.
	askEvery   = 5 * time.Second
	askAgain   = 2 * time.Second
	askMost    = time.Minute
	askTimeout = 2 * time.Second
)

// away is a log of another database. What is missing of it is looked for at the broker first, by a new subscription
// from the place, and then asked for; each once for a place, the question again after a while. Guarded by run.mu.
type away struct {
	// at is the place for which something was done, anew that a new subscription was asked for, begun that it runs.
	at          mark
	anew, begun bool
	// want asks for what is behind the place, wanted is since when that was last asked, and pause for how long it is
	// not asked again.
	want   bool
	wanted clock.Mono
	pause  time.Duration
	// asked is since when the database was last asked, seen the place at that time.
	asked clock.Mono
	seen  mark
	// ever says that it has answered, first and last where its log began and ended then.
	ever        bool
	first, last int64
}

// elsewhere are the consumer's topics that another database may write, and this one has not. A place beyond the end of
// a log that this one does write is of another database's log: the two publish one topic.
func (r *run) elsewhere(ctx context.Context, places []Place) ([]string, error) {
	if r.e.cfg.Owners == nil || len(r.c.Elsewhere) == 0 {
		return nil, nil
	}
	heads, err := r.e.cfg.Store.Heads(ctx)
	if err != nil {
		return nil, err
	}
	for _, p := range places {
		if slices.Contains(r.c.Elsewhere, p.Topic) && writes(heads, p.Topic) && p.Sequence > heads[p.TopicLane] {
			return nil, fmt.Errorf("%s has handled %s/%d up to %d, where the log of this database ends at %d: two databases write the topic, "+
				"and what follows cannot be told apart. docs/guides/participant-with-own-database.md says what to do",
				r.c.Name, p.Topic, p.Lane, p.Sequence, heads[p.TopicLane])
		}
	}
	return slices.DeleteFunc(slices.Clone(r.c.Elsewhere), func(topic string) bool { return writes(heads, topic) }), nil
}

func writes(heads map[mainstay.TopicLane]int64, topic string) bool {
	for log := range heads {
		if log.Topic == topic {
			return true
		}
	}
	return false
}

// goElsewhere notes that a place's log is another database's. Of its history is known what the place tells.
func (ls *laneState) goElsewhere(p Place) {
	ls.away[p.Topic] = &away{}
	ls.past[p.Topic] = nil
	if p.Incarnation > 1 {
		ls.past[p.Topic] = history.Log{{ID: p.Incarnation, First: p.Sequence + 1}}
	}
}

// cameHome says that this database writes a topic of the lane after all.
func (ls *laneState) cameHome(heads map[mainstay.TopicLane]int64) bool {
	for topic := range ls.away {
		if writes(heads, topic) {
			return true
		}
	}
	return false
}

// learn takes the history of a log of another database from its messages.
func (ls *laneState) learn(m *mainstay.Message) {
	if m.Since > 0 {
		ls.past[m.Topic] = ls.past[m.Topic].With(history.Incarnation{ID: m.Incarnation, First: m.Since})
	}
}

// waits says that a consumer of what is sent from now on does not know yet where that begins in the log.
func (r *run) waits(ls *laneState, topic string) bool {
	p := ls.places[topic]
	return r.c.Latest && ls.away[topic] != nil && p.Incarnation == 0 && p.Sequence == 0
}

// seek looks for what is missing of another database's log; false for a log of this one. The lane is the caller's.
func (r *run) seek(g gap) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	a := g.ls.away[g.topic]
	if a == nil {
		return false
	}
	place := g.ls.places[g.topic].mark()
	if a.at != place {
		a.at, a.anew, a.begun, a.want, a.wanted, a.pause = place, false, false, false, clock.Mono{}, 0
	}
	switch {
	case !a.anew:
		a.anew = true
		r.e.subscribeAgain(g.ls.lease.Lane)
	case a.begun:
		a.want = true
	}
	return true
}

// subscribing notes that a new subscription of the lane begins.
func (r *run) subscribing(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if ls := r.lanes[n]; ls != nil {
		for _, a := range ls.away {
			a.begun = a.anew
		}
	}
}

// subscribeAgain lets a lane be read from its places again.
func (e *Engine) subscribeAgain(n int) {
	e.mu.Lock()
	e.again[n] = true
	e.mu.Unlock()
	e.look()
}

// takeAgain adds the lanes that are to be subscribed to anew.
func (e *Engine) takeAgain(changed map[int]bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for n := range e.again {
		changed[n] = true
	}
	clear(e.again)
}

// askOwners asks the databases of other logs what those have, and for what is missing here.
func (e *Engine) askOwners(ctx context.Context) {
	for ; ; wait(ctx, e.cfg.Sweep) {
		for _, r := range e.runs {
			for topic, q := range r.questions() {
				if ctx.Err() != nil {
					return
				}
				r.ask(ctx, topic, q)
			}
		}
		if ctx.Err() != nil {
			return
		}
	}
}

// questions are what is to be asked now, by topic.
func (r *run) questions() map[string][]broker.Wanted {
	r.mu.Lock()
	defer r.mu.Unlock()
	qs := map[string][]broker.Wanted{}
	for n, ls := range r.lanes {
		for topic, a := range ls.away {
			place := ls.places[topic]
			want := a.want && a.at == place.mark() && a.wanted.Elapsed() >= a.pause
			waits := r.waits(ls, topic) && a.asked.Elapsed() >= askAgain
			if !want && !waits && a.asked.Elapsed() < askEvery {
				continue
			}
			a.asked, a.seen = clock.Start(), place.mark()
			if want {
				if ls.neverComes(topic) {
					r.e.cfg.Logger.Warn("what is missing of another database's log does not come, asking again", "consumer", r.c.Name,
						"topic", topic, "lane", n, "handled", place.Sequence, "in_log", a.last)
				}
				a.wanted, a.pause = clock.Start(), min(max(2*a.pause, askAgain), askMost)
			}
			qs[topic] = append(qs[topic], broker.Wanted{Lane: n, After: ls.follows(place) - 1, Again: want})
		}
	}
	return qs
}

func (r *run) ask(ctx context.Context, topic string, logs []broker.Wanted) {
	callCtx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	answer, err := r.e.cfg.Owners.Ask(callCtx, broker.Question{Topic: topic, Logs: logs})
	if err != nil {
		if ctx.Err() == nil && !errors.Is(err, broker.ErrNobody) {
			r.e.cfg.Logger.DebugContext(ctx, "the database of a topic does not answer, asking again", "consumer", r.c.Name, "topic", topic, "err", err)
		}
		return
	}
	starts := r.answered(topic, answer)
	if len(starts) == 0 {
		return
	}
	if err := r.e.cfg.Store.Begin(ctx, r.c.Name, starts); err != nil {
		r.e.cfg.Logger.WarnContext(ctx, "where a consumer begins could not be set, asking again", "consumer", r.c.Name, "topic", topic, "err", err)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range starts {
		if ls := r.lanes[p.Lane]; ls != nil {
			r.readAnew(ls)
		}
	}
}

// answered takes in what a database says of its logs, and gives where a consumer begins that has handled nothing yet.
func (r *run) answered(topic string, answer broker.Answer) (starts []Place) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, h := range answer.Logs {
		ls := r.lanes[h.Lane]
		if ls == nil || ls.away[topic] == nil {
			continue
		}
		if start, ok := r.hears(ls, topic, h); ok {
			starts = append(starts, start)
		}
	}
	r.signal()
	return starts
}

// hears takes in what a database says of one log; true with the place at which a consumer begins there that has handled
// nothing yet. r.mu is held.
func (r *run) hears(ls *laneState, topic string, h broker.Held) (start Place, begins bool) {
	a, place := ls.away[topic], ls.places[topic]
	for _, i := range h.Past {
		ls.past[topic] = ls.past[topic].With(i)
	}
	fresh := !a.ever && place.Sequence == 0 && place.MessageID == ""
	if fresh && ls.busy {
		return start, false // until it is asked again
	}
	a.ever, a.first, a.last = true, h.First, h.Last
	switch {
	case r.waits(ls, topic):
		return Place{TopicLane: place.TopicLane, Incarnation: h.LastIncarnation, Sequence: h.Last}, true
	case fresh && !r.c.Latest && h.First > 1:
		return Place{TopicLane: place.TopicLane, Incarnation: h.FirstIncarnation, Sequence: h.First - 1}, true
	case h.Last >= ls.follows(place) && a.seen == place.mark() && len(ls.buf[topic]) == 0:
		ls.lacks[topic] = true
	}
	return start, false
}

// neverComes says that what is behind the place, which the log has, has been asked for until the questions became as seldom
// as they can; r.mu is held.
func (ls *laneState) neverComes(topic string) bool {
	a, place := ls.away[topic], ls.places[topic]
	return a.want && a.at == place.mark() && a.pause == askMost && a.last >= ls.follows(place)
}

// lost says which messages the consumer needs and nobody has any more, or where it does not know yet what it needs;
// "" when all is well.
func (r *run) lost() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	for n, ls := range r.lanes {
		for topic, a := range ls.away {
			next := ls.follows(ls.places[topic])
			if r.waits(ls, topic) {
				return fmt.Sprintf("it begins behind what %s/%d has now, and no relay of the database that writes the topic has said yet what that is", topic, n)
			}
			if a.want && a.ever && a.at == ls.places[topic].mark() && a.first > next {
				return fmt.Sprintf("it has handled %s/%d up to %d, and the database that writes it keeps it from %d on: "+
					"what is between is lost to it, and it stands still there. docs/guides/participant-with-own-database.md says how it goes on",
					topic, n, next-1, a.first)
			}
			if ls.neverComes(topic) {
				return fmt.Sprintf("it stands still behind %d of %s/%d, of which the database that writes it has %d: it has been asked for over and over, "+
					"and the broker brings nothing; look at that database's relay", next-1, topic, n, a.last)
			}
		}
	}
	return ""
}
