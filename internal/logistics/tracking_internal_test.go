package logistics

import (
	"strings"
	"testing"

	"github.com/google/uuid"
)

func TestTracking_StandsBesideThatOfTheOrderBefore(t *testing.T) {
	t.Parallel()
	first, second := uuid.Must(uuid.NewV7()).String(), uuid.Must(uuid.NewV7()).String()
	for _, order := range []string{first, "o-1"} {
		if a, b := tracking(order, "FR"), tracking(order, "FR"); a != b || !strings.HasPrefix(a, "FR") || len(a) < 16 {
			t.Errorf("order %s has the numbers %s and %s", order, a, b)
		}
	}
	const time = len("FR") + 12
	if a, b := tracking(first, "FR"), tracking(second, "FR"); a == b || a[:time] > b[:time] {
		t.Errorf("%s was placed before %s, and their numbers are %s and %s", first, second, a, b)
	}
}
