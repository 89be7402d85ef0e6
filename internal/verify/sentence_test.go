package verify

import "testing"

func TestSentence(t *testing.T) {
	t.Parallel()
	const format = "%d {order|orders}: {it is|they are} here; %d {message is|messages are} parked"
	for want, numbers := range map[string][]int64{
		"1 order: it is here; 0 messages are parked":     {1, 0},
		"2 orders: they are here; 1 message is parked":   {2, 1},
		"0 orders: they are here; 2 messages are parked": {0, 2},
	} {
		if got := sentence(format, numbers); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
