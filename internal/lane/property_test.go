package lane_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/broker/membroker"
	"github.com/mainstay-io/mainstay/internal/lane"
)

// plan says how a message goes wrong before it works.
type plan struct {
	fails  int
	whole  bool // fails its batch
	panics bool
	poison bool
}

// plans are by payload, with the runs so far.
type plans struct {
	tries
	by map[string]plan
}

func (p *plans) handler(name string) lane.Consumer {
	return lane.Consumer{Name: name, Topics: []string{"a", "b"}, Handler: batch(
		func(ctx context.Context, tx mainstay.Tx, ms []*mainstay.Message) ([]error, error) {
			errs := make([]error, len(ms))
			for i, m := range ms {
				pl := p.by[string(m.Payload)]
				failing := p.next(&mainstay.Message{Payload: []byte(name + string(m.Payload))}) <= pl.fails
				switch {
				case pl.poison:
					errs[i] = mainstay.Terminal(errors.New("poison"))
					continue
				case failing && !pl.whole && !pl.panics:
					errs[i] = errors.New("not yet")
					continue
				}
				if err := effect(ctx, tx, name, m); err != nil {
					return nil, err
				}
				switch {
				case failing && pl.panics:
					panic("not yet")
				case failing:
					return nil, errors.New("not yet")
				}
			}
			return errs, nil
		})}
}

// inWorld runs one case of a property in a world of its own.
func inWorld(rt *rapid.T, test func(w *world)) {
	dir, err := os.MkdirTemp("", "lane")
	if err != nil {
		rt.Fatal(err)
	}
	defer os.RemoveAll(dir) // a temporary directory
	w, done := newWorld(rt, dir)
	defer done()
	test(w)
}

// lives runs engines one after the other on the same database, each killed after some units, the last one until ok.
func (w *world) lives(rt *rapid.T, during func(life int), ok func() bool, consumers ...lane.Consumer) {
	deaths := rapid.SliceOfN(rapid.IntRange(1, 12), 0, 3).Draw(rt, "units before each death")
	lost := rapid.IntRange(0, 4).Draw(rt, "every so many commits an answer is lost")
	pool := rapid.IntRange(1, 3).Draw(rt, "pool")
	size := rapid.IntRange(1, 8).Draw(rt, "batch")
	for life := range len(deaths) + 1 {
		var units atomic.Int64
		e := w.start(func(cfg *lane.Config, fs *faultyStore) {
			cfg.Batch, cfg.Pool = size, pool
			cfg.Retry.MinAttempts = 1000
			fs.after = func() bool {
				n := units.Add(1)
				if life < len(deaths) && n >= int64(deaths[life]) {
					fs.dead.Store(true)
					w.poke()
				}
				return lost > 0 && n%int64(lost+1) == 0
			}
		}, consumers...)
		during(life)
		w.until("the engine dies or has done all", func() bool { return e.store.dead.Load() || ok() })
		e.kill()
	}
}

func TestEngine_Property_OncePerConsumerInOrder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		inWorld(rt, func(w *world) { onceInOrder(rt, w) })
	})
}

