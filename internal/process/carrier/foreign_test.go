package carrier_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/broker"
	"github.com/mainstay-io/mainstay/internal/process"
	"github.com/mainstay-io/mainstay/internal/process/carrier"
)

// electing is a broker that gives no answer to the first questions, as a cluster that elects.
type electing struct {
	broker.Publisher
	broker.Owners
	silent, asked int
}

func (e *electing) Tail(ctx context.Context, _ mainstay.TopicLane) (broker.Tail, error) {
	if e.asked++; e.asked <= e.silent {
		<-ctx.Done()
		return broker.Tail{}, ctx.Err()
	}
	return broker.Tail{Origin: named{}.Origin()}, nil
}

// TestForeign_AsksAgain where the first answers never come, and not for ever.
func TestForeign_AsksAgain(t *testing.T) {
	t.Parallel()
	for silent, ok := range map[int]bool{0: true, 2: true, 1000: false} {
		synctest.Test(t, func(t *testing.T) {
			began, e := time.Now(), &electing{silent: silent}
			c := &carrier.Carrier{Publisher: e, Owners: e}
			err := c.Foreign(t.Context(), app.Config{Broker: "nats://h"}, &process.Database{Store: named{}}, []string{"t"})
			if took := time.Since(began); (err == nil) != ok || took > 21*time.Second {
				t.Errorf("%d lost: %v after %v", silent, err, took)
			}
		})
	}
}
