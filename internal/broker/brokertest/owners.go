package brokertest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mainstay-io/mainstay/internal/broker"
	"github.com/mainstay-io/mainstay/internal/clock"
	"github.com/mainstay-io/mainstay/internal/history"
)

// short is how long a question waits that nobody answers.
const short = 300 * time.Millisecond

func ownersCases() []testCase[broker.Broker] {
	return []testCase[broker.Broker]{
		{"OwnerGetsTheQuestionAndIsHeard", withOwners(testOwnerIsHeard)},
		{"NobodyOwnsTheTopic", withOwners(testNobodyOwns)},
		{"QuestionIsNotKept", withOwners(testQuestionIsNotKept)},
		{"OneOfAnOriginAnswers", withOwners(testOneOfAnOriginAnswers)},
		{"QuestionsComeOneAtATime", withOwners(testOneAtATime)},
		{"AskEndsWithItsContext", withOwners(testAskContext)},
		{"AnAskerThatGaveUpHarmsNobody", withOwners(testAskerGivesUp)},
		{"AnswerEndsWithItsContext", withOwners(testAnswerContext)},
		{"ClosingTheBrokerEndsAnswer", withOwners(testCloseEndsAnswer)},
	}
}

// withOwners gives a case what the broker offers besides; the suite is for brokers over which databases ask each other.
func withOwners(run func(t *testing.T, b broker.Broker, o broker.Owners)) func(*testing.T, broker.Broker, Options) {
	return func(t *testing.T, b broker.Broker, _ Options) {
		t.Helper()
		o, ok := b.(broker.Owners)
		if !ok {
			t.Fatalf("%T is no broker.Owners", b)
		}
		run(t, b, o)
	}
}

// question is one about three logs of a topic.
func question(topic string) broker.Question {
	return broker.Question{Topic: topic, Logs: []broker.Wanted{{Lane: 0}, {Lane: 3, After: 17}, {Lane: 5, After: 1 << 40, Again: true}}}
}

// owns answers for a topic; what else it is asked it leaves to others.
func owns(topic string, a broker.Answer) broker.Answerer {
	return func(_ context.Context, q broker.Question) (broker.Answer, bool) { return a, q.Topic == topic }
}

// answers runs an answerer until the test ends, or stop is called, which gives what Answer said.
func answers(t *testing.T, o broker.Owners, origin string, a broker.Answerer) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- o.Answer(ctx, origin, a) }()
	stop = sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-done:
			return err
		case <-time.After(patience):
			return errors.New("it does not end")
		}
	})
	t.Cleanup(func() { _ = stop() })
	return stop
}

// heard asks until somebody answers: an answerer is there a while after it was started.
func heard(t *testing.T, o broker.Owners, q broker.Question) broker.Answer {
	t.Helper()
	for began := clock.Start(); ; {
		a, err := asked(t, o, q, short)
		if err == nil {
			return a
		}
		if began.Elapsed() > patience {
			t.Fatalf("asking about %s: %v", q.Topic, err)
		}
	}
}

func asked(t *testing.T, o broker.Owners, q broker.Question, within time.Duration) (broker.Answer, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	return o.Ask(ctx, q)
}

func testOwnerIsHeard(t *testing.T, _ broker.Broker, o broker.Owners) {
	want := broker.Answer{Origin: "b", Logs: []broker.Held{
		{Lane: 0, First: 1}, {Lane: 3, First: 12, Last: 1 << 40, FirstIncarnation: 1, LastIncarnation: 4, Past: history.Log{{ID: 2, First: 13}, {ID: 4, First: 99}}},
	}}
	var got atomic.Pointer[broker.Question]
	answers(t, o, "a", owns("others", broker.Answer{Origin: "a"}))
	answers(t, o, "b", func(_ context.Context, q broker.Question) (broker.Answer, bool) {
		if q.Topic == "orders" {
			got.Store(&q)
		}
		return want, q.Topic == "orders"
	})
	for range 5 {
		if diff := cmp.Diff(want, heard(t, o, question("orders"))); diff != "" {
			t.Fatalf("answer (-want +got):\n%s", diff)
		}
	}
	if diff := cmp.Diff(question("orders"), *got.Load()); diff != "" {
		t.Fatalf("question (-want +got):\n%s", diff)
	}
	if a := heard(t, o, question("others")); a.Origin != "a" {
		t.Fatalf("%+v answers for the topic of a", a)
	}
}

func testNobodyOwns(t *testing.T, _ broker.Broker, o broker.Owners) {
	if _, err := asked(t, o, question("orders"), short); !errors.Is(err, broker.ErrNobody) && !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("without an answerer: %v", err)
	}
	answers(t, o, "a", owns("others", broker.Answer{Origin: "a"}))
	heard(t, o, question("others"))
	if a, err := asked(t, o, question("orders"), short); err == nil {
		t.Fatalf("answered %+v for a topic that nobody owns", a)
	}
}

