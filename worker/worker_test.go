package worker_test

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/worker"
)

func TestEach_StopsAtTheFirstFailure(t *testing.T) {
	t.Parallel()
	bad := errors.New("bad")
	var seen []string
	h := worker.Each(mainstay.HandlerFunc(func(_ context.Context, _ mainstay.Tx, m *mainstay.Message) error {
		seen = append(seen, m.Key)
		if m.Key == "b" {
			return bad
		}
		return nil
	}))
	errs, err := h.HandleBatch(t.Context(), nil, []*mainstay.Message{{Key: "a"}, {Key: "b"}, {Key: "c"}})
	if !errors.Is(err, bad) || errs != nil {
		t.Fatalf("got %v, %v; want the whole batch to fail", errs, err)
	}
	if diff := cmp.Diff([]string{"a", "b"}, seen); diff != "" {
		t.Fatal(diff)
	}
}

func TestOpen_RefusesWrongRegistrations(t *testing.T) {
	t.Parallel()
	h := worker.Each(mainstay.HandlerFunc(nil))
	for name, register := range map[string]func(w *worker.Worker){
		"two of a name": func(w *worker.Worker) {
			w.Handle("c", []string{"a"}, h)
			w.Handle("c", []string{"b"}, h)
		},
		"no topic":    func(w *worker.Worker) { w.Handle("c", nil, h) },
		"no commands": func(w *worker.Worker) { w.Participate("c", "a", nil) },
		"no handler":  func(w *worker.Worker) { w.Handle("c", []string{"a"}, nil) },
	} {
		w := worker.New(worker.Config{})
		register(w)
		if err := w.Open(); err == nil {
			t.Errorf("%s: no error", name)
		}
		if err := w.Run(t.Context()); err == nil {
			t.Errorf("%s: Run has no error", name)
		}
	}
}
