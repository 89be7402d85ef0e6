package order_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mainstay-io/mainstay/internal/order"
)

// waiters runs a registry over a set of orders that have ended, inside a synctest bubble.
func waiters(t *testing.T) (ws *order.Waiters, end func(id string), asked *atomic.Int64) {
	t.Helper()
	var mu sync.Mutex
	done := map[string]bool{}
	asked = &atomic.Int64{}
	ws = order.NewWaiters(func(_ context.Context, ids []string) ([]string, error) {
		asked.Add(1)
		mu.Lock()
		defer mu.Unlock()
		if done["broken"] {
			return nil, errors.New("no database")
		}
		return slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return !done[id] }), nil
	}, 0)
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := ws.Run(ctx, nil); err != nil {
			t.Errorf("Run ended with %v", err)
		}
	})
	t.Cleanup(func() { stop(); running.Wait() })
	return ws, func(id string) { mu.Lock(); done[id] = true; mu.Unlock() }, asked
}

func TestWaiters_ManyCostOnePoller(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ws, end, asked := waiters(t)
		var wg sync.WaitGroup
		for i := range 400 {
			wg.Go(func() {
				if err := ws.Wait(t.Context(), fmt.Sprint(i%200), nil); err != nil {
					t.Error(err)
				}
			})
		}
		time.AfterFunc(time.Second, func() {
			for i := range 200 {
				end(fmt.Sprint(i))
			}
		})
		wg.Wait()
		if n := asked.Load(); n < 30 || n > 45 {
			t.Fatalf("asked %d times in a second", n)
		}
		before := asked.Load()
		time.Sleep(time.Minute) // of the bubble's own time
		if n := asked.Load() - before; n > 1 {
			t.Fatalf("asked %d times for nobody", n)
		}
	})
}

func TestWaiters_Poke(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ws, _, _ := waiters(t)
		start := time.Now()
		time.AfterFunc(time.Millisecond, func() { ws.Poke([]string{"other", "a"}) })
		if err := ws.Wait(t.Context(), "a", nil); err != nil || time.Since(start) != time.Millisecond {
			t.Fatalf("%v after %v", err, time.Since(start))
		}
	})
}

func TestWaiters_Deadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ws, _, _ := waiters(t)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := ws.Wait(ctx, "a", nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
	})
}

func TestWaiters_PassOnErrors(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ws, end, _ := waiters(t)
		end("broken")
		if err := ws.Wait(t.Context(), "a", nil); err == nil {
			t.Fatal("nobody could know")
		}
	})
}

func TestWaiters_EndLetsEverybodyGo(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(ws *order.Waiters, stop func()){
		"run has ended": func(_ *order.Waiters, stop func()) { stop() },
		"closed":        func(ws *order.Waiters, stop func()) { ws.Close(); synctest.Wait(); stop() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ws := order.NewWaiters(func(context.Context, []string) ([]string, error) { return nil, nil }, 0)
				ctx, stop := context.WithCancel(t.Context())
				var running, waiting sync.WaitGroup
				running.Go(func() { _ = ws.Run(ctx, nil) })
				waiting.Go(func() {
					if err := ws.Wait(t.Context(), "a", nil); err != nil {
						t.Error(err)
					}
				})
				synctest.Wait()
				end(ws, stop)
				waiting.Wait()
				running.Wait()
				if err := ws.Wait(t.Context(), "b", nil); err != nil {
					t.Fatal(err)
				}
			})
		})
	}
}

// TestWaiters_AskAtOnceWhenThereIsNews: with rare polling, news of another process ends the wait at once.
func TestWaiters_AskAtOnceWhenThereIsNews(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var ended atomic.Bool
		ws := order.NewWaiters(func(_ context.Context, ids []string) ([]string, error) {
			if ended.Load() {
				return ids, nil
			}
			return nil, nil
		}, time.Hour)
		news := make(chan struct{}, 1)
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = ws.Run(ctx, news) })
		time.AfterFunc(time.Minute, func() { ended.Store(true); news <- struct{}{} })
		began := time.Now()
		if err := ws.Wait(ctx, "x", nil); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took != time.Minute {
			t.Errorf("waited %v", took)
		}
		stop()
		running.Wait()
	})
}