// testQuestionIsNotKept: who begins to answer later does not hear of it, and no log has it.
func testQuestionIsNotKept(t *testing.T, b broker.Broker, o broker.Owners) {
	_, _ = asked(t, o, question("orders"), short)
	var questions atomic.Int64
	answers(t, o, "a", func(_ context.Context, q broker.Question) (broker.Answer, bool) {
		if q.Topic == "orders" {
			questions.Add(1)
		}
		return broker.Answer{Origin: "a"}, true
	})
	heard(t, o, question("others"))
	if n := questions.Load(); n > 0 {
		t.Fatalf("%d questions of before were kept", n)
	}
	publish(t, b, nil, Messages(Log(0), 1, 1)...)
	if got := tail(t, b, Log(0)); got.Sequence != 1 {
		t.Fatalf("the tail is %+v", got)
	}
}

func testOneOfAnOriginAnswers(t *testing.T, _ broker.Broker, o broker.Owners) {
	var calls, first, second atomic.Int64
	count := func(mine *atomic.Int64) broker.Answerer {
		return func(_ context.Context, q broker.Question) (broker.Answer, bool) {
			if q.Topic == "orders" {
				calls.Add(1)
				mine.Add(1)
			}
			return broker.Answer{Origin: "a"}, true
		}
	}
	stopFirst := answers(t, o, "a", count(&first))
	heard(t, o, question("others"))
	answers(t, o, "a", count(&second))
	askOrders := func(times int) {
		for range times {
			if _, err := asked(t, o, question("orders"), patience); err != nil {
				t.Fatal(err)
			}
		}
	}
	askOrders(20)
	if n := calls.Load(); n != 20 {
		t.Fatalf("20 questions were answered %d times", n)
	}
	if err := stopFirst(); err != nil {
		t.Fatalf("ending one of two: %v", err)
	}
	was := first.Load()
	heard(t, o, question("others")) // by now the second is there
	askOrders(5)
	if first.Load() != was || second.Load() < 5 {
		t.Fatalf("after the first has ended it was asked %d times more, and the other one %d times in all", first.Load()-was, second.Load())
	}
}

func testOneAtATime(t *testing.T, _ broker.Broker, o broker.Owners) {
	var under, most atomic.Int64
	answers(t, o, "a", func(ctx context.Context, q broker.Question) (broker.Answer, bool) {
		if q.Topic != "orders" {
			return broker.Answer{Origin: "a"}, true
		}
		most.Store(max(most.Load(), under.Add(1)))
		defer under.Add(-1)
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
		}
		return broker.Answer{Origin: "a"}, true
	})
	heard(t, o, question("others"))
	var all sync.WaitGroup
	for range 5 {
		all.Go(func() {
			if _, err := asked(t, o, question("orders"), patience); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := most.Load(); n != 1 {
		t.Fatalf("%d questions at a time", n)
	}
}

func testAskContext(t *testing.T, _ broker.Broker, o broker.Owners) {
	block := make(chan struct{})
	answers(t, o, "a", func(ctx context.Context, q broker.Question) (broker.Answer, bool) {
		if q.Topic == "orders" {
			select {
			case <-block:
			case <-ctx.Done():
			}
		}
		return broker.Answer{Origin: "a"}, true
	})
	defer close(block)
	heard(t, o, question("others"))
	began := clock.Start()
	if _, err := asked(t, o, question("orders"), short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the answerer does not answer: %v", err)
	}
	if took := began.Elapsed(); took > patience/2 {
		t.Errorf("Ask took %v", took)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := o.Ask(ctx, question("orders")); err == nil {
		t.Error("asking under an ended context succeeded")
	}
}

// testAskerGivesUp: the answer to who is not there any more goes nowhere, and the next one gets his own.
func testAskerGivesUp(t *testing.T, _ broker.Broker, o broker.Owners) {
	let := make(chan struct{})
	answers(t, o, "a", func(ctx context.Context, q broker.Question) (broker.Answer, bool) {
		if q.Topic == "slow" {
			select {
			case <-let:
			case <-ctx.Done():
			}
		}
		return broker.Answer{Origin: q.Topic}, true
	})
	heard(t, o, question("others"))
	for range 3 {
		_, _ = asked(t, o, question("slow"), short/3)
	}
	close(let)
	for i := range 5 {
		topic := fmt.Sprint("topic-", i)
		if a := heard(t, o, question(topic)); a.Origin != topic {
			t.Fatalf("the question about %s is answered with %s", topic, a.Origin)
		}
	}
}

func testAnswerContext(t *testing.T, _ broker.Broker, o broker.Owners) {
	stop := answers(t, o, "a", owns("orders", broker.Answer{Origin: "a"}))
	heard(t, o, question("orders"))
	if err := stop(); err != nil {
		t.Fatalf("Answer ended with %v", err)
	}
	if a, err := asked(t, o, question("orders"), short); err == nil {
		t.Fatalf("answered %+v after that", a)
	}
}

func testCloseEndsAnswer(t *testing.T, b broker.Broker, o broker.Owners) {
	done := make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	go func() { done <- o.Answer(ctx, "a", owns("orders", broker.Answer{Origin: "a"})) }()
	heard(t, o, question("orders"))
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, broker.ErrClosed) {
		t.Errorf("Answer ended with %v", err)
	}
	if _, err := asked(t, o, question("orders"), short); !errors.Is(err, broker.ErrClosed) {
		t.Errorf("Ask answers %v", err)
	}
}