func onceInOrder(rt *rapid.T, w *world) {
	seed := rapid.Uint64().Draw(rt, "seed of the broker's faults")
	var mu sync.Mutex
	chance := rand.New(rand.NewPCG(seed, 1)) // not a secret
	loses := rapid.IntRange(0, 3).Draw(rt, "losses of 10")
	b := membroker.NewFaulty(membroker.New(membroker.Options{}), membroker.Faults{
		Duplicate: rapid.Bool().Draw(rt, "duplicates"), Shuffle: rand.New(rand.NewPCG(seed, 2)), // not a secret
		Lose: func(*mainstay.Message) bool { mu.Lock(); defer mu.Unlock(); return chance.IntN(10) < loses },
	})
	defer b.Close() // in memory
	w.reader, w.told = b, rapid.Bool().Draw(rt, "told")

	p := &plans{by: map[string]plan{}}
	var chunks [][]*mainstay.Message
	for i := range rapid.IntRange(1, 8).Draw(rt, "chunks") {
		var ms []*mainstay.Message
		for j := range rapid.IntRange(1, 8).Draw(rt, "messages") {
			m := event(rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "topic"), rapid.SampledFrom([]string{"k", "l", "m", "n"}).Draw(rt, "key"), fmt.Sprint(i, ".", j))
			p.by[string(m.Payload)] = plan{
				fails: max(0, rapid.IntRange(-4, 2).Draw(rt, "failures")), whole: rapid.Bool().Draw(rt, "whole"),
				panics: rapid.Bool().Draw(rt, "panics"), poison: rapid.IntRange(0, 19).Draw(rt, "poison") == 0,
			}
			ms = append(ms, m)
		}
		chunks = append(chunks, ms)
	}
	total := 0
	for _, c := range chunks {
		total += len(c)
	}
	send := func(c []*mainstay.Message) {
		w.send(c...)
		if _, err := b.Publish(context.Background(), c, nil); err != nil {
			rt.Fatal(err)
		}
	}
	consumers := []lane.Consumer{p.handler("c"), p.handler("d")}
	during := func(life int) {
		if life == 0 {
			for _, c := range chunks {
				send(c)
			}
		}
	}
	settled := func() bool {
		return w.number("select count(*) from effect")+w.number("select count(*) from parked") >= 2*total &&
			w.number(`select count(*) from parked p where state <> 'dead' and not exists (select 1 from parked d where d.consumer = p.consumer
				and d.topic = p.topic and d.key = p.key and d.state = 'dead' and d.sequence < p.sequence)`) == 0
	}
	w.lives(rt, during, settled, consumers...)
	w.checkOnceInOrder(rt, p)
}

// checkOnceInOrder compares the database with the model: of each key, everything before its first poison has had its
// effect once and in order, and the rest is parked.
func (w *world) checkOnceInOrder(rt *rapid.T, p *plans) {
	type line struct{ topic, key string }
	rows := w.rows("select topic || ' ' || key || ' ' || payload from outbox where topic <> 'replies' order by topic, lane, sequence")
	for _, consumer := range []string{"c", "d"} {
		want := map[line][]string{}
		poisoned := map[line]bool{}
		parked := 0
		for _, r := range rows {
			var l line
			var payload string
			if _, err := fmt.Sscan(r, &l.topic, &l.key, &payload); err != nil {
				rt.Fatal(err)
			}
			poisoned[l] = poisoned[l] || p.by[payload].poison
			if poisoned[l] {
				parked++
			} else {
				want[l] = append(want[l], payload)
			}
		}
		got := map[line][]string{}
		for _, r := range w.rows("select topic || ' ' || key || ' ' || note from effect where consumer = ? order by n", consumer) {
			var l line
			var payload string
			if _, err := fmt.Sscan(r, &l.topic, &l.key, &payload); err != nil {
				rt.Fatal(err)
			}
			got[l] = append(got[l], payload)
		}
		if fmt.Sprint(want) != fmt.Sprint(got) {
			rt.Fatalf("effects of %s: want %v, got %v\n%s", consumer, want, got, w.dump())
		}
		if n := w.number("select count(*) from parked where consumer = ?", consumer); n != parked {
			rt.Fatalf("%d parked of %s, want %d\n%s", n, consumer, parked, w.dump())
		}
	}
	if n := w.number(`select count(*) from place p join log_head h using (topic, lane) where p.sequence <> h.last_sequence`); n != 0 {
		rt.Fatalf("%d places are not at their heads\n%s", n, w.dump())
	}
	if w.number("select count(*) from dead_letter where state = 'open'") != w.number("select count(*) from parked where state = 'dead'") {
		rt.Fatalf("open cases are not the dead messages\n%s", w.dump())
	}
}

// counter is the other side of a remote participant: it knows steps by key.
type counter struct {
	mu        sync.Mutex
	active    map[string]bool
	cancelled map[string]bool
	chance    *rand.Rand
}

func (c *counter) Call(_ context.Context, m *mainstay.Message) (any, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	step := m.StepKey()
	before := c.chance.IntN(4) == 0
	after := c.chance.IntN(4) == 0
	switch {
	case before:
		return nil, errors.New("lost on its way")
	case m.Header(mainstay.HeaderOp) == mainstay.OpUndo:
		c.cancelled[step] = true
		delete(c.active, step)
	case c.cancelled[step]:
		return nil, mainstay.Reject("cancelled", "")
	default:
		c.active[step] = true
	}
	if after {
		return nil, errors.New("the answer was lost")
	}
	return "ok", nil
}

func (c *counter) Settle(ctx context.Context, tx mainstay.Tx, done []mainstay.Settlement) error {
	for _, d := range done {
		if d.Rejection == nil {
			if err := effect(ctx, tx, "p", d.Message); err != nil {
				return err
			}
		}
	}
	return nil
}

