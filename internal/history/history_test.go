package history_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mainstay-io/mainstay/internal/history"
)

func TestLog_TellsWhatCounts(t *testing.T) {
	t.Parallel()
	log := history.Log{{ID: 2, First: 100}, {ID: 4, First: 50}}
	for _, test := range []struct {
		incarnation, sequence int64
		has, stale            bool
		next                  int64
	}{
		{1, 40, true, false, 41},
		{1, 49, true, false, 50},
		{1, 50, false, true, 50},  // goes on in the last one, where that begins
		{1, 120, false, true, 50}, // and so does who was ahead
		{2, 110, false, true, 50},
		{4, 50, true, false, 51},
		{4, 49, false, false, 50},
		{5, 60, false, false, 61},
	} {
		if got := log.Has(test.incarnation, test.sequence); got != test.has {
			t.Errorf("has %+v: %v", test, got)
		}
		if got := log.Stale(test.incarnation, test.sequence); got != test.stale {
			t.Errorf("stale %+v: %v", test, got)
		}
		if got := log.Next(test.incarnation, test.sequence); got != test.next {
			t.Errorf("next of %+v: %d", test, got)
		}
	}
	if none := history.Log(nil); !none.Has(7, 7) || none.Next(1, 3) != 4 {
		t.Error("a log without incarnations takes everything")
	}
}

func TestLog_With(t *testing.T) {
	t.Parallel()
	var log history.Log
	for _, i := range []history.Incarnation{{ID: 4, First: 9}, {ID: 2, First: 5}, {ID: 4, First: 9}, {ID: 3, First: 7}} {
		log = log.With(i)
	}
	if diff := cmp.Diff(history.Log{{ID: 2, First: 5}, {ID: 3, First: 7}, {ID: 4, First: 9}}, log); diff != "" {
		t.Errorf("with (-want +got):\n%s", diff)
	}
}
