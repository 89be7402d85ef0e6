package outbox_test

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/mainstay-io/mainstay/outbox"
)

// TestLane_IsKafkas holds the hash of Kafka's Java client, by its lanes: with 2^31-1 of them a lane is the hash itself.
func TestLane_IsKafkas(t *testing.T) {
	t.Parallel()
	for key, hash := range map[string]int32{
		"21":                         -973932308,
		"foobar":                     -790332482,
		"a-little-bit-long-string":   -985981536,
		"a-little-bit-longer-string": -1486304829,
		"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
		"abc": 479470107,
	} {
		for _, n := range []int{1, 4, 16, 1<<31 - 1} {
			if want, got := int(uint32(hash)&0x7fffffff)%n, outbox.Lane(key, n); want != got {
				t.Errorf("lane of %q among %d: got %d, want %d", key, n, got, want)
			}
		}
	}
}

func TestLane_IsInRange(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		key, n := rapid.String().Draw(t, "key"), rapid.IntRange(1, 1024).Draw(t, "lanes")
		if lane := outbox.Lane(key, n); lane < 0 || lane >= n || lane != outbox.Lane(strings.Clone(key), n) {
			t.Fatalf("lane %d of %d", lane, n)
		}
	})
}