func TestBarrier_Property_AnyOrderOfCommands(t *testing.T) {
	t.Parallel()
	for _, remotely := range []bool{false, true} {
		t.Run(fmt.Sprint("remotely ", remotely), func(t *testing.T) {
			t.Parallel()
			rapid.Check(t, func(rt *rapid.T) {
				inWorld(rt, func(w *world) { anyOrder(rt, w, remotely) })
			})
		})
	}
}

func anyOrder(rt *rapid.T, w *world, remotely bool) {
	var p tries
	far := &counter{
		active: map[string]bool{}, cancelled: map[string]bool{},
		chance: rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed of the callee"), 3)), // not a secret
	}
	fails := map[string]int{}
	rejects := map[string]bool{}
	undone := map[string]bool{}
	var ms []*mainstay.Message
	for i := range rapid.IntRange(1, 6).Draw(rt, "steps") {
		step := fmt.Sprint(i)
		key := rapid.SampledFrom([]string{"k", "l"}).Draw(rt, "key")
		for _, op := range rapid.SliceOfN(rapid.SampledFrom([]string{mainstay.OpDo, mainstay.OpUndo}), 1, 4).Draw(rt, "commands") {
			m := command(step, op)
			m.Key = key
			ms = append(ms, m)
			undone[step] = undone[step] || op == mainstay.OpUndo
			fails[string(m.Payload)] = max(0, rapid.IntRange(-2, 2).Draw(rt, "failures"))
		}
		rejects["do "+step] = !remotely && rapid.IntRange(0, 3).Draw(rt, "rejects") == 0
	}
	ms = rapid.Permutation(ms).Draw(rt, "order")
	c := remote(far)
	if !remotely {
		c = local(w, func(m *mainstay.Message) error {
			switch {
			case p.next(m) <= fails[string(m.Payload)]:
				return errors.New("not yet")
			case rejects[string(m.Payload)]:
				return mainstay.Reject("no", "")
			}
			return nil
		})
	}
	steps := len(undone)
	settled := func() bool {
		return w.number("select coalesce(sum(sequence), 0) from place") == len(ms) && w.number("select count(*) from parked") == 0 &&
			w.number("select count(distinct step_key) from barrier") == steps
	}
	w.lives(rt, func(life int) {
		if life == 0 {
			half := len(ms) / 2
			w.send(ms[:half]...)
			w.send(ms[half:]...)
		}
	}, settled, c)
	for step := range undone {
		w.checkStep(rt, step, undone[step], remotely, far)
	}
	if w.number("select count(*) from dead_letter") != 0 {
		rt.Fatalf("there are dead letters\n%s", w.dump())
	}
}

// checkStep compares a step with the model: an undone step has left nothing, any other is done once or was rejected.
func (w *world) checkStep(rt *rapid.T, step string, undone, remotely bool, far *counter) {
	known := func(op string) string {
		rows := w.rows("select outcome from barrier where step_key = ? and op = ?", "saga/"+step, op)
		return fmt.Sprint(rows)
	}
	dos := w.number("select count(*) from effect where note = ?", "do "+step)
	undos := w.number("select count(*) from effect where note = ?", "undo "+step)
	do, undo := known(mainstay.OpDo), known(mainstay.OpUndo)
	story := fmt.Sprintf("step %s: do %s with %d effects, undo %s with %d effects\n%s", step, do, dos, undo, undos, w.dump())
	switch {
	case dos > 1 || undos > 1:
		rt.Fatal("an effect twice: ", story)
	case (do == "[done]") != (dos == 1):
		rt.Fatal("an action and its effect differ: ", story)
	case undone && undo != "[done]" && undo != "[void]":
		rt.Fatal("the compensation has no outcome: ", story)
	case !undone && do != "[done]" && do != "[rejected]":
		rt.Fatal("the action has no outcome: ", story)
	case !remotely && undos != dos && undone:
		rt.Fatal("effects remain: ", story)
	case remotely && far.active["saga/"+step] != (do == "[done]" && !undone):
		rt.Fatal("the callee holds something else: ", story)
	}
	if len(w.rows("select 1 from outbox where topic = 'replies' and json_extract(headers, '$.headers.sagastep') = ?", step)) == 0 {
		rt.Fatal("no reply: ", story)
	}
}
